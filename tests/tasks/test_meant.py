"""Keywords that nobody takes: the error says which option is meant."""

import pytest

from dagron import DAG, CheckpointExecutor, Flow, OptionError
from dagron.errors import UnknownOptionError
from dagron.runs.options import ExecutorOptions
from dagron.tasks import meant


def one():
    return 1


@pytest.mark.parametrize(
    ("keyword", "option"),
    [
        ("n_jobs", "max_workers"),
        ("workers", "max_workers"),
        ("processes", "max_workers"),
        ("max_worker", "max_workers"),
        ("initializer", "worker_init"),
        ("maxtasksperchild", "max_tasks_per_worker"),
        ("verbose", "progress"),
        ("max_retries", "retries"),
        ("backend", "pool"),
        ("time_limit", "timeout"),
    ],
)
def test_an_option_of_other_libraries_is_told_by_its_name_here(tmp_path, keyword, option):
    flow = Flow()
    flow.add("a", one)
    for taker, call in (
        ("CheckpointExecutor", lambda: CheckpointExecutor(DAG(["a"]), tmp_path, **{keyword: 2})),
        ("Flow.run", lambda: flow.run(tmp_path, **{keyword: 2})),
    ):
        with pytest.raises(UnknownOptionError) as caught:
            call()
        assert str(caught.value) == f"{taker} has no option {keyword}=; did you mean {option}=?"
    assert isinstance(caught.value, (TypeError, OptionError))
    assert not list(tmp_path.iterdir())


def test_those_of_a_run_are_among_them(tmp_path):
    flow = Flow()
    flow.add("a", one)
    with pytest.raises(UnknownOptionError, match=r"did you mean resume=\?"):
        flow.run(tmp_path, fresh=True)
    with pytest.raises(UnknownOptionError, match=r"execute has no option timeout=; did you mean run_timeout=\?"):
        CheckpointExecutor(DAG(["a"]), tmp_path).execute({"a": one}, timeout=3)
    with pytest.raises(UnknownOptionError, match=r"no option colour=; dagron.CheckpointExecutor explains all of them"):
        flow.run(tmp_path, colour="red")


def test_of_a_node_too():
    flow = Flow()
    with pytest.raises(TypeError, match="did you mean the option 'retries'"):
        flow.add("a", one, max_retries=3)


def test_every_name_from_elsewhere_leads_to_an_option_and_is_none_itself():
    options = {*ExecutorOptions.__annotations__, *Flow.run.__code__.co_varnames, "exclusive", "priority"}
    assert set(meant._ELSEWHERE) <= options
    of_run = {*ExecutorOptions.__annotations__, "checkpoint_dir", "resume", "cancel_event"}
    named = {word for words in meant._ELSEWHERE.values() for word in words.split()} - {"timeout"}  # of `execute`
    assert not named & of_run


@pytest.mark.parametrize("wrong", [["a"], ("a", "b"), None, 3])
def test_several_nodes_are_no_node(tmp_path, wrong):
    flow = Flow()
    flow.add("a", one)
    result = flow.run(tmp_path, resume=True, pool="inline", durability="process")
    with pytest.raises(TypeError, match=r"is not one node.*result\.values\(nodes\)"):
        result.value(wrong)
    with pytest.raises(TypeError, match="is not one node"):
        result[wrong]


def test_map_says_how_its_items_and_names_come():
    flow = Flow()
    with pytest.raises(ValueError, match=r"different lengths: 2, 3; their items go together.*product"):
        flow.map("a[{}]", max, [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"map takes no list of names.*put \{\} into one text"):
        flow.map(["a", "b"], one, [1, 2])
