"""The bytes of a checkpoint: what is written where, and what it is called."""
