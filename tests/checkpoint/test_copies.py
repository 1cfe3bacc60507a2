"""Who writes which copy: none is forgotten, whatever becomes of those that workers were given."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dagron.checkpoint.writing.copies import Copies, Copy

SLOTS = st.integers(0, 2)
COUNTS = st.integers(0, 5)


class Model(RuleBasedStateMachine):
    """Against plain sets: what waits, what each slot has, and what is written."""

    def __init__(self):
        super().__init__()
        self.copies = Copies()
        self.sequence = 0
        self.waiting = set()
        self.given = {
            0: [],
            1: [],
            2: [],
        }  # what each worker will write, and whether it was taken back
        self.first = {}

    def given_to(self, slot):
        return [sequence for sequence, is_back in self.given[slot] if not is_back]

    def taken_from(self, slot):
        taken = self.given_to(slot)
        self.given[slot] = [(sequence, True) for sequence, _ in self.given[slot]]
        return set(taken)

    @rule(n=COUNTS)
    def add(self, n):
        for _ in range(n):
            self.sequence += 1
            self.copies.add(Copy(self.sequence, None, bytes(self.sequence % 7)))
            self.waiting.add(self.sequence)

    @rule(n=COUNTS)
    def take(self, n):
        taken = [copy.sequence for copy in self.copies.take(n)]
        assert taken == sorted(self.waiting)[:n]
        self.waiting -= set(taken)

    @rule(slot=SLOTS, n=COUNTS)
    def give(self, slot, n):
        given = [copy.sequence for copy in self.copies.give(slot, n)]
        assert given == sorted(self.waiting)[:n]
        self.waiting -= set(given)
        self.given[slot] += [(sequence, False) for sequence in given]

    @rule(slot=SLOTS, n=COUNTS)
    def written_by_a_worker(self, slot, n):
        n = min(n, len(self.given[slot]))
        if n:
            self.copies.written(slot, n)
            del self.given[slot][:n]

    @rule(slot=SLOTS)
    def take_back(self, slot):
        self.copies.take_back(slot)
        self.waiting |= set(self.given_to(slot))
        self.given[slot] = []

    @rule()
    def take_back_overdue(self):
        self.copies.take_back_overdue()
        first = {slot: next(iter(self.given_to(slot)), None) for slot in self.given}
        for slot, sequence in first.items():
            if sequence is not None and self.first.get(slot) == sequence:
                self.waiting |= self.taken_from(slot)
        self.first = first

    @rule()
    def take_all(self):
        taken = [copy.sequence for copy in self.copies.take_all()]
        assert taken == sorted(self.waiting.union(*map(self.taken_from, self.given)))
        self.waiting = set()

    @invariant()
    def nothing_is_forgotten(self):
        left = self.waiting.union(*map(self.given_to, self.given))
        assert bool(self.copies) == bool(left)
        assert self.copies.n_bytes == sum(sequence % 7 for sequence in self.waiting)
        assert self.copies.first_sequence == min(left, default=None)


Model.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestCopies = Model.TestCase


def test_what_only_the_journal_has_is_given_to_nobody():
    copies = Copies()
    copies.add(Copy(0, None, None))
    copies.add(Copy(5, None, b"x"))
    assert copies.give(0, 9) == []
    assert [copy.sequence for copy in copies.take(1)] == [0]
    assert [copy.sequence for copy in copies.give(0, 9)] == [5]
