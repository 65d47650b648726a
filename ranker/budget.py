"""Exposure budgets of new items, shared by all rankers and never exceeded.

A ranker may explore a new item only while it holds a *lease* on some of its exposures. Leases are granted by one
atomic call in Redis, which counts them per item up to the budget, so that the sum over rankers never exceeds it. A
ranker that ends returns what it did not spend; one that is killed loses at most `CHUNK` exposures per item.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from features.redis import Script, translated
from liverank.errors import LiverankError
from ranker import metrics
from ranker.feeds import Feed
from ranker.safety import ExploreRules

if TYPE_CHECKING:
    from features.redis import Redis

CHUNK: Final = 10
"""Largest lease."""
MOST_ITEMS: Final = 20_000
"""Items that a ranker keeps leases of."""
_KEEP_S: Final = 60 * 86_400
"""The counts of an item are kept for so long after its last lease."""

_LEASE = """
local granted = tonumber(redis.call('GET', KEYS[1]) or '0')
local n = math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - granted)
if n > 0 then redis.call('SET', KEYS[1], granted + n, 'EX', ARGV[3]) end
return math.max(n, 0)
"""
_RETURN = """
local granted = tonumber(redis.call('GET', KEYS[1]) or '0')
redis.call('SET', KEYS[1], math.max(0, granted - tonumber(ARGV[1])), 'EX', ARGV[2])
return 1
"""


class NewItemBudget(Feed):
    """Leases of one ranker. Thread-safe; requests never wait for Redis.

    Parameters
    ----------
    redis
        Shared by all rankers.
    namespace
        Key prefix: ``<ns>:new-item:<item id>`` holds the exposures granted.
    rules
        Gives the limits of this instant.
    """

    def __init__(self, redis: Redis, namespace: str, rules: Callable[[], ExploreRules]) -> None:
        super().__init__("new-item-budget", 0.1)
        self._namespace, self._rules = namespace, rules
        self._lease, self._return = Script(redis, _LEASE), Script(redis, _RETURN)
        self._redis: Any = redis
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._wanted: dict[str, None] = {}
        self._exhausted: dict[str, int] = {}
        self.loaded.set()

    def has(self, item_id: str) -> bool:
        """Whether an exposure of this item may be explored now; asks for a lease in the background where not."""
        with self._lock:
            if self._held.get(item_id, 0) > 0:
                return True
            if self._exhausted.get(item_id, -1) < self._rules().budget and len(self._wanted) < MOST_ITEMS:
                self._wanted[item_id] = None
            return False

    def spend(self, item_id: str) -> None:
        """An exposure was explored."""
        with self._lock:
            left = self._held.get(item_id, 0) - 1
            if left < 0:
                metrics.BUDGET_OVERSPENT.inc()
            elif left == 0:
                del self._held[item_id]
            else:
                self._held[item_id] = left
        metrics.BUDGET_SPENT.inc()

    def step(self) -> None:
        """Take leases for the items that requests asked for."""
        rules = self._rules()
        with self._lock:
            wanted = [item for item in self._wanted if self._held.get(item, 0) == 0][:1_000]
            for item in wanted:
                self._wanted.pop(item)
        if not wanted or not rules.budget:
            return
        chunk = max(1, min(CHUNK, rules.budget // 10))
        try:
            granted = self._lease.run_many(
                [(1, [self._key(item), chunk, rules.budget, _KEEP_S]) for item in wanted], "leasing exposures"
            )
        except LiverankError:
            with self._lock:
                self._wanted.update(dict.fromkeys(wanted))
            raise
        with self._lock:
            for item, n in zip(wanted, granted, strict=True):
                if n > 0:
                    self._held[item] = self._held.get(item, 0) + int(n)
                else:
                    self._exhausted[item] = rules.budget
            if len(self._exhausted) > MOST_ITEMS:
                self._exhausted.clear()

    def close(self) -> None:
        """Return what was not spent; without Redis it is lost (the item gets less, never more)."""
        with self._lock:
            held, self._held = self._held, {}
        try:
            self._return.run_many(
                [(1, [self._key(item), n, _KEEP_S]) for item, n in held.items()], "returning exposures"
            )
        except LiverankError as error:
            self.trouble = str(error)

    def granted(self, item_ids: list[str]) -> Mapping[str, int]:
        """Exposures granted so far, over all rankers."""
        with translated("reading exposure budgets"):
            found = self._redis.mget([self._key(item) for item in item_ids]) if item_ids else []
        return {item: int(n or 0) for item, n in zip(item_ids, found, strict=True)}

    def _key(self, item_id: str) -> str:
        return f"{self._namespace}:new-item:{item_id}"
