"""The one writer of a checkpoint."""
