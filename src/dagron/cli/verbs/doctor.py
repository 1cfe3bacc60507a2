"""`dagron doctor`: what this machine and a directory on it offer, found out by trying."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from dagron.cli.command import argument, json_option, verb
from dagron.cli.ending import put, stop_on_signals
from dagron.cli.exit_codes import ExitCode
from dagron.cli.machine import examine
from dagron.cli.terminal import styled

__all__ = ["doctor"]

_EPILOG = """Exit codes:

\b
    0  a run works here; there may be warnings
    1  something that a run needs does not work

Examples:

\b
  dagron doctor
  dagron doctor /scratch/jobs
  dagron doctor --json | jq -r '.[] | select(.verdict != "ok") | .text'
"""


@verb(_EPILOG)
@argument(
    "directory",
    "[DIR]",
    "Where checkpoints are to be. Default: here.",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
)
@json_option
def doctor(directory: Path, as_json: bool) -> ExitCode:
    """Find out what this machine offers: processors, memory, cost of a flush, locks, and whether a small run works.

    Writes to a temporary directory below DIR, and deletes it again.
    """
    stop_on_signals()
    checks = examine(directory.absolute())
    if as_json:
        put(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        colours = {"ok": "32", "warn": "33", "bad": "1;31"}
        put("\n".join(f"{styled(f'{c.verdict:<4}', colours[c.verdict])}  {c.name:<10}  {c.text}" for c in checks))
    return ExitCode.NODES if any(check.verdict == "bad" for check in checks) else ExitCode.OK
