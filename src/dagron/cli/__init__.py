"""The command line: `dagron`, or `python -m dagron`. One module per verb; importing it imports click and no verb."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from dagron import __version__
from dagron.cli.command import EXIT_CODES
from dagron.cli.program import remember_program

__all__ = ["app", "main"]

_EPILOG = f"""Examples:

\b
  dagron run job.py
  dagron run job.py --resume -w 8
  dagron run dagron.jobs.stdlib_analysis --show report > report.txt
  dagron status job.py --watch
  dagron ls job.py --sort duration --limit 10
  dagron report job.py -o report.html

Completion of commands, options and files, as your shell loads it by itself:

\b
  dagron --show-completion bash > ~/.local/share/bash-completion/completions/dagron
  dagron --show-completion fish > ~/.config/fish/completions/dagron.fish
  dagron --show-completion zsh > ~/.zfunc/_dagron    # ~/.zfunc being in $fpath

{EXIT_CODES}"""

_SECTIONS = {
    "Running": {
        "run": "Run the DAG of a file or a module, and checkpoint every node.",
        "debug": "Run a node again in this process, with its recorded inputs.",
    },
    "Looking": {
        "status": "Show how a checkpoint stands; --watch shows a run live.",
        "ls": "List the nodes of a checkpoint with their figures.",
        "show": "Show a node: figures, result, traceback, what it printed.",
        "verify": "Compare every digest of a checkpoint.",
    },
    "Changing": {
        "invalidate": "Make results not count, so that the next resume makes them again.",
        "prune": "Make a checkpoint smaller: drop what no resume needs.",
        "clear": "Delete a checkpoint.",
    },
    "Writing": {
        "graph": "Draw the DAG: Mermaid, DOT, SVG.",
        "trace": "Write a timeline for https://ui.perfetto.dev.",
        "report": "Write a page about a checkpoint for a browser.",
        "export": "Write the figures of every node as CSV or JSON.",
    },
    "This machine": {
        "doctor": "Find out what this machine offers for a run.",
    },
}
"""Each command, a name in a module of that name, and what the list of commands says of it."""

_VERBS = {name: about for section in _SECTIONS.values() for name, about in section.items()}

_ALSO_CALLED = {"rerun": "invalidate"}
"""What people who come from other tools type for a command. Works, and is listed nowhere."""

_COMPLETION = "_DAGRON_COMPLETE"
"""The variable by which a shell asks for completions."""

_SHELLS = ("bash", "zsh", "fish")


class _Verbs(click.Group):
    """Loads a command when it is needed: all of them would take as long again as the rest of a start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _ALSO_CALLED.get(cmd_name, cmd_name)
        if cmd_name not in _VERBS:
            return None
        command = getattr(importlib.import_module(f"dagron.cli.verbs.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in (*_VERBS, *_ALSO_CALLED) and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], _VERBS)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _VERBS))
        for title, verbs in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", about) for name, about in verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=about) for name, about in _VERBS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _print_completion(ctx: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is None:
        return
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.command, {}, "dagron", _COMPLETION).source())
    ctx.exit()


@click.group(
    name="dagron",
    cls=_Verbs,
    epilog=_EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="dagron", message="%(prog)s %(version)s")
@click.option(
    "--show-completion",
    type=click.Choice(_SHELLS),
    is_eager=True,
    expose_value=False,
    callback=_print_completion,
    help="Print what makes a shell complete commands, and exit.",
)
@click.pass_context
def app(context: click.Context) -> None:
    """Run a DAG of CPU-bound Python tasks on worker processes; checkpoint every node; survive kill -9."""
    remember_program(context)


def main() -> Any:
    """Run the command of `sys.argv` and exit with its code; `exit_codes.MEANINGS` lists them."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        # A result with a character that the terminal lacks is shown with an escape, not lost after a long run.
        sys.stdout.reconfigure(errors="backslashreplace")
    app.main(complete_var=_COMPLETION)
