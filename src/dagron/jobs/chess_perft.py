"""Perft: counts the leaves of the legal move trees of six chess positions, the standard test of move generators.

Each first move is a node, so the parts are very uneven, as they are wherever a search is split at its first level::

    position[<name>] -> <name>[<first move>] -> leaves[<name>] -> total
          (6)                 (178)                  (6)

191 nodes, 362 edges, integers only. Run it with `dagron run dagron.jobs.chess_perft --show total`: 16046250, which is
the sum of the published figures (https://www.chessprogramming.org/Perft_Results). `count_leaves` is the plain loop.

The move generator has only one side: after every move the board is turned upside down and the colours change places,
so whoever moves plays up the board, with the own king's home on the first rank. Sets of squares are integers with a bit
for each square, a1 the lowest and h8 the highest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dagron.flow import Flow

__all__ = [
    "POSITIONS",
    "Move",
    "Position",
    "Problem",
    "build",
    "count_after",
    "count_leaves",
    "flow",
    "legal_moves",
    "parse_fen",
    "play",
]


class Problem(NamedTuple):
    """A position with White to move, how many moves to look ahead, and how many leaves there are."""

    fen: str
    depth: int
    n_leaves: int


POSITIONS: Mapping[str, Problem] = {
    "start": Problem("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", 5, 4_865_609),
    "kiwipete": Problem("r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1", 4, 4_085_603),
    "position3": Problem("8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1", 5, 674_624),
    "position4": Problem("r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq - 0 1", 4, 422_333),
    "position5": Problem("rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8", 4, 2_103_487),
    "position6": Problem("r4rk1/1pp1qppp/p1np1n2/2b1p1B1/2B1P1b1/P1NP1N2/1PP1QPPP/R4RK1 w - - 0 10", 4, 3_894_594),
}


# --- what the nodes return and what they do --------------------------------------------------------------------------


class Position(NamedTuple):
    """A position as the side to move sees it: it plays up the board.

    Attributes:
        pawns: The pawns of both sides, and so on.
        own: The pieces of the side to move.
        other: Those of the other side.
        castling: The rooks with which a king may still castle, of both sides.
        en_passant: The square behind a pawn that has just moved two, or 0.
    """

    pawns: int
    knights: int
    bishops: int
    rooks: int
    queens: int
    kings: int
    own: int
    other: int
    castling: int
    en_passant: int


class Move(NamedTuple):
    """A move from one square to another; `promotion` is one of `qrbn`, or empty."""

    origin: int
    target: int
    promotion: str = ""

    def __str__(self) -> str:
        return f"{_square_name(self.origin)}{_square_name(self.target)}{self.promotion}"


def parse_fen(fen: str) -> Position:
    """Return the position of a FEN in which White is to move.

    Raises:
        ValueError: Black is to move.
    """
    board, side, castling, en_passant = fen.split()[:4]
    if side != "w":
        raise ValueError(f"only positions with White to move: {fen}")
    pieces = [0] * 6
    own = other = 0
    for rank, row in zip(range(7, -1, -1), board.split("/"), strict=True):
        file = 0
        for character in row:
            if character.isdigit():
                file += int(character)
                continue
            square = 1 << 8 * rank + file
            pieces[_KINDS.index(character.lower())] |= square
            if character.isupper():
                own |= square
            else:
                other |= square
            file += 1
    rooks = sum(1 << _CASTLING_ROOKS[right] for right in castling if right != "-")
    behind = 0 if en_passant == "-" else 1 << "abcdefgh".index(en_passant[0]) + 8 * (int(en_passant[1]) - 1)
    return Position(*[*pieces, own, other, rooks, behind])


def count_after(move: str, position: Position, depth: int) -> int:
    """Return how many leaves there are `depth` moves after `move`.

    Raises:
        ValueError: It is no legal move of the position.
    """
    for candidate in legal_moves(position):
        if str(candidate) == move:
            return count_leaves(play(position, candidate), depth)
    raise ValueError(f"{move} is not legal")


def count_leaves(position: Position, depth: int) -> int:
    """Return how many positions there are after `depth` moves, each as often as there are ways to it."""
    if depth == 0:
        return 1
    if depth == 1:
        return _count_moves(position)
    return sum(count_leaves(play(position, move), depth - 1) for move in legal_moves(position))


# --- moves -----------------------------------------------------------------------------------------------------------

_ALL = (1 << 64) - 1
_RANK_1 = 0xFF
_RANK_2 = 0xFF << 8
_RANK_8 = 0xFF << 56
_KINDS = "pnbrqk"
_CASTLING_ROOKS = {"K": 7, "Q": 0, "k": 63, "q": 56}
_ORTHOGONAL = ((0, 1), (0, -1), (1, 0), (-1, 0))
_DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))

# By the square of the rook: the squares between it and the king, those over which the king goes, and where the king
# and the rook come to stand.
_CASTLES = {
    1 << 7: (0b0110_0000, (5, 6), 6, 5),
    1 << 0: (0b0000_1110, (3, 2), 2, 3),
}


def _square_name(square: int) -> str:
    return f"{'abcdefgh'[square % 8]}{square // 8 + 1}"


def _reach(square: int, directions: tuple[tuple[int, int], ...], blockers: int, n_steps: int = 7) -> int:
    """Return the squares reached by going in each direction, up to the first blocker and with it."""
    reached = 0
    for right, up in directions:
        file, rank = square % 8, square // 8
        for _ in range(n_steps):
            file, rank = file + right, rank + up
            if not (0 <= file < 8 and 0 <= rank < 8):
                break
            reached |= 1 << 8 * rank + file
            if blockers >> 8 * rank + file & 1:
                break
    return reached


_LEAPS = tuple((right, up) for right in (-2, -1, 1, 2) for up in (-2, -1, 1, 2) if abs(right) != abs(up))
_KNIGHT = [_reach(square, _LEAPS, 0, 1) for square in range(64)]
_KING = [_reach(square, _ORTHOGONAL + _DIAGONAL, 0, 1) for square in range(64)]
_PAWN = [_reach(square, ((1, 1), (-1, 1)), 0, 1) for square in range(64)]
_ROOK_LINES = [_reach(square, _ORTHOGONAL, 0) for square in range(64)]
_BISHOP_LINES = [_reach(square, _DIAGONAL, 0) for square in range(64)]


@functools.cache
def _rook_reach(square: int, blockers: int) -> int:
    return _reach(square, _ORTHOGONAL, blockers)


@functools.cache
def _bishop_reach(square: int, blockers: int) -> int:
    return _reach(square, _DIAGONAL, blockers)


@functools.cache
def _between(first: int, second: int) -> int:
    """Return the squares between two that a slider connects; none for other two."""
    ends = 1 << first | 1 << second
    for lines, directions in ((_ROOK_LINES, _ORTHOGONAL), (_BISHOP_LINES, _DIAGONAL)):
        if lines[first] >> second & 1:
            return _reach(first, directions, ends) & _reach(second, directions, ends)
    return 0


def _squares(squares: int) -> Iterator[int]:
    while squares:
        lowest = squares & -squares
        yield lowest.bit_length() - 1
        squares ^= lowest


def _attackers(position: Position, square: int, occupied: int, other: int) -> int:
    """Return the pieces of `other` that attack a square, if `occupied` is what stands in their way."""
    pawns, knights, bishops, rooks, queens, kings = position[:6]
    return other & (
        _KNIGHT[square] & knights
        | _KING[square] & kings
        | _PAWN[square] & pawns
        | _rook_reach(square, occupied & _ROOK_LINES[square]) & (rooks | queens)
        | _bishop_reach(square, occupied & _BISHOP_LINES[square]) & (bishops | queens)
    )


def _targets(position: Position) -> Iterator[tuple[int, int]]:
    """Yield for each piece of the side to move its square and the squares to which it may go."""
    pawns, knights, bishops, rooks, queens, kings, own, other, castling, en_passant = position
    occupied = own | other
    king = kings & own
    home = king.bit_length() - 1
    checkers = _attackers(position, home, occupied, other)

    without_king = occupied ^ king  # or it would hide from a slider behind itself
    steps = 0
    for square in _squares(_KING[home] & ~own):
        if not _attackers(position, square, without_king, other):
            steps |= 1 << square
    if not checkers:
        for rook in _squares(castling & own & _RANK_1):
            free, path, to, _ = _CASTLES[1 << rook]
            if not occupied & free and not any(_attackers(position, square, occupied, other) for square in path):
                steps |= 1 << to
    yield home, steps

    if checkers & (checkers - 1):
        return  # two at once: only the king can move
    allowed = ~own & _ALL
    if checkers:
        allowed &= checkers | _between(home, checkers.bit_length() - 1)
    pins: dict[int, int] = {}
    snipers = _rook_reach(home, other & _ROOK_LINES[home]) & (rooks | queens)
    snipers |= _bishop_reach(home, other & _BISHOP_LINES[home]) & (bishops | queens)
    for sniper in _squares(snipers & other):
        line = _between(home, sniper)
        shield = line & own
        if shield and not shield & (shield - 1):
            pins[shield.bit_length() - 1] = line | 1 << sniper

    for square in _squares(own ^ king):
        bit = 1 << square
        if pawns & bit:
            to = bit << 8 & ~occupied
            if to and bit & _RANK_2:
                to |= to << 8 & ~occupied
            to = (to | _PAWN[square] & other) & allowed & pins.get(square, _ALL)
            # Two pawns leave a rank at once, which no pin tells; so it is tried.
            if _PAWN[square] & en_passant:
                taken = en_passant >> 8
                if not _attackers(position, home, occupied ^ bit ^ en_passant ^ taken, other ^ taken):
                    to |= en_passant
            yield square, to
            continue
        to = 0
        if knights & bit:
            to = _KNIGHT[square]
        if (bishops | queens) & bit:
            to = _bishop_reach(square, occupied & _BISHOP_LINES[square])
        if (rooks | queens) & bit:
            to |= _rook_reach(square, occupied & _ROOK_LINES[square])
        yield square, to & allowed & pins.get(square, _ALL)


def _count_moves(position: Position) -> int:
    n = 0
    for square, targets in _targets(position):
        n += targets.bit_count()
        if position.pawns >> square & 1:
            n += 3 * (targets & _RANK_8).bit_count()
    return n


def legal_moves(position: Position) -> list[Move]:
    """Return the legal moves of the side to move, always in the same order."""
    moves = []
    for origin, targets in _targets(position):
        pawn = position.pawns >> origin & 1
        for target in _squares(targets):
            promotions = "qrbn" if pawn and target >= 56 else ("",)
            moves += [Move(origin, target, promotion) for promotion in promotions]
    return moves


def play(position: Position, move: Move) -> Position:
    """Return the position after a legal move, as the other side sees it."""
    own, other, castling = position.own, position.other, position.castling
    origin, target = 1 << move.origin, 1 << move.target
    pieces = list(position[:6])
    kind = next(kind for kind in range(6) if pieces[kind] & origin)
    gone = origin | target
    behind = 0
    if kind == 0:
        if target == position.en_passant:
            gone |= target >> 8
        elif target == origin << 16:
            behind = origin << 8
    pieces = [squares & ~gone for squares in pieces]
    pieces[_KINDS.index(move.promotion) if move.promotion else kind] |= target
    own = own ^ origin | target
    if kind == 5:
        for rook, (_, _, king_to, rook_to) in _CASTLES.items():
            if castling & rook and move.target == king_to and abs(move.target - move.origin) == 2:
                pieces[3] ^= rook | 1 << rook_to
                own ^= rook | 1 << rook_to
        castling &= ~_RANK_1
    castling &= ~gone
    return Position(*map(_turned, [*pieces, other & ~gone, own, castling, behind]))


def _turned(squares: int) -> int:
    """Turn the board upside down: the eighth rank becomes the first."""
    return int.from_bytes(squares.to_bytes(8, "little"), "big")


# --- the flow --------------------------------------------------------------------------------------------------------


def build(positions: Mapping[str, Problem] = POSITIONS) -> Flow:
    """Return the flow that counts the leaves of all positions; its node `total` has their sum.

    The first moves are nodes, so they are found here: 1 ms for all positions.
    """
    flow = Flow()
    leaves = []
    for name, (fen, depth, _) in positions.items():
        first_moves = [str(move) for move in legal_moves(parse_fen(fen))]
        position = flow.add(f"position[{name}]", parse_fen, fen)
        counts = flow.map(name + "[{}]", count_after, first_moves, position=position, depth=depth - 1)
        leaves.append(flow.add(f"leaves[{name}]", sum, counts))
    flow.add("total", sum, leaves)
    return flow


flow = build()
