"""What the pickles in a checkpoint name: functions that every later version must have under these names. Frozen.

A result refers to what the user's script defines by name (`names`), and holds what has no name there by value: code and
functions (`code`), classes (`classes`), and what the standard library makes of them (`library`). The names and the
parameters of these functions are part of the format of a checkpoint. So nothing here moves or changes its parameters,
and the room imports nothing of the rest of the package but `errors`, `shapes`, which is frozen, too, and `script`,
which says what the names stand for in this process.
"""
