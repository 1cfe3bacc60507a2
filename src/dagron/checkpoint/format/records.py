"""What a record of the journal says: a value for each kind, and the bytes of its body. Opens nothing.

All integers are little-endian. JSON is UTF-8 without escapes, and lone surrogates are let through, so that any
name survives.

Body of COMMITTED, a `Commit`::

    offset  size
         0     1  storage: 0 = INLINE, 1 = FILE
         1     1  zero
         2     2  slot, signed; -1 for the coordinator itself
         4     4  attempts
         8     8  size of the pickled result
        16    32  digest of the pickled result
        48    16  value_digest, the canonical digest of the value; zero if it has none, and then the bytes decide
        64    16  fingerprint, `DAG.parents_fingerprint` of the node
        80     8  since, the number of the record with which the result became what it is; 0 if it was never another
        88     8  started_unix, a double
        96     8  duration_seconds, a double
       104     8  cpu_seconds, a double
       112     8  system_seconds, a double
       120     8  peak_rss_bytes
       128     4  name_size
       132        the name in UTF-8, name_size bytes
                  then nothing, or a JSON object with `without`, `file`, `temp` and `outputs`, each left out if there
                  is none; an output is a list of its path, size, mtime_ns and its digest in hexadecimal

The offsets follow from `_LAYOUT`; a test compares this table with it.

Body of DAG_RECORDED: see `structure`. Body of every other kind: a JSON object with the fields of its class below under
their names. A field with a default is optional, and is left out if it has that value; tuples are lists, and values such
as `Figures` are objects with their fields. A reader passes over fields and over kinds that it does not know. A field of
another type than its class says, or one that is missing and not optional, is damage: whoever wrote it had the right
check, so it is a fault of ours or somebody with the key.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from operator import index
from typing import Any, ClassVar, NamedTuple

from dagron.checkpoint.format.digests import NO_VALUE_DIGEST
from dagron.checkpoint.format.names import plain_file_name
from dagron.checkpoint.format.outputs import FileState, OutputFile
from dagron.checkpoint.format.storage import Storage
from dagron.figures import NO_FIGURES, Figures

__all__ = [
    "NO_ORIGIN",
    "NO_OUTPUT",
    "NO_RUN",
    "Cleared",
    "Commit",
    "CopiesWritten",
    "Event",
    "Failed",
    "Invalidated",
    "Kind",
    "Origin",
    "Output",
    "Printed",
    "Pruned",
    "Retried",
    "RunEnded",
    "RunStarted",
    "WorkersStarted",
    "attempts_of_commit",
    "commit_layout",
    "decode_commit",
    "decode_event",
    "encode_commit",
    "encode_event",
    "glance_at_commit",
]


class Kind(IntEnum):
    """What a record is about."""

    RUN_STARTED = 1
    COMMITTED = 2
    FAILED = 3
    INVALIDATED = 4
    RUN_ENDED = 5
    CLEARED = 6
    COPIES_WRITTEN = 7
    WORKERS_STARTED = 8
    DAG_RECORDED = 9
    PRINTED = 10
    PRUNED = 11
    RETRIED = 12


# --- COMMITTED ----------------------------------------------------------------------------------------------------

_LAYOUT = {
    "storage": "B",
    "zero": "x",
    "slot": "h",
    "attempts": "I",
    "size": "Q",
    "digest": "32s",
    "value_digest": "16s",
    "fingerprint": "16s",
    "since": "Q",
    "started_unix": "d",
    "duration_seconds": "d",
    "cpu_seconds": "d",
    "system_seconds": "d",
    "peak_rss_bytes": "Q",
    "name_size": "I",
}
"""The fixed fields of COMMITTED in their order, as `struct` names their types."""

_COMMIT = struct.Struct("<" + "".join(_LAYOUT.values()))
_INLINE = int(Storage.INLINE)


def commit_layout(*names: str) -> str:
    """Return the layout of a COMMITTED body for `struct`, without `<`, that passes over all fields but these."""
    return "".join(code if name in names else f"{struct.calcsize('<' + code)}x" for name, code in _LAYOUT.items())


_ATTEMPTS = struct.Struct("<" + commit_layout("attempts"))
_GLANCE = struct.Struct("<" + commit_layout("storage", "started_unix", "duration_seconds", "name_size"))


class Commit(NamedTuple):
    """What a COMMITTED record says: a node is completed.

    Attributes:
        name: The node.
        storage: Where the bytes of its result are.
        slot: The slot that ran it; -1 for the coordinator itself.
        attempts: Attempts made in that run, the last one included.
        size: Bytes of the pickled result.
        digest: Of the pickled result; see `Digests`.
        fingerprint: `DAG.parents_fingerprint` of the node when it ran.
        figures: What the attempt took.
        without: Parents that had failed when the node ran.
        payload_offset: Where the payload begins in the journal; -1 if it has none. Known from the place of the record.
        special_name: The name of the result's file if it is not the plain one; else empty.
        temp_name: For a FILE result, the name that the file had when the record was written.
        since: The number of the record with which the node's result became what it is; 0 if it was never another one.
            A child whose record is older has taken another result. A result that was lost and made again keeps its
            number, so that its children stay as they are.
        sequence: The number of this record. Known from its frame.
        value_digest: The canonical digest of the value; `NO_VALUE_DIGEST` if it has none.
        outputs: The files that the task has written beside the result and that are checked.
    """

    name: str
    storage: int
    slot: int
    attempts: int
    size: int
    digest: bytes
    fingerprint: bytes
    figures: Figures = NO_FIGURES
    without: tuple[str, ...] = ()
    payload_offset: int = -1
    special_name: str = ""
    temp_name: str = ""
    since: int = 0
    sequence: int = 0
    value_digest: bytes = NO_VALUE_DIGEST
    outputs: tuple[OutputFile, ...] = ()

    @property
    def is_special(self) -> bool:
        """Whether the result is in a FILE, or the record says more than the fixed fields."""
        return self.storage != _INLINE or bool(self.without or self.special_name or self.temp_name or self.outputs)

    def has_equal_result(self, digest: bytes, value_digest: bytes) -> bool:
        """Tell whether a result with these digests equals this one: the same bytes, or the same value."""
        return digest == self.digest or value_digest == self.value_digest != NO_VALUE_DIGEST

    def has_other_outputs(self, other: Commit) -> bool:
        """Tell whether a file that both have written has other bytes now."""
        if not (self.outputs and other.outputs):
            return False
        known = dict(self.outputs)
        return any(path in known and known[path].digest != state.digest for path, state in other.outputs)

    @property
    def file_name(self) -> str:
        """The name of the file of the result."""
        return self.special_name or plain_file_name(self.name)


def encode_commit(commit: Commit) -> bytes:
    """Return the body of a COMMITTED record."""
    # Taken apart at once, which takes a third of what looking for each field does.
    name, storage, slot, attempts, size, digest, fingerprint, figures, without = commit[:9]
    special, temp, since, _, value, outputs = commit[10:]
    raw = name.encode("utf-8", "surrogatepass")
    body = _COMMIT.pack(storage, slot, attempts, size, digest, value, fingerprint, since, *figures, len(raw)) + raw
    if without or special or temp or outputs:
        files = [(path, size, mtime_ns, digest.hex()) for path, (size, mtime_ns, digest) in outputs]
        extra = {"without": without, "file": special, "temp": temp, "outputs": files}
        body += _encode_json({name: value for name, value in extra.items() if value})
    return body


def glance_at_commit(body: bytes) -> tuple[str, float, bool]:
    """Return what every reader wants of the body of a COMMITTED record, in a third of the time of `decode_commit`.

    Returns:
        The node, when its attempt ended, and whether the commit is special: its result is in a file, or there is
        something behind the name.
    """
    storage, started, duration, length = _GLANCE.unpack_from(body)
    end = _COMMIT.size + length
    if len(body) < end:
        raise ValueError("it ends within the name")
    name = str(body[_COMMIT.size : end], "utf-8", "surrogatepass")
    return name, started + duration, storage != _INLINE or len(body) > end


def attempts_of_commit(body: bytes) -> int:
    """Return how many attempts the body of a COMMITTED record tells of."""
    n: int = _ATTEMPTS.unpack_from(body)[0]
    return n


def decode_commit(body: bytes, payload_offset: int, sequence: int) -> Commit:
    """Read the body of a COMMITTED record with this number, whose payload stands there."""
    storage, slot, attempts, size, digest, value_digest, fingerprint, since, *figures, length = _COMMIT.unpack_from(
        body
    )
    end = _COMMIT.size + length
    without: tuple[str, ...] = ()
    special = temp = ""
    outputs: tuple[OutputFile, ...] = ()
    if len(body) > end:
        extra = _decode_json(body[end:])
        without, special, temp = tuple(extra.get("without", ())), extra.get("file", ""), extra.get("temp", "")
        outputs = tuple(_output_file(*fields) for fields in extra.get("outputs", ()))
    return Commit(
        str(body[_COMMIT.size : end], "utf-8", "surrogatepass"),
        storage,
        slot,
        attempts,
        size,
        digest,
        fingerprint,
        Figures(*figures),
        without,
        payload_offset if storage == _INLINE else -1,
        special,
        temp,
        since,
        sequence,
        value_digest,
        outputs,
    )


def _output_file(path: Any, size: Any, mtime_ns: Any, digest: Any) -> OutputFile:
    return OutputFile(_text(path), FileState(index(size), index(mtime_ns), bytes.fromhex(digest)))


# --- the kinds whose bodies are JSON -------------------------------------------------------------------------------


class Output(NamedTuple):
    """What an attempt wrote to its standard streams: the end of each as text, and how many bytes it was in all."""

    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0


NO_OUTPUT = Output()
"""That of an attempt that wrote nothing."""


class Origin(NamedTuple):
    """The job that a run is of, as far as that is known: all is empty where a program has begun the run by itself.

    Attributes:
        file: The file of the job, relative to the directory of the checkpoint, with `/`; empty if it has none.
        path: The same as an absolute path.
        module: The name of the module, where the job was named by it.
        name: What in it makes the DAG, where that was named: a flow, or a function.
        arguments: What the job found in `sys.argv` behind its own name.
        parameters: What the function was called with: names and texts.
    """

    file: str = ""
    path: str = ""
    module: str = ""
    name: str = ""
    arguments: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the run is known to be of a job."""
        return bool(self.path or self.module)


