"""Reads the operations of a pickle and makes inert values of them.

Not `pickle.Unpickler` with other classes: that hashes keys, which a few bytes can make take forever, and takes memory
for what an operation claims before it is there. It also tells all or nothing, where this one can stop anywhere and say
what was there until then. Large texts and buffers are neither copied nor decoded.

The operations are those of `pickletools.opcodes`, of all protocols up to 5.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from dagron.preview.making import made
from dagron.preview.values import ByteArray, Items, Leaf, LongText, Name, Object, Pairs

__all__ = ["Reading", "read"]

_MAX_SHORT = 4096
"""Bytes of a text, a name or an integer up to which it is made at once. Longer ones are shortened by whoever shows
them, so they need not be made; never varied."""


class Reading(NamedTuple):
    """What a pickle holds.

    Attributes:
        value: That, or what was there of it where reading stopped.
        n_operations: How many were carried out.
        stopped: Why the rest was not read; empty if there is none.
    """

    value: Any
    n_operations: int
    stopped: str


def read(data: bytes | memoryview, max_operations: int) -> Reading:
    """Return what a pickle holds, or the beginning of it. Raises nothing, whatever the bytes are.

    Args:
        data: The bytes; views of them are in the values.
        max_operations: So many are carried out. Each takes less than a microsecond, but for those that decode a text or
            number of up to 4 KiB.
    """
    machine = _Machine(memoryview(data).cast("B"))
    view, stopped, n = machine.data, "", 0
    try:
        while (code := view[machine.at]) != _STOP:
            if n == max_operations:
                stopped = f"only the first {n:,} operations of its pickle were read"
                break
            n += 1
            machine.at += 1
            _OPERATIONS[code](machine)
    except Exception as error:  # of any kind: no byte was checked before it was used
        stopped = f"its pickle cannot be read from byte {machine.at:,} on: {type(error).__name__}"
    return Reading(machine.ended(), n, stopped)


_STOP = pickle.STOP[0]

_u2 = struct.Struct("<H").unpack_from
_u4 = struct.Struct("<I").unpack_from
_i4 = struct.Struct("<i").unpack_from
_u8 = struct.Struct("<Q").unpack_from
_f8 = struct.Struct(">d").unpack_from


class _Machine:
    """Where reading is: the stack of values, the stacks below marks, the memo."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[tuple[str, str], Name] = {}

    # --- the bytes ---

    def u1(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def u2(self) -> int:
        self.at += 2
        n: int = _u2(self.data, self.at - 2)[0]
        return n

    def u4(self) -> int:
        self.at += 4
        n: int = _u4(self.data, self.at - 4)[0]
        return n

    def u8(self) -> int:
        self.at += 8
        n: int = _u8(self.data, self.at - 8)[0]
        return n

    def take(self, n: int) -> memoryview:
        """Return the next bytes, if there are so many."""
        end = self.at + n
        if end > len(self.data):
            raise EOFError
        found = self.data[self.at : end]
        self.at = end
        return found

    def line(self, encoding: str = "utf-8") -> str:
        window = bytes(self.data[self.at : self.at + _MAX_SHORT])
        n = window.index(b"\n")
        self.at += n + 1
        return window[:n].decode(encoding)

    # --- the stack ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def name(self, module: Any, path: Any) -> Name:
        if type(module) is not str or type(path) is not str:
            raise TypeError("no name")
        found = self.names.get((module, path))
        if found is None:
            # Up to protocol 2 the modules have the names that they had in Python 2.
            module_now = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
            found = self.names[module, path] = Name(module_now, path)
        return found

    def text(self, n: int) -> None:
        view = self.take(n)
        self.stack.append(str(view, "utf-8", "surrogatepass") if n <= _MAX_SHORT else LongText(view))

    def bytes(self, n: int) -> None:
        view = self.take(n)
        self.stack.append(bytes(view) if n <= _MAX_SHORT else view)

    def integer(self, n: int) -> None:
        view = self.take(n)
        self.stack.append(
            int.from_bytes(view, "little", signed=True) if n <= _MAX_SHORT else Leaf(f"<int of {n} bytes>")
        )

    def ended(self) -> Any:
        """Return the value, or where reading has stopped what there is of it, as if all marks had been met."""
        items = self.stack
        while self.below:
            stack = self.below.pop()
            _join(items)
            if not stack or not _take_all(stack[-1], items):
                stack.append(tuple(items))
            items = stack
        _join(items)
        return items[0] if items else Leaf("<nothing>")


def _join(items: list[Any]) -> None:
    """Give the last object its arguments or its state where these are there and the operation is not."""
    if len(items) > 1:
        last, before = items[-1], items[-2]
        if isinstance(before, Name) and type(last) is tuple:
            items[-2:] = [Object(before, last)]
        elif isinstance(before, Object) and isinstance(last, (Pairs, tuple)) and before.state is None:
            before.state = last
            items.pop()


def _take_all(holder: Any, items: list[Any]) -> bool:
    if type(holder) is list:
        holder.extend(items)
    elif isinstance(holder, Pairs):
        holder.pairs.extend(zip(items[::2], items[1::2], strict=False))
    elif isinstance(holder, (Items, Object)):
        holder.items.extend(items)
    else:
        return False
    return True


# --- the operations --------------------------------------------------------------------------------------------------


def _unknown(_: _Machine) -> None:
    raise ValueError("no operation")


_OPERATIONS: list[Callable[[_Machine], None]] = [_unknown] * 256


def _on(*codes: bytes) -> Callable[[Callable[[_Machine], None]], Callable[[_Machine], None]]:
    def note(function: Callable[[_Machine], None]) -> Callable[[_Machine], None]:
        for code in codes:
            _OPERATIONS[code[0]] = function
        return function

    return note


def _constant(code: bytes, value: Any) -> None:
    _OPERATIONS[code[0]] = lambda machine: machine.stack.append(value)


_constant(pickle.NONE, None)
_constant(pickle.NEWTRUE, True)
_constant(pickle.NEWFALSE, False)
_constant(pickle.EMPTY_TUPLE, ())

_OPERATIONS[pickle.EMPTY_LIST[0]] = lambda machine: machine.stack.append([])
_OPERATIONS[pickle.EMPTY_DICT[0]] = lambda machine: machine.stack.append(Pairs([]))
_OPERATIONS[pickle.EMPTY_SET[0]] = lambda machine: machine.stack.append(Items("set", []))

_OPERATIONS[pickle.BININT1[0]] = lambda machine: machine.push(machine.u1())
_OPERATIONS[pickle.BININT2[0]] = lambda machine: machine.push(machine.u2())
_OPERATIONS[pickle.LONG1[0]] = lambda machine: machine.integer(machine.u1())
_OPERATIONS[pickle.LONG4[0]] = lambda machine: machine.integer(machine.u4())
_OPERATIONS[pickle.SHORT_BINUNICODE[0]] = lambda machine: machine.text(machine.u1())
_OPERATIONS[pickle.BINUNICODE[0]] = lambda machine: machine.text(machine.u4())
_OPERATIONS[pickle.BINUNICODE8[0]] = lambda machine: machine.text(machine.u8())
_OPERATIONS[pickle.SHORT_BINBYTES[0]] = lambda machine: machine.bytes(machine.u1())
_OPERATIONS[pickle.BINBYTES[0]] = lambda machine: machine.bytes(machine.u4())
_OPERATIONS[pickle.BINBYTES8[0]] = lambda machine: machine.bytes(machine.u8())
_OPERATIONS[pickle.SHORT_BINSTRING[0]] = lambda machine: machine.bytes(machine.u1())
_OPERATIONS[pickle.BINSTRING[0]] = lambda machine: machine.bytes(machine.u4())
_OPERATIONS[pickle.BYTEARRAY8[0]] = lambda machine: machine.push(ByteArray(machine.take(machine.u8())))

_OPERATIONS[pickle.MEMOIZE[0]] = lambda machine: machine.put(len(machine.memo))
_OPERATIONS[pickle.BINPUT[0]] = lambda machine: machine.put(machine.u1())
_OPERATIONS[pickle.LONG_BINPUT[0]] = lambda machine: machine.put(machine.u4())
_OPERATIONS[pickle.PUT[0]] = lambda machine: machine.put(int(machine.line()))
_OPERATIONS[pickle.BINGET[0]] = lambda machine: machine.push(machine.memo[machine.u1()])
_OPERATIONS[pickle.LONG_BINGET[0]] = lambda machine: machine.push(machine.memo[machine.u4()])
_OPERATIONS[pickle.GET[0]] = lambda machine: machine.push(machine.memo[int(machine.line())])

_OPERATIONS[pickle.FLOAT[0]] = lambda machine: machine.push(float(machine.line()))
_OPERATIONS[pickle.UNICODE[0]] = lambda machine: machine.push(machine.line("raw-unicode-escape"))
_OPERATIONS[pickle.STRING[0]] = lambda machine: machine.push(machine.line())
_OPERATIONS[pickle.DUP[0]] = lambda machine: machine.push(machine.stack[-1])
_OPERATIONS[pickle.LIST[0]] = lambda machine: machine.push(machine.pop_mark())
_OPERATIONS[pickle.TUPLE[0]] = lambda machine: machine.push(tuple(machine.pop_mark()))
_OPERATIONS[pickle.FROZENSET[0]] = lambda machine: machine.push(Items("frozenset", machine.pop_mark()))
_OPERATIONS[pickle.EXT1[0]] = lambda machine: machine.push(Name("", f"extension {machine.u1()}"))
_OPERATIONS[pickle.EXT2[0]] = lambda machine: machine.push(Name("", f"extension {machine.u2()}"))
_OPERATIONS[pickle.EXT4[0]] = lambda machine: machine.push(Name("", f"extension {machine.u4()}"))
_OPERATIONS[pickle.PERSID[0]] = lambda machine: machine.push(Object(Name("", "persistent"), (machine.line(),)))
_OPERATIONS[pickle.NEXT_BUFFER[0]] = lambda machine: machine.push(Leaf("<a buffer that is elsewhere>"))
_OPERATIONS[pickle.READONLY_BUFFER[0]] = lambda _: None


@_on(pickle.PROTO)
def _protocol(machine: _Machine) -> None:
    machine.at += 1


@_on(pickle.FRAME)
def _frame(machine: _Machine) -> None:
    machine.at += 8


@_on(pickle.BININT)
def _int4(machine: _Machine) -> None:
    machine.push(_i4(machine.data, machine.at)[0])
    machine.at += 4


@_on(pickle.BINFLOAT)
def _float(machine: _Machine) -> None:
    machine.push(_f8(machine.data, machine.at)[0])
    machine.at += 8


@_on(pickle.INT, pickle.LONG)
def _int_in_text(machine: _Machine) -> None:
    text = machine.line()
    machine.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text.removesuffix("L")))


