"""Real jobs that ship with dagron: run one with `dagron run dagron.jobs.<module> --show <node>`.

Each module defines `flow`, or `dag` and `tasks`, needs nothing but the standard library, and has an exact answer that a
plain loop gives too, so that a run on many workers, killed and resumed, can be checked against it.
"""
