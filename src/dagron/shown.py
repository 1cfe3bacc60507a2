"""Names, durations, sizes and bars as text, for the progress of a run, the command line and the report."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "Glyphs",
    "bar_cells",
    "glyphs_for",
    "iso_time",
    "shown_bytes",
    "shown_duration",
    "shown_name",
    "shown_seconds",
    "shown_time",
    "text_of",
    "without_middle",
]


class Glyphs(NamedTuple):
    """The characters that a bar is made of."""

    full: str
    rest: str
    ellipsis: str
    separator: str


_UNICODE = Glyphs("━", "─", "…", " · ")
_ASCII = Glyphs("#", "-", "...", ", ")


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the best characters that an encoding has."""
    try:
        "".join(_UNICODE).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _UNICODE


def shown_name(name: str, width: int = 0, ellipsis: str = "…") -> str:
    """Return a name that is safe on a terminal, also if it contains line breaks or escape sequences.

    Args:
        name: Any text.
        width: Characters that it may take; what is longer loses its middle, as ends tell names apart. 0 for any.
        ellipsis: What stands for the middle.
    """
    if not name.isprintable():
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    if not width or len(name) <= width:
        return name
    kept = max(2, width - len(ellipsis))
    head = kept // 3
    return f"{name[:head]}{ellipsis}{name[len(name) - kept + head :]}"


def without_middle(text: str, limit: int) -> str:
    """Return a text of several lines; one of more than `limit` characters loses its middle."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


def text_of(error: BaseException | None) -> str:
    """Return the text of an exception, also if its `__str__` raises."""
    try:
        # The plain text of a subclass of str, because it is unpickled where there is no such class.
        return str.__str__(str(error))
    except BaseException as broken:
        return f"<its __str__ raised {_name_of(type(broken))}>"


_name_of = type.__dict__["__name__"].__get__
"""Past the class of a class, which may have an attribute of this name."""


def shown_seconds(seconds: float) -> str:
    """Return what something took, with three digits: `0.35 ms`, `12.3 s`, `1 min 05 s`, `2 h 03 min`."""
    if seconds < 60:
        unit, value = ("ms", seconds * 1000) if 0 < seconds < 1 else ("s", seconds)
        return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def shown_duration(seconds: float) -> str:
    """Return the time on a clock that runs, as `m:ss`, `h:mm:ss` or `3 d 4:05:06`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute}:{second:02}"
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"


def shown_bytes(n: int) -> str:
    """Return a size: `512 B`, then with one decimal up to `TiB`."""
    if n < 1024:
        return f"{n} B"
    size = float(n)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def bar_cells(counts: list[int], total: int, width: int) -> list[int]:
    """Return how many of `width` cells each count takes; together never more than `width`."""
    cells, so_far, before = [], 0, 0
    for count in counts:
        so_far += count
        # Rounded down, so that the bar is full only when everything is done.
        upto = min(width, width * so_far // total) if total else width
        cells.append(upto - before)
        before = upto
    return cells


def iso_time(unix_seconds: float) -> str:
    """Return a time as ISO-8601 text in UTC."""
    from datetime import UTC, datetime  # no worker needs it

    return datetime.fromtimestamp(unix_seconds, UTC).isoformat()


def shown_time(unix: float, now_unix: float | None = None) -> str:
    """Return a time on this machine's clock, with how long ago it was if `now_unix` is given."""
    from datetime import datetime

    text = f"{datetime.fromtimestamp(unix):%Y-%m-%d %H:%M:%S}"
    if now_unix is None:
        return text
    return f"{text} ({shown_seconds(max(0.0, now_unix - unix))} ago)"