NO_ORIGIN = Origin()
"""That of a run of a program."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins.

    Attributes:
        at: When, in seconds since the epoch.
        fresh: Whether it takes everything away that was before; else it goes on from that.
        pid: The process of the run.
        host: The machine.
        boot: Differs after every start of that machine; empty where it has no such text.
        total: Nodes of the DAG.
        fail_fast: Whether the run skips every descendant of a node that fails, not only those that take its result.
        slots: Slots of the run; 0 if it is not known.
        structure: `DAG.structure_digest()`, in hexadecimal, of the DAG that the commits were last compared with. A
            resume records that of the run before; INVALIDATED then says what became of the commits.
        dag: `DAG.structure_digest()`, in hexadecimal, of the DAG of this run.
        durability: What survives, `"power"` or `"process"`.
        owns: If fresh, the files in the directory that are ours and belong to no commit.
        absent: If not fresh, the completed and failed nodes that the DAG of this run does not have.
        definitions: What the script defines, each name with a digest, and for a class the attributes that its methods
            set later; of that script which the commits were last compared with, as `structure`.
        versions: Of Python and of what pickles, each with its name.
        origin: The job that it is of.
        directory: The working directory, where relative paths of outputs begin; empty if no node has outputs.
    """

    kind: ClassVar[Kind] = Kind.RUN_STARTED
    at: float
    fresh: bool
    pid: int = 0
    host: str = ""
    boot: str = ""
    total: int = 0
    fail_fast: bool = True
    slots: int = 0
    structure: str = ""
    dag: str = ""
    durability: str = ""
    owns: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    origin: Origin = NO_ORIGIN
    directory: str = ""


