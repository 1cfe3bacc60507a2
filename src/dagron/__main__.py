"""`python -m dagron`: the command line where the `dagron` command is not on the path."""

from dagron.cli import main

main()
