"""The result of an attempt to bytes, and to a file if it is large."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from dagron.checkpoint.blobs import INLINE_MAX_BYTES, Blob, ResultSink
from dagron.checkpoint.files.modes import PRIVATE_MODE
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.checkpoint.format.storage import Storage
from dagron.crossing.culprits import find_culprit
from dagron.crossing.picklers import PROTOCOL, PlainPickler, ResultPickler
from dagron.crossing.values import value_digest
from dagron.errors import ResultNotPicklableError, ResultNotWrittenError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["dump_result"]

_FIXED = frozenset({float, bool, type(None), complex})
_SIZED = frozenset({int, str, bytes})

_INLINE = int(Storage.INLINE)

_new: Any = tuple.__new__


def dump_result(
    node: str,
    value: Any,
    directory: str | Path,
    digests: Digests,
    *,
    durable: bool,
    mode: int = PRIVATE_MODE,
    compresses: bool = False,
) -> Blob:
    """Pickle what a task returned; a large one goes to a temporary file in `directory`.

    Raises:
        ResultNotPicklableError: It cannot be pickled; with the path to the culprit.
        ResultNotWrittenError: The file could not be written.
    """
    atom = type(value)
    if atom in _FIXED or (atom in _SIZED and _is_small(value)):
        data = pickle.dumps(value, PROTOCOL)
        if len(data) <= INLINE_MAX_BYTES:
            # A third of the time that the constructor takes, and most results of short tasks come this way.
            blob: Blob = _new(Blob, (_INLINE, len(data), digests.of(data), data, "", (), NO_VALUE_DIGEST, 0))
            return blob
    for kind in (PlainPickler, ResultPickler):
        sink = ResultSink(directory, digests, durable=durable, mode=mode, compresses=compresses)
        try:
            pickler = kind(sink, PROTOCOL, buffer_callback=sink.expect)
            pickler.dump(value)
            blob = sink.finish()
            break
        except BaseException as error:
            sink.discard()
            if sink.refusal is not None:
                said = sink.refusal
                reason = said.strerror or str(said)
                raise ResultNotWrittenError(node, reason, said.errno or 0, sink.size) from None
            if kind is ResultPickler:
                if isinstance(error, KeyboardInterrupt):
                    raise
                path, reason = find_culprit(value, error, ResultPickler)
                raise ResultNotPicklableError(node, path, reason) from error
    if blob.storage == Storage.INLINE:
        digest = value_digest(value, digests, pickler, blob.size)
        if digest is not NO_VALUE_DIGEST:
            return blob._replace(value_digest=digest)
    return blob


def _is_small(value: int | str | bytes) -> bool:
    return value.bit_length() < 8 * INLINE_MAX_BYTES if isinstance(value, int) else len(value) * 4 < INLINE_MAX_BYTES
