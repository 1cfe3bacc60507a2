"""A checkpoint as it is seen from outside, also while a run goes on: how it stands, its nodes, their results."""
