"""What libraries make here and now is shown. Skipped where they are not installed: the extra `data` brings them."""

from __future__ import annotations

import pickle

import pytest
from library_values import LIBRARIES

from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result
from dagron.preview.previewing import preview

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def stored(value, directory):
    """The bytes of a result, as a worker stores it."""
    blob = dump_result("n", value, directory, Digests(None), durable=False)
    return blob.data or (directory / blob.temp_name).read_bytes()


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_value_is_shown_as_what_it_is(library, tmp_path):
    module = pytest.importorskip(library)
    wrong = {}
    for name, (make, texts) in LIBRARIES[library].items():
        value = make(module)
        for data in (stored(value, tmp_path), pickle.dumps(value, 4), pickle.dumps(value, 5)):
            shown = preview(data)
            if missing := [text for text in texts if text not in shown]:
                wrong[name] = missing, shown
    assert wrong == {}


def test_a_large_array_is_shown_without_reading_all_of_it(tmp_path):
    numpy = pytest.importorskip("numpy")
    data = memoryview(stored({"weights": numpy.arange(2_000_000.0).reshape(1_000_000, 2), "n": 3}, tmp_path))
    shown = preview(data)
    assert "'weights': ndarray of shape (1000000, 2), float64\n        [[ 0.0   1.0]\n" in shown
    assert "'n': 3" in shown
    # The bytes behind the first rows may be anything.
    assert preview(data.tobytes().replace(numpy.float64(1_999_999).tobytes(), b"\xff" * 8)) == shown
