"""Hard rules of a slate, as masks inside the draw.

At each slot the feasible set is a function of what the slots before it hold, so the logged probabilities stay exact.
Nothing reorders, drops or replaces a slot afterwards. No rule is ever relaxed: where nothing is feasible, it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranker.errors import RankerConfigError
from ranker.inputs import Floats, ItemsView, Rows
from ranker.quotas import BoundQuota, SlateQuota


@dataclass(frozen=True, kw_only=True)
class ListRules:
    """Limits within one slate.

    Attributes
    ----------
    creator_share, category_share
        Largest share of the k slots that one creator, one first category may hold, in (0, 1]; 1 = no limit. Rounded
        up, never below `least`. Items without a creator or category are not limited.
    least
        Slots that any creator or category may always hold.
    duplicate_cosine
        Two items whose vectors are at least this near never meet in a slate; 1 or more = off.
    quotas
        Business rules and fairness floors of the request's surface.
    """

    creator_share: float = 0.3
    category_share: float = 0.6
    least: int = 2
    duplicate_cosine: float = 0.995
    quotas: tuple[BoundQuota, ...] = ()

    def __post_init__(self) -> None:
        for name in ("creator_share", "category_share"):
            if not 0 < getattr(self, name) <= 1:
                raise RankerConfigError(f"{name} must lie in (0, 1] (1 = no limit), got {getattr(self, name)}")
        if self.least < 1 or not self.duplicate_cosine > 0:
            raise RankerConfigError(
                f"least must be >= 1 and duplicate_cosine > 0, got {self.least} and {self.duplicate_cosine}"
            )

    def cap(self, share: float, k: int) -> int:
        """Slots that a share of k slots is; k where the share is 1."""
        return k if share >= 1 else min(k, max(self.least, int(np.ceil(share * k - 1e-9))))


NO_LIST_RULES = ListRules(creator_share=1.0, category_share=1.0, duplicate_cosine=2.0)
"""For candidates that the caller chose: the list is theirs."""


class SlateRules:
    """The feasible set of one request's candidates.

    Not thread-safe. `mask` costs about 3 us for a prefix that grows by one.

    Parameters
    ----------
    creators, categories
        Codes of the candidates, 0 = none; shape ``(n,)``.
    near
        ``near[i, j]``: i and j are near-duplicates; shape ``(n, n)``, symmetric, diagonal ignored; None = no pairs.
    k
        Slots of the slate.
    rules
        The limits.
    available
        Candidates that may be shown at all, shape ``(n,)``; None = all.

    Attributes
    ----------
    creators, categories, near
        As given.
    caps
        Most slots of one creator, of one category.
    quotas
        Least and most slots of kinds of items.
    available
        Candidates that may be shown at all, shape ``(n,)``.
    """

    def __init__(
        self,
        creators: NDArray[np.int32],
        categories: NDArray[np.int32],
        near: NDArray[np.bool_] | None,
        k: int,
        rules: ListRules,
        available: NDArray[np.bool_] | None = None,
        quotas: Sequence[SlateQuota] = (),
    ) -> None:
        caps = (rules.cap(rules.creator_share, k), rules.cap(rules.category_share, k))
        self._begin(creators, categories, near, k, caps, available, quotas)

    @classmethod
    def capped(
        cls,
        creators: NDArray[np.int32],
        categories: NDArray[np.int32],
        near: NDArray[np.bool_] | None,
        k: int,
        caps: tuple[int, int],
        available: NDArray[np.bool_] | None = None,
        quotas: Sequence[SlateQuota] = (),
    ) -> SlateRules:
        """The same from most slots of one creator and of one category: as a decision logs them."""
        rules = cls.__new__(cls)
        rules._begin(creators, categories, near, k, caps, available, quotas)
        return rules

    def _begin(
        self,
        creators: NDArray[np.int32],
        categories: NDArray[np.int32],
        near: NDArray[np.bool_] | None,
        k: int,
        caps: tuple[int, int],
        available: NDArray[np.bool_] | None,
        quotas: Sequence[SlateQuota],
    ) -> None:
        n = len(creators)
        self.creators, self.categories, self.near, self.caps = creators, categories, near, caps
        self.quotas, self._k = tuple(quotas), k
        self._groups = [(codes, cap) for codes, cap in zip((creators, categories), caps, strict=True) if cap < k]
        self.available = np.ones(n, dtype=np.bool_) if available is None else available.astype(np.bool_)
        for quota in self.quotas:
            if quota.most == 0:
                self.available &= ~quota.members
        self._held = [0] * len(self.quotas)
        self._prefix: list[int] = []
        self._mask = self.available.copy()
        self._used: list[dict[int, int]] = [{} for _ in self._groups]

    def mask(self, prefix: Sequence[int]) -> NDArray[np.bool_]:
        """Candidates that may follow `prefix` (places of candidates, in slot order); False for those in it.

        The result is the caller's own.
        """
        wanted = [int(at) for at in prefix]
        if wanted[: len(self._prefix)] != self._prefix:
            self._prefix, self._mask, self._used = [], self.available.copy(), [{} for _ in self._groups]
            self._held = [0] * len(self.quotas)
        for at in wanted[len(self._prefix) :]:
            self._place(at)
        return self._owed() if self.quotas else self._mask.copy()

    def _owed(self) -> NDArray[np.bool_]:
        """The mask; only owed items where as few slots are left as are owed."""
        owed, among = 0, np.zeros(len(self._mask), dtype=np.bool_)
        for quota, held in zip(self.quotas, self._held, strict=True):
            may = self._mask & quota.members
            missing = min(quota.least - held, int(np.count_nonzero(may)))
            if missing > 0:
                owed += missing
                among |= may
        return among if owed and self._k - len(self._prefix) <= owed else self._mask.copy()

    def _place(self, at: int) -> None:
        self._prefix.append(at)
        self._mask[at] = False
        if self.near is not None:
            self._mask &= ~self.near[at]
        for each, quota in enumerate(self.quotas):
            if quota.members[at]:
                self._held[each] += 1
                if self._held[each] >= quota.most:
                    self._mask &= ~quota.members
        for (codes, cap), used in zip(self._groups, self._used, strict=True):
            code = int(codes[at])
            if code > 0:
                used[code] = used.get(code, 0) + 1
                if used[code] >= cap:
                    self._mask &= codes != code


def near_duplicates(vectors: Floats, has_vector: NDArray[np.bool_], cosine: float) -> NDArray[np.bool_] | None:
    """Pairs of candidates at least this near, shape ``(n, n)``; None where there is no such pair."""
    if cosine > 1 or not has_vector.any():
        return None
    near: NDArray[np.bool_] = (vectors @ vectors.T) >= cosine
    near &= has_vector[:, None] & has_vector[None, :]
    np.fill_diagonal(near, False)
    return near if near.any() else None


def slate_rules(table: ItemsView, rows: Rows, k: int, rules: ListRules) -> SlateRules:
    """The rules over rows of a table, k slots."""
    near = near_duplicates(table.vectors[rows], table.has_vector[rows], rules.duplicate_cosine)
    quotas = [quota.over(rows, k) for quota in rules.quotas]
    return SlateRules(table.creator[rows], table.categories[rows, 0], near, k, rules, table.available[rows], quotas)


def shortlist(order: NDArray[np.int64], table: ItemsView, rows: Rows, k: int, size: int, rules: ListRules) -> Rows:
    """The best `size` candidates, such that a slate of k is feasible among them whenever one is among all.

    The best by value may all be of one creator or kind; then the draw would run dry. So the greedy slate under the
    rules is taken first, and the rest is filled by value.

    Parameters
    ----------
    order
        Places of candidates, best first, shape ``(n,)``.
    rows
        Rows of the candidates, shape ``(n,)``.

    Returns
    -------
    ndarray
        Places of the chosen ones, best first.
    """
    size = min(size, len(order))
    if len(order) <= size:
        return order.astype(np.int32)
    head = order[:size]
    if not rules.quotas and len(_greedy(table, rows, head, k, rules)) == min(k, size):
        return head.astype(np.int32)
    chosen = [int(order[at]) for at in _greedy(table, rows, order, k, rules)]
    taken = set(chosen)
    chosen.extend(at for at in order.tolist() if at not in taken)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    keep = np.array(chosen[:size], dtype=np.int32)
    return keep[np.argsort(place[keep], kind="stable")]


def _greedy(table: ItemsView, rows: Rows, order: NDArray[np.int64], k: int, rules: ListRules) -> list[int]:
    """The slate that greed makes of candidates in this order, as places in `order`."""
    feasible = slate_rules(table, rows[order].astype(np.int32), k, rules)
    prefix: list[int] = []
    while len(prefix) < k:
        mask = feasible.mask(prefix)
        if not mask.any():
            break
        prefix.append(int(mask.argmax()))
    return prefix
