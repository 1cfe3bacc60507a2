"""What a person sees of attempts that were tried again: while a run goes on, at its end, and afterwards."""

import json
from pathlib import Path

JOB = """
import dagron

def flaky(n):
    attempt = dagron.current().attempt
    if attempt <= n:
        raise ConnectionError(f"no route, attempt {attempt}")
    return n

flow = dagron.Flow()
flow.map("flaky[{}]", flaky, [0, 1, 2], retries=4, retry_delay=0)
"""


def test_each_has_a_line_and_the_summary_the_status_and_the_node_tell_of_them(call):
    Path("job.py").write_text(JOB)
    out, err = call("run", "job.py", "-d", "ckpt", "--inline", "--json")
    lines = err.splitlines()
    assert lines[0] == "dagron: flaky[1] (attempt 1 of 5): ConnectionError: no route, attempt 1; again at once"
    assert [line.split(":")[1] for line in lines[1:3]] == [f" flaky[2] (attempt {n} of 5)" for n in (1, 2)]
    assert "3 of 3 nodes completed, 3 retries; " in lines[3]
    assert json.loads(out)["retries"] == 3
    assert json.loads(call("status", "ckpt", "--json")[0])["retries"] == 3
    assert "\nretries  3\n" in call("status", "ckpt")[0]
    shown, _ = call("show", "ckpt", "flaky[2]")
    assert "earlier attempts\n1 after " in shown
    assert shown.count("in flaky: raise ConnectionError") == 1
    assert "Traceback" not in shown
    assert "Traceback" in call("show", "ckpt", "flaky[2]", "--full")[0]
    first, second = json.loads(call("show", "ckpt", "flaky[2]", "--json")[0])["retried"]
    assert (first["attempt"], second["error"]) == (1, "ConnectionError: no route, attempt 2")
    # Nothing is left behind in this process.
    assert "attempt 1 of 5" not in call("run", "job.py", "-d", "ckpt", "--resume")[1]
