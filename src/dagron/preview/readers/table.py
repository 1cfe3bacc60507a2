"""Every reader, by the top of the module that a pickle names and the last part of the name.

Only the top, because libraries move what they pickle between their modules: `numpy.core.multiarray._reconstruct` became
`numpy._core.multiarray._reconstruct`, `pandas.core.frame.DataFrame` became `pandas.DataFrame`.
"""

from __future__ import annotations

from dagron.preview.readers.numpy_arrays import NUMPY
from dagron.preview.readers.pandas_frames import PANDAS
from dagron.preview.readers.polars_frames import POLARS
from dagron.preview.readers.pyarrow_arrays import PYARROW
from dagron.preview.readers.reader import Reader
from dagron.preview.readers.scientific import SCIENTIFIC, estimator
from dagron.preview.readers.standard import STANDARD
from dagron.preview.values import Name

__all__ = ["reader_of"]

_READERS: dict[tuple[str, str], Reader] = {**STANDARD, **NUMPY, **PANDAS, **PYARROW, **POLARS, **SCIENTIFIC}

_OF_A_PACKAGE: dict[str, Reader] = {"sklearn": estimator}
"""For objects of a library without a reader of their own."""


def reader_of(maker: Name) -> Reader | None:
    """Return what reads objects of a class, or what a function makes; None if nothing does."""
    package = maker.package
    return _READERS.get((package, maker.path.rpartition(".")[2])) or _OF_A_PACKAGE.get(package)
