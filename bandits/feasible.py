"""Hard rules as masks: which candidates may be placed next, given what the slots before hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Feasible(Protocol):
    """The hard rules of one request.

    Must be a function of the prefix alone, because the logged probabilities are renormalised over it and recomputed
    from the log.
    """

    def mask(self, prefix: Sequence[int]) -> Bools:
        """Candidates that may be placed next.

        Parameters
        ----------
        prefix : sequence of int
            Candidates placed so far, in order. They are taken out by the draw, whatever the mask says.

        Returns
        -------
        ndarray of bool, shape (n,)
            A fresh array, or one that the rule never changes afterwards.
        """
        ...


class Shrinking(Feasible, Protocol):
    """Rules under which a candidate that may not be placed now may not be placed later either.

    A draw then asks what each placement takes out, instead of a whole mask a slot.
    """

    def blocked(self, prefix: Sequence[int]) -> Sequence[int]:
        """Candidates that the last placement of `prefix` took out, itself among them; may name some that were out
        before.

        Parameters
        ----------
        prefix : sequence of int
            Candidates placed so far, at least one.
        """
        ...


class Everything:
    """No rule.

    Parameters
    ----------
    n : int
        Number of candidates.
    """

    __slots__ = ("_mask",)

    def __init__(self, n: int) -> None:
        self._mask: Bools = np.ones(n, dtype=np.bool_)

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`."""
        return self._mask


class GroupCaps:
    """At most so many of a group in a slate: per creator, per category, one of several near-duplicates.

    Remembers the last prefix (so it belongs to one request and one thread), but answers as a function of the prefix
    alone.

    Parameters
    ----------
    allowed : ndarray of bool, shape (n,)
        Candidates that may be shown at all (available, not excluded).
    groups : ndarray of int64, shape (n_rules, n)
        Group of each candidate under each rule; -1 = under no group.
    caps : sequence of int, length n_rules
        Largest number of one group's members in the slate, each >= 1.

    Examples
    --------
    >>> rule = GroupCaps(np.array([True, True, True]), np.array([[7, 7, 8]]), [1])
    >>> rule.mask([0]).tolist()
    [False, False, True]
    """

    __slots__ = ("_allowed", "_caps", "_columns", "_mask", "_members", "_out", "_prefix", "_rows")

    def __init__(self, allowed: Bools, groups: Ints, caps: Sequence[int]) -> None:
        n = allowed.shape[0]
        if groups.ndim != 2 or groups.shape != (len(caps), n) or any(cap < 1 for cap in caps):
            raise InvalidStatisticsError(
                f"groups of shape ({len(caps)}, {n}) and caps >= 1 wanted, got {groups.shape} and {list(caps)}"
            )
        self._allowed = allowed
        self._rows = groups.tolist()
        self._columns = groups.T.tolist()
        self._caps = tuple(caps)
        self._start()

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`; 1 us where the prefix grew by one since the last call, as it does in a draw."""
        n_known = len(self._prefix)
        wanted = list(prefix)
        if wanted[:n_known] != self._prefix:
            self._start()
            n_known = 0
        for index in wanted[n_known:]:
            self._place(index)
        if self._out:
            self._mask[self._out] = False
            self._out.clear()
        return self._mask.copy()

    def blocked(self, prefix: Sequence[int]) -> list[int]:
        """See `Shrinking.blocked`; 0.4 us."""
        if self._prefix != prefix[:-1]:
            self.mask(prefix[:-1])
        return self._place(prefix[-1])

    def _start(self) -> None:
        self._prefix: list[int] = []
        self._mask: Bools = self._allowed.copy()
        self._members: list[dict[int, int]] = [{} for _ in self._caps]
        self._out: list[int] = []  # not yet taken out of the mask

    def _place(self, index: int) -> list[int]:
        self._prefix.append(index)
        out = [index]
        for rule, group in enumerate(self._columns[index]):
            if group >= 0:
                members = self._members[rule]
                count = members[group] = members.get(group, 0) + 1
                if count == self._caps[rule]:
                    row, at = self._rows[rule], -1
                    for _ in range(row.count(group)):
                        at = row.index(group, at + 1)
                        out.append(at)
        self._out += out
        return out


class AllOf:
    """Several rules at once: feasible is what every one of them allows.

    Parameters
    ----------
    rules : sequence of Feasible
        At least one.
    """

    __slots__ = ("_rules",)

    def __init__(self, rules: Sequence[Feasible]) -> None:
        if not rules:
            raise InvalidStatisticsError("at least one rule wanted, got none")
        self._rules = tuple(rules)

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`."""
        mask = self._rules[0].mask(prefix).copy()
        for rule in self._rules[1:]:
            mask &= rule.mask(prefix)
        return mask


class RelevanceFloor:
    """Nothing below a quantile of the candidates' scores may be shown, so that exploration stays among good candidates.

    Where fewer than k candidates lie above it, the best k are feasible.

    Parameters
    ----------
    score : ndarray of float64, shape (n,)
        Value plus posterior mean.
    quantile : float
        In [0, 1]; 0 = no floor.
    k : int
        Slots that must be filled.
    """

    __slots__ = ("_mask",)

    def __init__(self, score: Floats, quantile: float, k: int) -> None:
        if not 0.0 <= quantile <= 1.0:
            raise InvalidStatisticsError(f"a quantile in [0, 1] wanted, got {quantile}")
        best = np.argsort(-score, kind="stable")
        self._mask: Bools = score >= np.quantile(score, quantile) if score.shape[0] else np.zeros(0, dtype=np.bool_)
        self._mask[best[:k]] = True

    def mask(self, prefix: Sequence[int]) -> Bools:
        """See `Feasible.mask`."""
        return self._mask