@_on(pickle.MARK)
def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


@_on(pickle.POP)
def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


@_on(pickle.POP_MARK)
def _pop_mark(machine: _Machine) -> None:
    machine.pop_mark()


@_on(pickle.TUPLE1)
def _tuple1(machine: _Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


@_on(pickle.TUPLE2)
def _tuple2(machine: _Machine) -> None:
    stack = machine.stack
    stack[-2:] = [(stack[-2], stack[-1])]


@_on(pickle.TUPLE3)
def _tuple3(machine: _Machine) -> None:
    stack = machine.stack
    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]


@_on(pickle.DICT)
def _dict(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.push(Pairs([*zip(items[::2], items[1::2], strict=True)]))


@_on(pickle.APPEND)
def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    _take_items(machine.stack[-1], [item])


@_on(pickle.APPENDS, pickle.ADDITEMS)
def _appends(machine: _Machine) -> None:
    items = machine.pop_mark()
    _take_items(machine.stack[-1], items)


def _take_items(holder: Any, items: list[Any]) -> None:
    if isinstance(holder, (Object, Items)):
        holder.items.extend(items)
    elif type(holder) is list:
        holder.extend(items)
    else:
        raise TypeError("no list")


@_on(pickle.SETITEM)
def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1].pairs.append((key, value))


