"""Tasks, results and exceptions to bytes and back, and what tasks have in common: where cloudpickle lives."""
