"""Compares the states of two generations: the same users, sessions, items and sums, whatever the partitions.

Users and sessions to the byte, or where views were backfilled to 1e-9; items to 1e-9, since their sources are added in
another order; statistics by their sums over partitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandits.items import ItemSum
from bandits.logistic import LogisticPartial
from bandits.partials import Partial
from bandits.stored import ARM, ITEM, ITEMS_SHARED, LOGISTIC
from features.state.neighbours import FIELDS as NEIGHBOURS
from features.state.neighbours import LANDMARK_MS
from features.state.neighbours import decode as neighbours
from streams.fence import FencedStore
from streams.rows import SESSION
from streams.statistics import PREFIX

__all__ = ["Comparison", "Side", "compare"]

Fields = Mapping[bytes, bytes]
_CHUNK: Final = 500
_TOLERANCE: Final = 1e-9
#: Heads of pages that may stand before float64s, bytes.
_HEADS: Final = range(8)
_NAMED: Final = 5


class Side(NamedTuple):
    """A generation's states of one fold."""

    store: FencedStore
    n_partitions: int


@dataclass(kw_only=True)
class Comparison:
    """What was compared.

    Attributes
    ----------
    keys : dict of str to int
        Keys compared: users, sessions, items.
    statistics : int
        Sums compared.
    shared : int
        Sessions of several users, which a generation may hold in one state or in several: not compared.
    differing : int
        Keys and sums that are not the same.
    named : list of str
        The first of these, and how.
    """

    keys: dict[str, int] = field(default_factory=dict)
    statistics: int = 0
    shared: int = 0
    differing: int = 0
    named: list[str] = field(default_factory=list)

    def differs(self, what: str) -> None:
        """Note a difference."""
        self.differing += 1
        if len(self.named) < _NAMED:
            self.named.append(what)


def compare(kind: str, old: Side, new: Side, into: Comparison, *, tell: Callable[[int], None] = lambda _: None) -> None:
    """Compare the states of one fold in two generations.

    Parameters
    ----------
    kind : str
        ``u`` or ``i``.
    into : Comparison
        Takes what is found.
    tell : callable
        Called with the number of keys done.
    """
    keys_old, keys_new = _keys(old), _keys(new)
    place = {key: partition for partition, keys in keys_new.items() for key in keys}
    held = Counter(key for keys in (*keys_old.values(), *keys_new.values()) for key in keys)
    done = 0
    for partition, keys in keys_old.items():
        plain = [key for key in keys if not key.startswith("#")]
        for at in range(0, len(plain), _CHUNK):
            chunk = plain[at : at + _CHUNK]
            wanted = [(place[key], key) for key in chunk if key in place]
            after = dict(zip((key for _, key in wanted), new.store.load_many(wanted), strict=True))
            for key, fields in zip(chunk, old.store.load(partition, chunk), strict=True):
                if held[key] > 2 and key.startswith(SESSION):
                    into.shared += 1
                    continue
                what = "items" if kind == "i" else "sessions" if key.startswith(SESSION) else "users"
                into.keys[what] = into.keys.get(what, 0) + 1
                if (difference := _difference(kind, fields, after.get(key, {}))) is not None:
                    into.differs(f"{what[:-1]} {key!r}: {difference}")
            done += len(chunk)
            tell(done)
    known = {key for keys in keys_old.values() for key in keys}
    for key in place:
        if key not in known and not key.startswith("#"):
            into.differs(f"{key!r} is only in the new generation")
    before, behind = _statistics(old, keys_old), _statistics(new, keys_new)
    for name in sorted(set(before) | set(behind)):
        into.statistics += 1
        if name not in before or name not in behind or not before[name].equals(behind[name]):
            into.differs(f"statistics {name}")


def _keys(side: Side) -> dict[int, list[str]]:
    return {
        partition: sorted({key for keys in side.store.keys(partition) for key in keys})
        for partition in range(side.n_partitions)
    }


def _difference(kind: str, before: Fields, after: Fields) -> str | None:
    """What differs first; None = nothing."""
    if not after:
        return "lost"
    if set(before) != set(after):
        names = sorted(name.decode() for name in set(before) ^ set(after))
        return f"fields {', '.join(names[:3])} stand on one side alone"
    for name, page in before.items():
        if page != after[name] and not (kind == "i" and name in NEIGHBOURS) and not _same(page, after[name]):
            return f"field {name.decode()} differs"
    if kind == "i" and not _same_neighbours(before, after):
        return "neighbours differ"
    return None


def _same(a: bytes, b: bytes) -> bool:
    """Equal float64s to 1e-9, after a common head."""
    if len(a) != len(b):
        return False
    for skip in _HEADS:
        cut = (len(a) - skip) // 8 * 8
        if a[:skip] != b[:skip] or a[skip + cut :] != b[skip + cut :]:
            continue
        x, y = np.frombuffer(a, "<f8", cut // 8, skip), np.frombuffer(b, "<f8", cut // 8, skip)
        if np.allclose(x, y, rtol=_TOLERANCE, atol=1e-12, equal_nan=True):
            return True
    return False


def _same_neighbours(before: Fields, after: Fields) -> bool:
    one, other = ([fields.get(name) for name in NEIGHBOURS] for fields in (before, after))
    if one == other:
        return True
    (a, a_weights, cut), (b, b_weights, _) = neighbours(one, LANDMARK_MS), neighbours(other, LANDMARK_MS)
    x, y = dict(zip(a.tolist(), a_weights, strict=True)), dict(zip(b.tolist(), b_weights, strict=True))
    common = set(x) & set(y)
    same = all(abs(x[key] - y[key]) <= _TOLERANCE * max(abs(x[key]), abs(y[key])) for key in common)
    # Beyond 512 partners the smallest go, and which of equal ones does depends on the order of the sources.
    return same and (set(x) == set(y) or (cut and len(common) > 0.9 * max(len(x), len(y))))


class _Sums(NamedTuple):
    """Sums of a statistic over partitions."""

    n: int
    values: list[NDArray[np.float64]]

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(self.n + other.n, [a + b for a, b in zip(self.values, other.values, strict=True)])

    def equals(self, other: _Sums) -> bool:
        return self.n == other.n and all(
            np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE) for a, b in zip(self.values, other.values, strict=True)
        )


def _sums(fields: Fields) -> Iterator[tuple[str, _Sums]]:
    for name, data in fields.items():
        if data and (name in (b"d", ITEMS_SHARED) or name.startswith(ARM)):
            partial = Partial.from_bytes(data)
            sums = partial.statistics()
            yield name.decode(), _Sums(partial.n_shown, [sums.a, sums.b])
        elif data and name.startswith(ITEM):
            item = ItemSum.from_bytes(data)
            yield name.decode(), _Sums(item.n_shown, [item.values])
        elif data and name == LOGISTIC:
            logistic = LogisticPartial.from_bytes(data)
            yield name.decode(), _Sums(logistic.n_shown, [logistic.curvature(), logistic.slope()])


def _statistics(side: Side, keys: Mapping[int, Sequence[str]]) -> dict[str, _Sums]:
    """Sums over partitions, by model, schema and field."""
    found: dict[str, _Sums] = {}
    for partition, known in keys.items():
        own = [key for key in known if key.startswith(PREFIX)]
        for key, fields in zip(own, side.store.load(partition, own), strict=True):
            for field_name, sums in _sums(fields):
                name = f"{key.removeprefix(PREFIX)} {field_name}"
                found[name] = found[name].plus(sums) if name in found else sums
    return found
