"""One run of a DAG: what it is asked for, what is decided, and the loop that carries it out."""