NO_RUN = RunStarted(0.0, fresh=False)
"""What is known of the run of a checkpoint whose RUN_STARTED is damaged."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A node has failed for good.

    Attributes:
        name: The node.
        at: When that was recorded, in seconds since the epoch.
        status: `failed` or `timed_out`.
        outcome: How the last attempt ended, `raised`, `lost`, `timed_out` or `out_of_memory`.
        type: The type of the error.
        message: Its text.
        traceback: Its traceback; empty if there is none, as when a worker died.
        attempts: Attempts made, the last one included.
        slot: The slot that made the last one; -1 if it is not known.
        pid: The process that made it; 0 if it is not known.
        figures: What it took.
        inputs: The names of the task's arguments with short texts of their values, if it raised.
        output: What it wrote.
    """

    kind: ClassVar[Kind] = Kind.FAILED
    name: str
    at: float = 0.0
    status: str = "failed"
    outcome: str = "raised"
    type: str = ""
    message: str = ""
    traceback: str = ""
    attempts: int = 0
    slot: int = -1
    pid: int = 0
    figures: Figures = NO_FIGURES
    inputs: tuple[tuple[str, str], ...] = ()
    output: Output = NO_OUTPUT

    @property
    def error(self) -> str:
        """The type and the text of the error."""
        return f"{self.type}: {self.message}".removesuffix(": ")


