"""What every command that looks at a checkpoint needs: what its journal says, which DAG is meant, how it stands.

Reads without the lock, also while a run writes; changes and unpickles nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagron.checkpoint.reading.opening import signing_key
from dagron.cli.exit_codes import UsageError
from dagron.cli.place import Place, Where
from dagron.errors import NoCheckpointError
from dagron.looking.opening import directory_of, found_ledger, recorded_dag

if TYPE_CHECKING:
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.graph.dag import DAG
    from dagron.looking.status import CheckpointStatus
    from dagron.results.tables import NodeFigures

__all__ = ["dag_for", "figures_now", "read_checkpoint", "status_now"]


def read_checkpoint(where: Place) -> Ledger:
    """Read what the journal of a checkpoint says.

    Raises:
        NoCheckpointError: There is none.
        CheckpointError: There is one that cannot be read.
    """
    try:
        return found_ledger(where, signing_key())
    except NoCheckpointError as error:
        if isinstance(where, Where) and where.is_up_to_the_job:
            error.add_note(f"{where.given!r} says itself where its checkpoint is, so give that directory")
        raise


def dag_for(ledger: Ledger, target: str | None) -> DAG:
    """Return the DAG of a target, or else that of the last run.

    Raises:
        UsageError: There is no target, and the checkpoint does not say.
    """
    if target is not None:
        from dagron.cli.load import load_job
        from dagron.cli.origin import given_as_recorded

        return load_job(*given_as_recorded(target, ledger)).dag
    dag = recorded_dag(ledger)
    if dag is None:
        raise UsageError("this checkpoint has no record of its DAG; pass --dag with the file or module of the job")
    return dag


def status_now(ledger: Ledger, where: Place) -> CheckpointStatus:
    """Return how a checkpoint stands of which this was read."""
    from dagron.looking.status import status_of

    return status_of(ledger, directory_of(where), str(where), signing_key())


def figures_now(ledger: Ledger, dag: DAG | None, where: Place) -> list[NodeFigures]:
    """Return the figures of every node of a checkpoint of which this was read."""
    from dagron.looking.nodes import figures_of

    return figures_of(ledger, dag, directory_of(where), signing_key())
