"""What hypothesis draws for several test modules: texts, numbers and commits as a journal may have them."""

from hypothesis import strategies as st

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.outputs import FileState, OutputFile
from dagron.checkpoint.format.storage import Storage
from dagron.figures import Figures

any_text = st.text(st.characters(exclude_categories=()), max_size=40)
times = st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | times.filter(lambda x: abs(x) < 1e308) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
file_states = st.builds(FileState, st.integers(0, 2**63), st.integers(0, 2**63), st.binary(min_size=32, max_size=32))
commits = st.builds(
    Commit,
    name=any_text,
    storage=st.sampled_from(Storage),
    slot=st.integers(-1, 2**15 - 1),
    attempts=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**64 - 1),
    digest=st.binary(min_size=32, max_size=32),
    fingerprint=st.binary(min_size=16, max_size=16),
    figures=st.builds(Figures, times, times, times, times, st.integers(0, 2**64 - 1)),
    without=st.lists(any_text, max_size=4).map(tuple),
    payload_offset=st.just(-1),
    special_name=st.sampled_from(["", "a%^1.pkl"]),
    temp_name=st.sampled_from(["", "_dagron-0.tmp"]),
    since=st.integers(0, 2**64 - 1),
    sequence=st.just(0),
    value_digest=st.binary(min_size=16, max_size=16),
    outputs=st.lists(st.builds(OutputFile, any_text, file_states), max_size=2).map(tuple),
    compressed_size=st.integers(0, 2**64 - 1),
)
