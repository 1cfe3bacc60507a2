"""`_meta.json`: how a checkpoint stands, for people and scripts.

No run goes by it. The command line reads what runs now, and the clearing of a checkpoint whose journal is missing or
begins with damage reads which files there are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.journal import FORMAT_VERSION
from dagron.checkpoint.format.names import META
from dagron.checkpoint.reading.ledger import Ledger
from dagron.shown import iso_time

__all__ = ["NO_SLOTS", "write_snapshot"]


NO_SLOTS: Mapping[str, Any] = {"running": [], "preparing": []}
"""What the slots of a run do that has none."""


def write_snapshot(directory: Directory, ledger: Ledger, slots: Mapping[str, Any] = NO_SLOTS) -> None:
    """Replace `_meta.json`.

    Args:
        directory: The checkpoint directory.
        ledger: What its journal says.
        slots: What the slots do, for those who look from outside: in `running` the nodes that run, in `preparing` when
            the workers that are in `worker_init` entered it.
    """
    commits, run = ledger.commits, ledger.run
    meta = {
        "format_version": FORMAT_VERSION,
        "checkpoint_dir": str(directory.path),
        "total_nodes": run.total,
        "checkpoint_id": ledger.checkpoint_id.hex(),
        "completed_nodes": list(commits),
        "dropped_nodes": list(ledger.dropped),
        "failed_nodes": list(ledger.failures),
        "timestamp": iso_time(time.time()),
        "special_files": {name: special for name in commits.special if (special := commits[name].special_name)},
        "state": "running" if ledger.ended is None else "ended",
        "run": {"pid": run.pid, "host": run.host, "started": iso_time(run.at), "durability": run.durability},
        **slots,
    }
    # A line for each field. With `indent` json would be ten times as slow, and there is a name for each node.
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in meta.items()]
    text = "{\n " + ",\n ".join(lines) + "\n}\n"
    directory.replace(META, text.encode(), durable=False)
