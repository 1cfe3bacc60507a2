"""What a verb is made of: a click command whose help has sections, whose errors become exit codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from dagron.cli.ending import exit_code_of_work
from dagron.cli.exit_codes import MEANINGS, ExitCode
from dagron.cli.place import WhereType

__all__ = [
    "EXIT_CODES",
    "TARGET",
    "Seconds",
    "Verb",
    "argument",
    "dag_option",
    "hands_on",
    "json_option",
    "node_argument",
    "option",
    "parameter_option",
    "untrusted_option",
    "verb",
    "where_argument",
]

EXIT_CODES = "Exit codes:\n\n\b\n" + "".join(f"  {code.value:>3}  {meaning}\n" for code, meaning in MEANINGS.items())
"""Every exit code and its meaning, for the end of a help text; \b keeps a paragraph as it is."""


class _Argument(click.Argument):
    """An argument with a help text, which click's own have since 8.5 only."""

    def __init__(self, *declarations: Any, about: str, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.about = about


class _Option(click.Option):
    """An option that is listed under a title of its own."""

    def __init__(self, *declarations: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.section = section


class _Target(click.Path):
    """A text for which a shell completes the names of files, though it may be something else."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as it is: it need not be a path that a system call takes."""
        return value


TARGET = _Target()


class Seconds(click.FloatRange):
    """A finite number of seconds: above 0, or with `zero` also 0."""

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__(min=0, min_open=not zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a finite number of seconds.", param, ctx)
        return seconds


class Verb(click.Command):
    """A command whose callback returns an exit code, and whose errors lead to one.

    Attributes:
        hands_on: Whether what follows `--` is for the job, and its callback gets that as `arguments`.
    """

    hands_on = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is before `--`, if what is after it is for the job."""
        if not self.hands_on:
            return super().parse_args(ctx, args)
        end = args.index("--") if "--" in args else len(args)
        rest = tuple(args[end + 1 :])
        try:
            left = super().parse_args(ctx, args[:end])
        except click.UsageError as error:
            if end == len(args) and (isinstance(error, click.NoSuchOption) or "extra argument" in error.message):
                text = f"{error.format_message()} What is for the job comes after `--`."
                raise click.UsageError(text, ctx) from error
            raise
        ctx.params["arguments"] = rest
        return left

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what the line of usage has after the name."""
        return super().collect_usage_pieces(ctx) + (["[-- ARGUMENTS]"] if self.hands_on else [])

    def invoke(self, ctx: click.Context) -> Any:
        """Carry the command out and exit."""
        ctx.exit(exit_code_of_work(lambda: super(Verb, self).invoke(ctx)))

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help: arguments, then options under their titles, whichever version of click there is."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, _Argument):
                sections.setdefault("Arguments", []).append((parameter.metavar or "", parameter.about))
            elif (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        if self.hands_on:
            about = "What the job finds in sys.argv, as if it had been started with it."
            sections.setdefault("Arguments", []).append(("-- ARGUMENTS", about))
        sections["Options"] = sections.pop("Options")  # the last one: those that are like those of other commands
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_epilog(ctx, formatter)


def verb(epilog: str) -> Callable[[Callable[..., ExitCode]], Verb]:
    """Make a command of a function, which carries it out; its docstring is the help.

    Args:
        epilog: Examples, and whatever else stands at the end of the help. What all exit codes mean is added, unless it
            has its own list of them.
    """
    if "Exit codes" not in epilog:
        epilog = f"{epilog}\n{EXIT_CODES}"
    return click.command(cls=Verb, epilog=epilog)


def argument(name: str, metavar: str, about: str, **attributes: Any) -> Callable[[Any], Any]:
    """Declare an argument; a shell completes names of files, unless a `type` says otherwise."""
    return click.argument(name, cls=_Argument, metavar=metavar, about=about, **{"type": TARGET, **attributes})


def option(*declarations: str, **attributes: Any) -> Callable[[Any], Any]:
    """Declare an option as click does; `section` is the title under which the help lists it."""
    return click.option(*declarations, cls=_Option, **attributes)


def hands_on(command: Verb) -> Verb:
    """Have a command give what follows `--` to the job."""
    command.hands_on = True
    return command


class _Parameter(click.ParamType[tuple[str, str]]):
    """A parameter of the function that makes the flow."""

    name = "parameter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return its name and its text."""
        from dagron.cli.factory import parse_parameter

        try:
            return parse_parameter(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


parameter_option = option(
    "--param",
    "-p",
    "parameters",
    type=_Parameter(),
    metavar="NAME=VALUE",
    multiple=True,
    help="Call the function that TARGET names, as job.py:make, with this. May be repeated.",
)

node_argument = argument("node", "NODE", "The name of the node.", type=str)

where_argument = argument(
    "where",
    "DIR",
    "The checkpoint directory; or the TARGET of a run, for the directory that it has without -d.",
    type=WhereType(),
)

json_option = option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

dag_option = option(
    "--dag",
    "dag_from",
    metavar="TARGET",
    type=TARGET,
    help="Take the DAG from a file or module as `dagron run` does, with what the last run gave it. Default: the one "
    "that the checkpoint recorded.",
)

untrusted_option = option(
    "--allow-untrusted",
    is_flag=True,
    help="Accept a checkpoint that another user owns or that everyone may write.",
)
