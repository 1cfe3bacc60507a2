"""The types that users see: mypy accepts what is right, knows what comes back, and complains where it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import dagron

EXAMPLES = Path(__file__).parent / "typing" / "flows.py"


def test_mypy_says_of_flows_what_their_comments_say(tmp_path):
    source = os.path.dirname(os.path.dirname(dagron.__file__))
    # mypy finds by itself what is installed, and refuses to be told.
    env = os.environ if "site-packages" in source else {**os.environ, "MYPYPATH": source}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(EXAMPLES)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        found = re.match(r"(.*flows\.py):(\d+): (?:error|note): (.*)", line)
        if found is not None:
            said[int(found[2])] = f"{said.get(int(found[2]), '')}{found[3]}\n"
        else:
            assert re.match(r"Found \d+ errors in 1 file", line), done.stdout + done.stderr
    expected = {}
    for number, line in enumerate(EXAMPLES.read_text().splitlines(), 1):
        _, marker, text = line.partition("  # E: ")
        if marker:
            expected[number] = text
    assert said.keys() == expected.keys(), done.stdout
    wrong = {number: text for number, text in said.items() if expected[number] not in text}
    assert wrong == {}
