"""The names of a checkpoint's files: for nodes injective, readable for ordinary names, safe for any string.

The name of a node's file is a pure function of the node's name and of the other names around it; nothing here looks at
a disk. The rules, in order:

1.  Letters, digits, ``_``, ``-``, ``.`` and a space inside stand for themselves. Everything else, a leading ``.`` or
    space, and a trailing space are written as ``%xx``, one per UTF-8 byte, in lower-case hexadecimal. So the result is
    ASCII, has no separator, is never ``..``, and does not depend on how a file system normalises Unicode.
2.  The empty name is ``%``. (A ``%`` that two hexadecimal digits do not follow comes from these rules only.)
3.  A name that Windows reserves for a device (``con``, ``nul``, ``com1`` ...) has its first letter escaped.
4.  What would be longer than `MAX_STEM` characters is cut and gets ``%~`` and 32 hexadecimal digits of the BLAKE3
    of the whole name.
5.  A name with upper-case letters gets ``%^`` and a mask of them if another name differs from it in case only: such
    files would be one file on a case-insensitive file system. So does any name whose file would otherwise differ in
    case only from one that is recorded for another node.
6.  ``.pkl`` is appended.

Injective because each rule but 4 can be undone from the text alone, and 4 is as injective as its digest. A name that
has a file keeps it, whatever names come later: the record of its commit says which (see `records`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from blake3 import blake3

__all__ = ["JOURNAL", "LOCK", "MAX_STEM", "META", "SUFFIX", "FileNames", "plain_file_name", "scratch_name"]

JOURNAL = "_journal"
META = "_meta.json"
LOCK = "_lock"

SUFFIX = ".pkl"

MAX_STEM = 180
"""Longest stem. Common file systems allow 255 bytes; the rest is room for the mask and the suffix."""

_PLAIN = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_. -]*[A-Za-z0-9_.-])?", re.ASCII)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]) *(?:\..*)?", re.ASCII | re.IGNORECASE)
_DEVICE_STARTS = frozenset({"con", "prn", "aux", "nul", "com", "lpt"})
# A name that stands for itself, seen at a glance: those that the rules leave as they are, but for some.
_is_ordinary = re.compile(
    rf"(?!(?i:con|prn|aux|nul|com|lpt))[A-Za-z0-9_-](?:[A-Za-z0-9_. -]{{0,{MAX_STEM - 2}}}[A-Za-z0-9_.-])?", re.ASCII
).fullmatch
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-. ")


def _stem(name: str) -> str:
    if _PLAIN.fullmatch(name) and len(name) <= MAX_STEM:
        stem = name
    else:
        raw = name.encode("utf-8", "surrogatepass")
        last = len(raw) - 1
        stem = "".join(
            chr(byte)
            if byte in _SAFE and not (byte in b". " and i == 0) and not (byte == 32 and i == last)
            else f"%{byte:02x}"
            for i, byte in enumerate(raw)
        )
        if not stem:
            return "%"
    if stem[:3].lower() in _DEVICE_STARTS and _DEVICE.fullmatch(stem):
        stem = f"%{ord(stem[0]):02x}{stem[1:]}"
    if len(stem) > MAX_STEM:
        digest = blake3(name.encode("utf-8", "surrogatepass")).hexdigest(16)
        stem = f"{stem[: MAX_STEM - 34]}%~{digest}"
    return stem


@functools.lru_cache(maxsize=4096)  # a commit asks several times for the name of its file
def _escaped_file_name(name: str) -> str:
    return _stem(name) + SUFFIX


def plain_file_name(name: str) -> str:
    """Return the file name of a node that has no rival."""
    return f"{name}{SUFFIX}" if _is_ordinary(name) else _escaped_file_name(name)


def scratch_name(node: str) -> str:
    """Return the name of the directory in which a node keeps what it has done so far: 32 hexadecimal digits."""
    return blake3(node.encode("utf-8", "surrogatepass")).hexdigest(16)


class FileNames:
    """The file names of a set of nodes.

    Args:
        names: Every name that may need a file: the nodes of the DAG and the nodes that the checkpoint knows. A name's
            file depends on this set only if another name in it differs in case only.
        recorded: The files that nodes have already. Those of names in lower case may be left out if they are plain.
    """

    def __init__(self, names: Iterable[str], recorded: Mapping[str, str] | None = None) -> None:
        self._recorded = dict(recorded or {})
        self._taken = {file.lower(): name for name, file in self._recorded.items()}
        cased: dict[str, int] = {}
        plain: set[str] = set()
        for name in names:
            folded = name.lower()
            if folded == name:
                plain.add(name)
            else:
                cased[folded] = cased.get(folded, 0) + 1
        self._rivals = {folded for folded, n in cased.items() if n + (folded in plain) > 1}

    def special_name(self, name: str) -> str:
        """Return the name of the file that holds the result of `name` if it is not the plain one; else nothing."""
        if not self._recorded and not self._rivals:
            return ""
        found = self.file_name(name)
        return found if found != plain_file_name(name) else ""

    def file_name(self, name: str) -> str:
        """Return the name of the file that holds the result of `name`."""
        recorded = self._recorded.get(name)
        if recorded is not None:
            return recorded
        plain = plain_file_name(name)
        if not self._rivals and not self._taken:
            return plain
        folded = name.lower()
        is_rival = folded != name and folded in self._rivals
        if not is_rival and self._taken.get(plain.lower(), name) == name:
            return plain
        if len(name) > MAX_STEM:  # already told apart by its digest
            return plain
        mask = sum(1 << i for i, letter in enumerate(name) if letter != letter.lower())
        return f"{plain[: -len(SUFFIX)]}%^{mask:x}{SUFFIX}"
