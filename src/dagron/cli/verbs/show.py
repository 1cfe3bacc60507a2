"""`dagron show`: all that a checkpoint knows about one node."""

from __future__ import annotations

import json
from dataclasses import asdict

from dagron.cli.command import json_option, node_argument, option, untrusted_option, verb, where_argument
from dagron.cli.details import details_of, shown_details
from dagron.cli.ending import put
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.place import Where
from dagron.cli.program import as_called
from dagron.looking.opening import directory_of

__all__ = ["show"]

_EPILOG = """Examples:

\b
  dagron show checkpoints/job total
  dagron show job.py 'count[3]' --full
  dagron show job.py report --unpickle --value > report.txt
  dagron show job.py bad --json | jq -r .traceback
"""


@verb(_EPILOG)
@where_argument
@node_argument
@option("--value", is_flag=True, help="Print the result and nothing else.")
@option("--full", is_flag=True, help="Do not shorten the result, the traceback and what was printed.")
@option("--unpickle", is_flag=True, help="Load the result, which runs code that it names. Default: run none.")
@untrusted_option
@json_option
def show(
    where: Where, node: str, value: bool, full: bool, unpickle: bool, allow_untrusted: bool, as_json: bool
) -> ExitCode:
    """Show a node: its state, figures and result, what it printed last, and if it failed its inputs and the traceback.

    Reads from outside, also while a run goes on. The result is shown without running any code that it names, so that a
    checkpoint from elsewhere can be looked at; classes and functions appear by their names. Exit code 2 if there is no
    such node, also if --value finds no result, and 3 if the result is damaged, or cannot be loaded with --unpickle.
    """
    if unpickle:
        from dagron.checkpoint.writing.claim import check_trust

        check_trust(directory_of(where), allow_untrusted=allow_untrusted)
    details = details_of(where, node, full=full or (value and not unpickle), unpickle=unpickle, plain=value)
    if value:
        if not details.value:
            raise UsageError(f"node {node!r} has no result: it is {details.figures.state.label}")
        put(details.value)
    elif as_json:
        fields = asdict(details)
        put(json.dumps({**fields.pop("figures"), **fields}, indent=1))
    else:
        put(as_called(shown_details(details, full=full)))
    return ExitCode.OK