@_on(pickle.SETITEMS)
def _set_items(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.stack[-1].pairs.extend(zip(items[::2], items[1::2], strict=True))


@_on(pickle.GLOBAL)
def _global(machine: _Machine) -> None:
    machine.push(machine.name(machine.line(), machine.line()))


@_on(pickle.STACK_GLOBAL)
def _stack_global(machine: _Machine) -> None:
    path, module = machine.stack.pop(), machine.stack.pop()
    machine.push(machine.name(module, path))


@_on(pickle.REDUCE)
def _reduce(machine: _Machine) -> None:
    args = machine.stack.pop()
    if type(args) is not tuple:
        raise TypeError("no arguments")
    machine.stack[-1] = made(machine.stack[-1], args)


@_on(pickle.NEWOBJ)
def _new_object(machine: _Machine) -> None:
    args = machine.stack.pop()
    if type(args) is not tuple:
        raise TypeError("no arguments")
    machine.stack[-1] = Object(machine.stack[-1], args)


@_on(pickle.NEWOBJ_EX)
def _new_object_with_keywords(machine: _Machine) -> None:
    keywords, args = machine.stack.pop(), machine.stack.pop()
    if type(args) is not tuple or not isinstance(keywords, Pairs):
        raise TypeError("no arguments")
    machine.stack[-1] = Object(machine.stack[-1], args, keywords)


@_on(pickle.INST)
def _instance(machine: _Machine) -> None:
    maker = machine.name(machine.line(), machine.line())
    args = tuple(machine.pop_mark())
    machine.push(made(maker, args))


@_on(pickle.OBJ)
def _object(machine: _Machine) -> None:
    maker, *args = machine.pop_mark()
    machine.push(made(maker, tuple(args)))


@_on(pickle.BUILD)
def _build(machine: _Machine) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Object):
        machine.stack[-1].state = state


@_on(pickle.BINPERSID)
def _persistent(machine: _Machine) -> None:
    machine.stack[-1] = Object(Name("", "persistent"), (machine.stack[-1],))