@dataclass(frozen=True, slots=True)
class Invalidated:
    """Commits no longer apply: their nodes run again, and whether their results differ decides about their children.

    Attributes:
        at: When, in seconds since the epoch.
        names: The nodes; those without a commit count for nothing.
        reason: Why, for people.
        lost: The results are gone, rather than no longer right: their children stay as they are.
        structure: If this says how the commits compare with another DAG, its `DAG.structure_digest()`, in hexadecimal.
        absent: Then, the completed and failed nodes that it does not have.
        definitions: Then, those of the script of that run; as of `RunStarted`.
    """

    kind: ClassVar[Kind] = Kind.INVALIDATED
    at: float
    names: tuple[str, ...]
    reason: str = ""
    lost: bool = False
    structure: str = ""
    absent: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended by itself, and what it left over is deleted.

    Attributes:
        at: When, in seconds since the epoch.
        succeeded: How many nodes are completed.
        failed: How many have failed.
        timed_out: How many have run out of time.
        unreached: The nodes that a run without `fail_fast` had not reached when it was cancelled. What is downstream of
            a node that failed, and not among these, was skipped.
        out_of_time: The nodes that were killed because the time of the run was over, and that count as timed out
            although no attempt of theirs has failed.
    """

    kind: ClassVar[Kind] = Kind.RUN_ENDED
    at: float
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    unreached: tuple[str, ...] = ()
    out_of_time: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cleared:
    """The checkpoint is being deleted: there is none any more. A writer that cannot flush this cuts it off again.

    Attributes:
        at: When, in seconds since the epoch.
        owns: The files that are ours.
    """

    kind: ClassVar[Kind] = Kind.CLEARED
    at: float
    owns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopiesWritten:
    """The `.pkl` copies of INLINE results are written.

    Attributes:
        at: When, in seconds since the epoch.
        before: Those of all in records with a lower number than this; 0 means those of all recorded before. Later
            copies may be missing, or be those of older results.
    """

    kind: ClassVar[Kind] = Kind.COPIES_WRITTEN
    at: float
    before: int = 0


@dataclass(frozen=True, slots=True)
class WorkersStarted:
    """Processes of the run, so that what a killed run could not end is found.

    Attributes:
        at: When that was recorded, in seconds since the epoch.
        processes: Process id, and when it was created as the machine counts, of each.
        namespace: The namespace of these process ids.
    """

    kind: ClassVar[Kind] = Kind.WORKERS_STARTED
    at: float
    processes: tuple[tuple[int, float], ...]
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Printed:
    """What the attempt of the last COMMITTED record of its node wrote, if it wrote anything.

    Attributes:
        name: The node.
        output: What it wrote.
    """

    kind: ClassVar[Kind] = Kind.PRINTED
    name: str
    output: Output = NO_OUTPUT


@dataclass(frozen=True, slots=True)
class Pruned:
    """The records before this one were written anew, without those that nothing needs any more; see `pruning`.

    Attributes:
        at: When, in seconds since the epoch.
        owns: The files that are ours and belong to no commit. No other file is, whatever was said before.
    """

    kind: ClassVar[Kind] = Kind.PRUNED
    at: float
    owns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt of a node has failed, and another one follows. Of many, only the first and the last are recorded.

    Attributes:
        name: The node.
        at: When that was recorded, in seconds since the epoch.
        attempt: Which attempt, from 1. The first of a run takes the place of those that earlier runs have made.
        outcome: How it ended, as of `Failed`.
        type: The type of the error.
        message: Its text, or the beginning and the end of that.
        traceback: Its traceback, or the beginning and the end of that; empty if there is none, or if the attempt that
            is recorded before it has the same.
        slot: The slot that made it.
        pid: The process that made it; 0 if it is not known.
        figures: What it took.
        stderr: The end of what it wrote to standard error.
    """

    kind: ClassVar[Kind] = Kind.RETRIED
    name: str
    at: float = 0.0
    attempt: int = 1
    outcome: str = "raised"
    type: str = ""
    message: str = ""
    traceback: str = ""
    slot: int = -1
    pid: int = 0
    figures: Figures = NO_FIGURES
    stderr: str = ""


