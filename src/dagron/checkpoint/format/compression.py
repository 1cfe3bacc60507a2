"""Results as zstd frames (RFC 8878), by whichever module is installed: that of Python 3.14, its backport, `zstandard`.

Loaded by those alone who compress or meet what is compressed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from dagron.errors import MissingPackageError

__all__ = ["Compressor", "decompressed", "new_compressor", "require_zstd", "worth_it"]

_LEVEL = 3
"""zstd's own default: some 300 MB/s and core, where a level more costs twice the time for 2 % on pickled tables."""

_WORTH = 0.8
"""What a sample has to shrink to: what saves less than a fifth would not pay for a result that can no longer be mapped,
and is copied for each child instead."""

_MODULES = ("compression.zstd", "backports.zstd", "zstandard")


class Compressor(Protocol):
    """Makes one frame."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take the next bytes, and return what there is of the frame."""
        ...

    def flush(self) -> bytes:
        """Return the rest of the frame."""
        ...


@cache
def _zstd() -> Any:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def require_zstd(what: str) -> Any:
    """Return the module.

    Raises:
        MissingPackageError: None is installed.
    """
    module = _zstd()
    if module is None:
        raise MissingPackageError(what, "backports.zstd", "Python 3.14 has it, and zstandard does as well")
    return module


def new_compressor() -> Compressor:
    """Return what makes a new frame."""
    module = require_zstd("compression='zstd'")
    compressor: Compressor
    if module.__name__ == "zstandard":
        compressor = module.ZstdCompressor(level=_LEVEL).compressobj()
    else:
        compressor = module.ZstdCompressor(level=_LEVEL)
    return compressor


def worth_it(samples: Sequence[bytes | memoryview]) -> bool:
    """Tell whether these bytes shrink enough."""
    compressor = new_compressor()
    n = sum(len(compressor.compress(sample)) for sample in samples) + len(compressor.flush())
    return n <= _WORTH * sum(map(len, samples))


def decompressed(data: bytes, size: int) -> bytes:
    """Return what a frame holds, in no more memory than `size` asks for: whoever has written it may claim anything.

    Raises:
        MissingPackageError: No module for it is installed.
        ValueError: It is no frame, or a damaged one, or holds more; the last perhaps only once so much is read.
    """
    module = require_zstd("a result that is compressed")
    try:
        if module.__name__ == "zstandard":
            if module.frame_content_size(data) > size:
                raise ValueError(f"it holds more than {size} bytes")
            return bytes(module.ZstdDecompressor().decompress(data, max_output_size=size))
        return bytes(module.ZstdDecompressor().decompress(data, size + 1))
    except (module.ZstdError, EOFError) as error:
        raise ValueError(f"it is no zstd frame: {error}") from error
