"""What a run gives back: results and statuses of nodes, the trace of a run, and how failures are told."""
