"""Where things are, for tests that start programs or read the project's texts."""

import os
from pathlib import Path

import dagron

ROOT = Path(__file__).parents[2]
"""The project."""

SRC = os.path.dirname(os.path.dirname(dagron.__file__))
"""What a program needs on its path to import the dagron that is tested."""

SUPPORT = os.path.dirname(os.path.abspath(__file__))
"""What it needs beside that to run a test module."""
