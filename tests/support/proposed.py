"""A job whose failures propose commands to go on with, and where these stand in what a run says."""

import re

MANY_FAIL = """
import dagron

def bad(i):
    raise ValueError(i)

flow = dagron.Flow()
flow.add("it's $HOME & more", bad, 0)
flow.map("n{}", bad, range(10))
"""

PROPOSED = re.compile(r"(?:here|list them): (.*)$", re.MULTILINE)
