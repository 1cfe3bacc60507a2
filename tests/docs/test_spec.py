"""The examples of the interface run as they stand: script without a guard, -c, stdin, a thread, an event loop."""

import os
import subprocess
import sys
import textwrap

import pytest
from places import SRC

EXECUTE = """
import dagron

dag = (
    dagron.DAG.builder()
    .add_node("download").add_node("parse").add_node("validate")
    .add_node("transform").add_node("upload")
    .add_edge("download", "parse")
    .add_edge("parse", "validate")
    .add_edge("validate", "transform")
    .add_edge("transform", "upload")
    .build()
)

executor = dagron.CheckpointExecutor(dag, checkpoint_dir="./checkpoints")
result = executor.execute({
    "download": lambda: "raw_data",
    "parse": lambda: "parsed",
    "validate": lambda: "valid",
    "transform": lambda: "transformed",
    "upload": lambda: "uploaded",
})

print(result.succeeded) # 5
"""

RESUME = """
# Suppose download and parse completed, but validate failed.
# Fix the issue and resume:
executor = dagron.CheckpointExecutor(dag, checkpoint_dir="./checkpoints")
result = executor.resume({
    "download": lambda: "raw_data",
    "parse": lambda: "parsed",
    "validate": lambda: "valid", # fixed
    "transform": lambda: "transformed",
    "upload": lambda: "uploaded",
})

print(result.succeeded) # 5
# download and parse were loaded from checkpoint
# validate, transform, upload were re-executed
"""

INFO = """
info = executor.checkpoint_info()
if info is not None:
    print(f"Completed: {len(info.completed_nodes)}/{info.total_nodes}")
    print(f"Failed: {info.failed_nodes}")
    print(f"Timestamp: {info.timestamp}")
else:
    print("No checkpoint found.")
"""

INFO_FIELDS = """
info = executor.checkpoint_info()
print(f"Progress: {len(info.completed_nodes)}/{info.total_nodes}")
print(f"Completed: {info.completed_nodes}")
print(f"Failed: {info.failed_nodes}")
print(f"Last updated: {info.timestamp}")
"""

CLEAR = """
executor.clear_checkpoint()
assert executor.checkpoint_info() is None
"""

COMPLETE = """
import dagron

dag = (
    dagron.DAG.builder()
    .add_node("fetch_users")
    .add_node("fetch_orders")
    .add_node("join")
    .add_node("enrich")
    .add_node("validate")
    .add_node("write_parquet")
    .add_node("upload_s3")
    .add_edge("fetch_users", "join")
    .add_edge("fetch_orders", "join")
    .add_edge("join", "enrich")
    .add_edge("enrich", "validate")
    .add_edge("validate", "write_parquet")
    .add_edge("write_parquet", "upload_s3")
    .build()
)

tasks = {
    "fetch_users": lambda: "1M users fetched",
    "fetch_orders": lambda: "5M orders fetched",
    "join": lambda: "joined dataset",
    "enrich": lambda: "enriched with geo data",
    "validate": lambda: "all checks passed",
    "write_parquet": lambda: "wrote 2GB parquet",
    "upload_s3": lambda: "uploaded to s3://bucket/output",
}

executor = dagron.CheckpointExecutor(dag, checkpoint_dir="{directory}")

# First attempt — may fail partway through
try:
    result = executor.execute(tasks)
except Exception:
    info = executor.checkpoint_info()
    print(f"Interrupted: {len(info.completed_nodes)}/{info.total_nodes} complete")

# Resume after fixing the issue
result = executor.resume(tasks)
print(f"All done: {result.succeeded} nodes succeeded")

# Clean up
executor.clear_checkpoint()
"""

ALL = EXECUTE + RESUME + INFO + INFO_FIELDS + CLEAR

EXPECTED = [
    "5",
    "5",
    "Completed: 5/5",
    "Failed: []",
    "Timestamp: <time>",
    "Progress: 5/5",
    "Completed: ['download', 'parse', 'validate', 'transform', 'upload']",
    "Failed: []",
    "Last updated: <time>",
]


def in_thread(code):
    return f"""
import threading
def main():
{textwrap.indent(code, "    ")}
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""


def in_event_loop(code):
    return f"""
import asyncio
async def main():
{textwrap.indent(code, "    ")}
asyncio.run(main())
"""


HOW = {
    "script": lambda code: code,
    "-c": lambda code: code,
    "stdin": lambda code: code,
    "thread": in_thread,
    "event loop": in_event_loop,
}


def run(how, code, directory):
    code = HOW[how](code)
    command, stdin = [sys.executable, "-W", "error"], None
    if how == "-c":
        command += ["-c", code]
    elif how == "stdin":
        command, stdin = [*command, "-"], code
    else:
        (directory / "example.py").write_text(code, encoding="utf-8")
        command.append("example.py")
    env = {**os.environ, "PYTHONPATH": SRC, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, input=stdin, cwd=directory, env=env, capture_output=True, encoding="utf-8", timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [
        line.split("20")[0] + "<time>" if "T" in line and "+00:00" in line else line
        for line in done.stdout.splitlines()
    ]


@pytest.mark.parametrize("how", HOW)
def test_the_examples_run_as_they_stand(how, tmp_path):
    assert run(how, ALL, tmp_path) == EXPECTED
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("how", HOW)
def test_the_complete_example_runs_as_it_stands(how, tmp_path):
    code = COMPLETE.replace("{directory}", str(tmp_path / "pipeline_ckpt"))
    assert run(how, code, tmp_path) == ["All done: 7 nodes succeeded"]


def test_the_layout_is_one_file_per_node_and_the_metadata(tmp_path):
    run("script", EXECUTE, tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {name for name in names if name.endswith(".pkl")} == {
        "download.pkl", "parse.pkl", "validate.pkl", "transform.pkl", "upload.pkl",
    }  # fmt: skip
    assert "_meta.json" in names