Event = (
    RunStarted | Failed | Invalidated | RunEnded | Cleared | CopiesWritten | WorkersStarted | Printed | Pruned | Retried
)
"""What a record of one of the kinds says whose bodies are JSON."""


def encode_event(event: Event) -> bytes:
    """Return the body of the record of an event."""
    said = {}
    for name, (_, default) in _FIELDS[event.kind].items():
        value = getattr(event, name)
        if value != default:
            said[name] = value._asdict() if isinstance(value, (Figures, Output, Origin)) else value
    return _encode_json(said)


def decode_event(kind: int, body: bytes) -> Event | None:
    """Read the body of a record; None if it is of a kind that is not known, or of one whose body is no JSON.

    Raises:
        ValueError: It is no JSON object.
        TypeError: A field is missing or of another type than it has to be.
    """
    fields = _FIELDS.get(kind)
    if fields is None:
        return None
    said = _decode_json(body)
    return _CLASSES[kind](**{name: checked(said[name]) for name, (checked, _) in fields.items() if name in said})


def _encode_json(said: dict[str, Any]) -> bytes:
    # Not escaped: two escaped surrogates that stand together would be read back as one character.
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _decode_json(data: bytes) -> dict[str, Any]:
    said = json.loads(data.decode("utf-8", "surrogatepass"))
    if not isinstance(said, dict):
        raise ValueError("it is no JSON object")
    return said


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(_text, value))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return [(first, second) for first, second in value]


def _figures(value: Any) -> Figures:
    started, duration, cpu, system, peak = (value[name] for name in Figures._fields)
    return Figures(_number(started), _number(duration), _number(cpu), _number(system), index(peak))


def _output(value: Any) -> Output:
    stdout, stderr, stdout_bytes, stderr_bytes = (value[name] for name in Output._fields)
    return Output(_text(stdout), _text(stderr), index(stdout_bytes), index(stderr_bytes))


def _text_pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_text(name), _text(text)) for name, text in _pairs(value))


def _origin(value: Any) -> Origin:
    file, path, module, name, arguments, parameters = (value[field] for field in Origin._fields)
    return Origin(_text(file), _text(path), _text(module), _text(name), _texts(arguments), _text_pairs(parameters))


_CHECKED: dict[str, Callable[[Any], Any]] = {
    "float": _number,
    "int": index,
    "str": _text,
    "bool": _truth,
    "tuple[str, ...]": _texts,
    "tuple[tuple[str, str], ...]": _text_pairs,
    "tuple[tuple[int, float], ...]": lambda value: tuple((index(pid), _number(at)) for pid, at in _pairs(value)),
    "Figures": _figures,
    "Origin": _origin,
    "Output": _output,
}
"""What makes a field of a JSON value, or refuses it, by the type of the field as its class has it."""

_EVENTS = (RunStarted, Failed, Invalidated, RunEnded, Cleared, CopiesWritten, WorkersStarted, Printed, Pruned, Retried)
_CLASSES: dict[int, Callable[..., Event]] = {cls.kind: cls for cls in _EVENTS}

_FIELDS = {
    int(cls.kind): {field.name: (_CHECKED[str(field.type)], field.default) for field in dataclasses.fields(cls)}
    for cls in _EVENTS
}
"""What checks a field, and its default, by kind and name."""
