"""`dagron verify`: compare every digest of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict

from dagron.checkpoint.reading.opening import signing_key
from dagron.checkpoint.reading.verify import Finding
from dagron.checkpoint.reading.verify import verify as findings_in
from dagron.cli.command import json_option, verb, where_argument
from dagron.cli.ending import put, stop_on_signals
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Where
from dagron.cli.reading import read_checkpoint
from dagron.looking.opening import directory_of
from dagron.shown import shown_bytes, shown_name

__all__ = ["verify"]

_EPILOG = """Exit codes:

\b
    0  everything that was recorded is there and as it was
    1  something is damaged or missing
    3  there is no checkpoint, or none that can be read

Examples:

\b
  dagron verify checkpoints/job
  dagron verify job.py --json | jq -r '.findings[].node'
"""


@verb(_EPILOG)
@where_argument
@json_option
def verify(where: Where, as_json: bool) -> ExitCode:
    """Compare the digest of every result, and every record of the journal, with what was written.

    Reads from outside, changes nothing and loads no result. What is damaged costs its node and nothing else: the next
    resume runs it again. While a run goes on, what it replaces meanwhile may be reported as damaged.
    """
    stop_on_signals()
    ledger = read_checkpoint(where)
    found = [finding for finding in findings_in(directory_of(where), ledger, signing_key()) if finding is not None]
    n, size = len(ledger.commits), sum(commit.size for commit in ledger.commits.values())
    if as_json:
        fields = {"n_results": n, "result_bytes": size, "findings": [asdict(finding) for finding in found]}
        put(json.dumps({"checkpoint_dir": where.shown, **fields}, indent=1))
    else:
        put("\n".join([*map(_shown, found), _summary(found, n, size)]))
    return ExitCode.NODES if found else ExitCode.OK


def _shown(finding: Finding) -> str:
    what = f"node {shown_name(finding.node)}: {finding.file}" if finding.node else finding.file
    return f"{what}: {finding.reason}"


def _summary(found: list[Finding], n: int, size: int) -> str:
    if not found:
        return f"{n} results, {shown_bytes(size)}: all as they were written"
    lost = sum(finding.costs for finding in found)
    return (
        f"{len(found)} findings in {n} results, {shown_bytes(size)}; {lost} cost a result, which a resume makes again"
    )
