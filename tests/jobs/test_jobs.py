"""The jobs that ship with dagron: their exact answers, also after the coordinator was killed and the run went on."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from places import SRC

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.jobs import betweenness, chess_perft, stdlib_analysis

ENV = {**os.environ, "PYTHONPATH": SRC}

# --- after a kill ----------------------------------------------------------------------------------------------------

# One call waits until it is let through, so that the run is certainly in its middle when it is killed.
GATED = """
import functools
import os
import time

def gated(task, argument):
    @functools.wraps(task)
    def waits(*args, **kwargs):
        while argument in (*args, *kwargs.values()) and not os.path.exists({gate!r}):
            time.sleep(0.01)
        return task(*args, **kwargs)
    return waits
"""

FILES = stdlib_analysis.FILES[::24]
SHAPE = betweenness.Shape(n_nodes=200, n_neighbours=6, n_chunk_sources=10)

SMALL = {
    "stdlib_analysis": f"""
from dagron.jobs import stdlib_analysis as job
job.analyse_file = gated(job.analyse_file, {FILES[0]!r})
dag, tasks = job.build({FILES!r}, job.LIBRARY_ROOT)
""",
    "chess_perft": """
from dagron.jobs import chess_perft as job
job.count_after = gated(job.count_after, "e2e4")
flow = job.build({name: job.POSITIONS[name]._replace(depth=2) for name in ("start", "kiwipete")})
""",
    "betweenness": f"""
from dagron.jobs import betweenness as job
job.partial_betweenness = gated(job.partial_betweenness, 3)
flow = job.build(job.Shape{tuple(SHAPE)})
""",
}


@pytest.mark.parametrize(
    ("job", "node", "answer"),
    [
        ("stdlib_analysis", "report", lambda: stdlib_analysis.serial_report(FILES)),
        ("chess_perft", "total", lambda: 400 + 2_039),
        ("betweenness", "top", lambda: betweenness.serial_report(SHAPE)),
    ],
)
def test_a_job_that_was_killed_goes_on_to_its_exact_answer(job, node, answer, tmp_path):
    ckpt, gate = tmp_path / "ckpt", tmp_path / "gate"
    (tmp_path / "small.py").write_text(GATED.format(gate=str(gate)) + SMALL[job])
    command = [sys.executable, "-m", "dagron", "run", "small.py", "-d", "ckpt", "-w", "2", "--json"]

    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while (view := read_ledger(Directory(ckpt), None)) is None or len(view.completed) < 10:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    completed = read_ledger(Directory(ckpt), None).completed
    assert node not in completed

    gate.touch()
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["restored"] == len(completed)
    assert pickle.loads((ckpt / f"{node}.pkl").read_bytes()) == answer()


# --- chess -----------------------------------------------------------------------------------------------------------


def test_the_flow_of_perft_is_that_of_its_description():
    dag = chess_perft.flow.dag
    assert (dag.node_count, dag.edge_count) == (191, 362)
    assert dag.leaves() == ["total"]
    assert sum(problem.n_leaves for problem in chess_perft.POSITIONS.values()) == 16_046_250


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("start", [1, 20, 400, 8_902]),
        ("kiwipete", [1, 48, 2_039]),  # castling, pins, en passant
        ("position3", [1, 14, 191, 2_812]),  # en passant that would uncover the king along the rank
        ("position4", [1, 6, 264, 9_467]),  # promotions, checks
        ("position5", [1, 44, 1_486]),
        ("position6", [1, 46, 2_079]),
    ],
)
def test_perft_gives_the_published_figures(name, published):
    position = chess_perft.parse_fen(chess_perft.POSITIONS[name].fen)
    assert [chess_perft.count_leaves(position, depth) for depth in range(len(published))] == published


def test_moves_are_written_as_chess_programs_write_them():
    moves = [str(move) for move in chess_perft.legal_moves(chess_perft.parse_fen("8/P6k/8/8/8/8/8/R3K2R w KQ - 0 1"))]
    assert {"e1g1", "e1c1", "a7a8q", "a7a8n", "h1h7"} <= set(moves)
    assert len(set(moves)) == len(moves)


def test_a_first_move_that_is_not_legal_and_a_position_of_black_are_refused():
    start = chess_perft.POSITIONS["start"].fen
    with pytest.raises(ValueError, match="e2e5 is not legal"):
        chess_perft.count_after("e2e5", chess_perft.parse_fen(start), 1)
    with pytest.raises(ValueError, match="White"):
        chess_perft.parse_fen(start.replace(" w ", " b "))


# --- betweenness -----------------------------------------------------------------------------------------------------


def both_ways(network):
    return list(betweenness.partial_betweenness(0, network, len(network)))


def test_the_flow_of_betweenness_is_that_of_its_description():
    dag = betweenness.flow.dag
    assert (dag.node_count, dag.edge_count) == (140, 258)
    assert dag.leaves() == ["top"]


def test_betweenness_of_a_path_and_of_a_star():
    path = [[1], [0, 2], [1, 3], [2, 4], [3]]
    assert both_ways(path) == [0, 2 * 3, 2 * 4, 2 * 3, 0]
    star = [[1, 2, 3, 4], [0], [0], [0], [0]]
    assert both_ways(star) == [4 * 3, 0, 0, 0, 0]


def test_paths_of_equal_length_share_a_pair():
    square = [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert both_ways(square) == [1, 1, 1, 1]


def test_chunks_add_up_to_the_whole():
    network = betweenness.small_world(SHAPE)
    parts = [betweenness.partial_betweenness(chunk, network, 30) for chunk in range(7)]  # the last one is shorter
    assert list(betweenness.add_up(parts)) == pytest.approx(both_ways(network), rel=1e-12)


def test_the_network_and_its_betweenness_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")
    graph = networkx.watts_strogatz_graph(200, 6, 0.1, seed=1)
    network = betweenness.small_world(SHAPE)
    assert network == [sorted(graph[node]) for node in range(200)]
    expected = networkx.betweenness_centrality(graph, normalized=False)
    assert both_ways(network) == pytest.approx([2 * expected[node] for node in range(200)], rel=1e-12)


# --- at full size ----------------------------------------------------------------------------------------------------


@pytest.mark.campaign
@pytest.mark.timeout(1_200)
def test_perft_at_full_size(tmp_path):
    result = chess_perft.flow.run(tmp_path / "ckpt", resume=False)
    for name, problem in chess_perft.POSITIONS.items():
        assert result.value(f"leaves[{name}]") == problem.n_leaves
    assert result.value("total") == 16_046_250


@pytest.mark.campaign
@pytest.mark.timeout(1_200)
def test_betweenness_at_full_size(tmp_path):
    assert betweenness.flow.run(tmp_path / "ckpt", resume=False).value("top") == betweenness.serial_report()
