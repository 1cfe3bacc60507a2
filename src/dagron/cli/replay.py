"""Run one node in this process, with the inputs that a checkpoint has for it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import signing_key
from dagron.cli.ending import say, tell
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.place import Place
from dagron.cli.terminal import NOT_FOR_A_LINE
from dagron.looking.opening import directory_of
from dagron.results.reasons import shown_error
from dagron.shown import iso_time, shown_name, shown_seconds

if TYPE_CHECKING:
    from dagron.checkpoint.blobs import Blob
    from dagron.checkpoint.format.commits import Commit
    from dagron.cli.load import Job
    from dagron.tasks.binding import Binding

__all__ = ["Call", "announce", "call_init", "prepared_call", "run_call"]


class Call(NamedTuple):
    """What a node is about to do.

    Attributes:
        node: Its name.
        fn: Its callable.
        binding: How that takes its inputs.
        inputs: The recorded results of the parents that it takes.
        notes: What the user should know of them.
    """

    node: str
    fn: Any
    binding: Binding
    inputs: list[Any]
    notes: list[str]


def prepared_call(where: Place, ledger: Ledger, name: str, job: Job, *, allow_untrusted: bool = False) -> Call:
    """Load the recorded inputs of a node. Unpickling them runs code that they name.

    Args:
        where: The checkpoint.
        ledger: What its journal says.
        name: The node.
        job: The DAG and the tasks as they are now.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Raises:
        UsageError: The job has no such node.
        TaskDefinitionError: The node has no task, or one that does not fit.
        CheckpointError: An input is not recorded, is damaged or cannot be loaded, or the checkpoint is not to be
            trusted.
    """
    from dagron.checkpoint.blobs import load_result
    from dagron.checkpoint.format.digests import Digests
    from dagron.checkpoint.writing.claim import check_trust
    from dagron.crossing.loading import load_result_of
    from dagron.results.patterns import no_such_node
    from dagron.runs.plan import bind_node

    dag = job.dag
    if name not in dag:
        raise UsageError(no_such_node(name, list(dag.nodes)).replace("the checkpoint knows", "the job has", 1))
    fn, binding = bind_node(dag, job.tasks, name)
    parents = dag.parents(name)
    directory = directory_of(where)
    check_trust(directory, allow_untrusted=allow_untrusted)
    inputs: list[Any] = []
    notes: list[str] = []
    for position in binding.consumed:
        commit = _recorded(ledger, parents[position], notes, str(directory.path))
        data = load_result(directory, commit, Digests(signing_key()))
        inputs.append(load_result_of(commit.name, data, str(directory.path)))
    return Call(name, fn, binding, inputs, notes)


def _recorded(ledger: Ledger, parent: str, notes: list[str], directory: str) -> Commit:
    from dagron.errors import ResultNotKeptError, ResultUnavailableError

    commit = ledger.commits.get(parent)
    if commit is not None:
        return commit
    if parent in ledger.dropped:
        raise ResultNotKeptError(parent, directory)
    commit = ledger.stale.get(parent)
    if commit is not None:
        notes.append(f"the result of {shown_name(parent)} no longer applies; a resume would make it again first")
        return commit
    how = "it failed" if parent in ledger.failures else "it has not completed"
    raise ResultUnavailableError(parent, f"{how} in this checkpoint, so there is nothing to call the node with")


def announce(call: Call, ledger: Ledger, where: Place) -> None:
    """Say on standard error which node is about to run, with which inputs, and how it ended before."""
    from dagron.tasks.shown_inputs import shown_inputs

    say(
        f"running node {shown_name(call.node)} in this process ({os.getpid()}), with the inputs recorded in "
        f"{shown_name(where.shown)}; nothing is written there, and no timeout or limit applies"
    )
    for name, text in shown_inputs(call.binding, call.fn, call.inputs):
        say(f"  {shown_name(name)} = {shown_name(text)}" if name != "..." else f"  ... and {text}")
    for note in call.notes:
        say(f"note: {note}")
    say(f"recorded: {_recorded_end(ledger, call.node)}")


def _recorded_end(ledger: Ledger, name: str) -> str:
    commit = ledger.completed_commit(name)
    if commit is None and (failure := ledger.failures.get(name)) is not None:
        return f"it failed with {shown_error(failure.type, failure.message)}"
    if commit is not None:
        return f"it completed in {shown_seconds(commit.figures.duration_seconds)}"
    if (stale := ledger.stale.get(name)) is not None:
        took = shown_seconds(stale.figures.duration_seconds)
        return f"a result that no longer applies, made in {took}; the next resume makes it again"
    if name in ledger.lost:
        return "a result that was damaged or lost; the next resume makes it again"
    return "nothing; it has not run"


def call_init(init: Callable[[], object], *, post_mortem: bool) -> bool:
    """Call what each worker of a run calls first, and return whether that went well; else it has been told.

    Args:
        init: What is to be called.
        post_mortem: Open the debugger if it fails.
    """
    started = time.perf_counter()
    try:
        init()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _tell(error, time.perf_counter() - started)
        if post_mortem:
            _post_mortem(error)
        return False
    return True


def run_call(call: Call, ledger: Ledger, *, post_mortem: bool) -> ExitCode:
    """Run a node, compare its result with the recorded one, and tell what came of it.

    Args:
        call: The node and its inputs.
        ledger: What the checkpoint has.
        post_mortem: Open the debugger if the node fails.
    """
    from bdb import BdbQuit

    from dagron.tasks.shown_inputs import shown_value

    started = time.perf_counter()
    try:
        with _as_attempt(call.node):
            value = call.binding.call(call.fn, call.inputs)
    except KeyboardInterrupt:
        raise
    except BdbQuit:
        say("left by the debugger")
        return ExitCode.NODES
    except BaseException as error:
        _tell(error, time.perf_counter() - started)
        if post_mortem:
            _post_mortem(error)
        return ExitCode.NODES
    seconds = time.perf_counter() - started
    say(f"completed in {shown_seconds(seconds)}: {shown_name(shown_value(value))}")
    return _compare(call.node, value, ledger)


@contextmanager
def _as_attempt(name: str) -> Iterator[None]:
    """Let the task know where it is, with a directory that goes with the call: nothing of the checkpoint is touched."""
    from dagron.tasks.current import CurrentAttempt, within

    with (
        tempfile.TemporaryDirectory(prefix="dagron-debug-") as directory,
        within(CurrentAttempt(name, 1, iso_time(time.time()), 0, lambda: directory)),
    ):
        yield


def _compare(name: str, value: Any, ledger: Ledger) -> ExitCode:
    """Pickle a result as a worker would, as that may be what failed, and compare it with the recorded one."""
    from dagron.checkpoint.format.digests import Digests
    from dagron.crossing.results import dump_result
    from dagron.errors import ResultNotPicklableError, ResultNotWrittenError

    with tempfile.TemporaryDirectory(prefix="dagron-debug-") as directory:
        try:
            blob = dump_result(name, value, Path(directory), Digests(signing_key()), durable=False)
        except (ResultNotPicklableError, ResultNotWrittenError) as error:
            say(f"error: {error}")
            return ExitCode.NODES
    commit = ledger.completed_commit(name)
    if commit is None:
        _compare_with_former(blob, ledger.stale.get(name) or ledger.lost.get(name))
    elif commit.digest == blob.digest:
        say("the result is the recorded one, byte for byte")
    elif commit.has_equal_result(blob.digest, blob.value_digest):
        say("the result is the recorded one; its pickle has other bytes, as the order in sets")
    else:
        say(f"the result differs from the recorded one: {blob.size} bytes pickled, recorded were {commit.size}")
    return ExitCode.OK


def _compare_with_former(blob: Blob, former: Commit | None) -> None:
    """Compare a result with one that no longer counts, which is not the recorded one."""
    if former is None:
        say("a resume would record this result")
    elif former.has_equal_result(blob.digest, blob.value_digest):
        say("a resume would record this result; it equals the one that no longer applies")
    else:
        say(
            "a resume would record this result; it differs from the one that no longer applies: "
            f"{blob.size} bytes pickled, that had {former.size}"
        )


def _own_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback without the frames that are ours, down to the first one of the user's."""
    from dagron.crossing.exceptions import traceback_of
    from dagron.results.frames import is_ours

    frames = traceback_of(error)
    while frames is not None and frames.tb_next is not None and is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _tell(error: BaseException, seconds: float) -> None:
    from dagron.crossing.exceptions import describe_exception
    from dagron.results.failures import folded

    # Past the exception's own attributes, which may be properties that do anything.
    _, _, text = describe_exception(BaseException.with_traceback(error, _own_frames(error)))
    tell(NOT_FOR_A_LINE.sub("", folded(text.rstrip())))
    say(f"failed after {shown_seconds(seconds)}")


def _post_mortem(error: BaseException) -> None:
    from pdb import Pdb

    from dagron.crossing.exceptions import traceback_of
    from dagron.results.frames import is_library

    frames = traceback_of(error)
    if frames is None:
        return
    say("in the debugger; `up` and `down` go through the frames, `p` prints, `q` leaves")
    # In the user's frame, where the values are that they know; what raised may be deep in a library.
    paths = [frame.f_code.co_filename for frame, _ in walk_tb(frames)]
    own = [i for i, path in enumerate(paths) if not is_library(path)]
    debugger = Pdb()
    if own and own[-1] < len(paths) - 1:
        debugger.rcLines.append(f"up {len(paths) - 1 - own[-1]}")
    debugger.reset()
    debugger.interaction(None, frames)
