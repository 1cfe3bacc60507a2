"""`dagron status`: how a checkpoint stands, once or until its run has ended."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import click

from dagron.cli.command import json_option, option, verb, where_argument
from dagron.cli.ending import put
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Where
from dagron.cli.reading import read_checkpoint, status_now
from dagron.looking.status import shown_status

__all__ = ["status"]

_EPILOG = """Examples:

\b
  dagron status checkpoints/job
  dagron status job.py --watch
  dagron status job.py --json | jq .completed
"""


@verb(_EPILOG)
@where_argument
@json_option
@option("--watch", "watched", is_flag=True, help="Show it live, until the run ends; exit code 1 if a node has failed.")
@option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    metavar="S",
    default=1.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
def status(where: Where, as_json: bool, watched: bool, interval: float) -> ExitCode:
    """Show how a checkpoint stands.

    Reads it from outside, also while a run is writing it; changes nothing, and loads no result.
    """
    if watched:
        from dagron.cli.watch import watch

        return watch(where, interval, as_json=as_json)
    found = status_now(read_checkpoint(where), where)
    put(json.dumps(asdict(found), indent=1) if as_json else shown_status(found, sys.stdout.encoding, time.time()))
    return ExitCode.OK
