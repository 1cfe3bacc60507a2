"""What must be true of the state of a run after every event: its invariants, and that phases change as it is drawn."""

from __future__ import annotations

from dagron.runs.phases import TRANSITIONS, Phase
from dagron.runs.state import RunState


def check_invariants(state: RunState) -> None:
    """Fail if one of the invariants of `dagron.runs.state` does not hold. Cost: the whole graph."""
    dispatcher = state._dispatcher
    in_slots = [node for slot in dispatcher._slots for node in slot.nodes()]
    settled = [phase >= Phase.COMPLETED for phase in state.phase]
    running = [node for node, phase in enumerate(state.phase) if phase == Phase.RUNNING]
    for node in running:
        for parent in state.graph.parent_indices(node):
            require(1, settled[parent])
            require(1, not state._fail_fast or state.phase[parent] == Phase.COMPLETED)
    require(2, len(in_slots) == len(set(in_slots)) and sorted(in_slots) == running)
    require(3, state.committing == sum(phase == Phase.COMMITTING for phase in state.phase))
    for node, phase in enumerate(state.phase):
        if phase == Phase.WAITING:
            parents = state.graph.parent_indices(node)
            require(4, state.pending[node] == sum(not settled[parent] for parent in parents))
    require(5, state.unsettled == settled.count(False))
    require(5, state.finished == (all(settled) and not in_slots and not state.committing))
    require(6, all(len(slot.batches) <= dispatcher._max_batches for slot in dispatcher._slots))
    require(7, len(in_slots) == 1 or dispatcher._exclusive.isdisjoint(in_slots))
    empty = any(not slot.batches and slot.kill is None for slot in dispatcher._slots)
    require(8, not empty or not dispatcher._ready or bool(state._completing) or dispatcher._must_wait())


def require(number: int, holds: bool) -> None:
    assert holds, f"invariant {number} of the run state does not hold"


class CheckedPhases(bytearray):
    """The phases of a state, each change of which must stand in `TRANSITIONS`.

    Attributes:
        seen: The changes so far.
    """

    seen: set[tuple[Phase, Phase]]

    def __setitem__(self, node, phase):
        before = Phase(self[node])
        assert phase in TRANSITIONS.get(before, {}), f"{before.name} to {Phase(phase).name} is no life of a node"
        self.__dict__.setdefault("seen", set()).add((before, Phase(phase)))
        super().__setitem__(node, phase)


def checked(state: RunState) -> RunState:
    """Have every change of a phase checked from now on."""
    state.phase = CheckedPhases(state.phase)
    return state
