"""Kill a real run again and again, and check what is left: `python -m dagron.testing.kill_campaign`. See `campaign`."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence

from dagron.testing.campaign import Options, run_campaign, work_directory

__all__ = ["main"]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dagron.testing.kill_campaign",
        description="Kill a real run with SIGKILL at random moments, resume it, and check what dagron promises.",
        epilog="Exit code: 0 if every check held, 1 with the evidence if not, 2 for bad options.",
    )
    default = Options()
    parser.add_argument("--kills", type=_positive, default=default.kills, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, metavar="N", help="default: a random one, which is reported")
    parser.add_argument(
        "--share",
        type=_positive,
        default=default.share,
        metavar="N",
        help="analyse every N-th file of the standard library; default: %(default)s",
    )
    parser.add_argument("--workers", type=_positive, default=default.workers, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--durability",
        choices=["power", "process", "both"],
        default=default.durability,
        help="both: one round after the other; default: %(default)s",
    )
    parser.add_argument(
        "--directory", help="where to work, and leave what there is; default: a temporary one, kept on failure"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else")
    return parser


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign as the command line says; return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if sys.platform != "linux":
        parser.error("it needs Linux: elsewhere what a task has detached may outlive a killed coordinator")
    if given.directory is not None:
        try:
            work_directory(given.directory)
        except OSError as error:
            parser.error(f"argument --directory: {error}")
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    options = Options(given.kills, seed, given.share, given.workers, given.durability, given.directory)
    if not given.json:
        _print(f"seed {seed}: {options.kills} kills, {options.workers} workers, durability {options.durability}")
    report = run_campaign(options, (lambda line: None) if given.json else _print)
    if given.json:
        _print(json.dumps(report.as_json(), indent=1))
    else:
        for line in report.lines():
            _print(line)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
