"""Ways to break a run on purpose, and to check that it keeps its promises: `python -m dagron.testing.kill_campaign`."""
