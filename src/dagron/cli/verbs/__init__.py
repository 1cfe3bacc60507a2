"""The verbs of the command line, one a module: each parses, calls what does the work, and prints."""
