"""A progress bar, in a terminal or a notebook."""
