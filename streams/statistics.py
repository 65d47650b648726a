"""The bandit's statistics of one partition, as a state of the user fold: key ``#stats:<base model>:<schema>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandits.arms import ArmPartials
from bandits.errors import InvalidStatisticsError
from bandits.items import WithItems, item_features, looks_at
from bandits.logistic import LogisticPartial
from bandits.partials import PHI_GRID, PHI_LIMIT, RESIDUAL_GRID, RESIDUAL_LIMIT, Partial, Statistics
from bandits.stored import ARM, ITEM, ITEMS_SHARED, LOGISTIC, read_items, read_stored
from features.redis import VersionedValue, parse_version
from liverank.v1.event_pb2 import Exposure, ExtraStatistics

__all__ = ["PREFIX", "StatisticsState", "statistics_key"]

PREFIX: Final = "#stats:"
_SUMS: Final = b"d"
_PARTITION: Final = b"p"

_ARMS_WANTED: Final = int(ExtraStatistics.EXTRA_STATISTICS_ARMS)
_ITEMS_WANTED: Final = int(ExtraStatistics.EXTRA_STATISTICS_ITEMS)
_LOGISTIC_WANTED: Final = int(ExtraStatistics.EXTRA_STATISTICS_LOGISTIC)


class _Name(NamedTuple):
    base_model: str
    schema: str


def statistics_key(base_model: str, schema: str) -> str:
    """State key of the statistics that an exposure of this model and schema moves."""
    return f"{PREFIX}{base_model}:{schema}"


class StatisticsState:
    """Sums of one (base model, schema) over the partition's users; a `streams.fold.KeyState`.

    The shared sums are of all slates. The sums per category, per item and the logistic ones are of those whose exposure
    asks for them; each arm and each item is a field of its own, so that only those that moved are written.
    """

    grids: Final = (PHI_GRID, PHI_LIMIT, RESIDUAL_GRID, RESIDUAL_LIMIT)
    """Steps and largest absolute values of features and residuals."""

    __slots__ = ("_changed", "_logistic_changed", "_name", "_partition", "arms", "items", "logistic", "partial")

    def __init__(self, key: str, fields: Mapping[bytes, bytes]) -> None:
        base_model, _, schema = key.removeprefix(PREFIX).partition(":")
        self._name = _Name(base_model, schema)
        stored = fields.get(_SUMS)
        self.partial = Partial.from_bytes(stored) if stored else None
        self.arms, self.logistic = read_stored(fields)
        if self.arms is not None:
            self.arms.take_changes()
        self.items = read_items(fields)
        self._partition = int(fields.get(_PARTITION, b"0"))
        self._changed = self._logistic_changed = False

    def shown(
        self,
        partition: int,
        exposure: Exposure,
        phi: NDArray[np.float64],
        residuals: NDArray[np.float64],
        exposure_ts_ms: int,
    ) -> None:
        """Enter a slate; see `features.state.emitter.Emitter.shown`.

        Raises
        ------
        InvalidStatisticsError
            The slate cannot be summed. Nothing was added.
        """
        dim, n_heads = phi.shape[1], residuals.shape[1]
        wanted = set(exposure.statistics)
        p = np.empty((0, n_heads))
        if _LOGISTIC_WANTED in wanted or _ITEMS_WANTED in wanted:
            p = np.array([slot.p_shown for slot in exposure.slots], dtype=np.float64)
            if p.shape != residuals.shape or not bool(((p >= 0) & (p <= 1)).all()):
                raise InvalidStatisticsError("a probability in [0, 1] of each head wanted; nothing was added")
        partial = self.partial or Partial(dim, n_heads)
        partial.shown(phi, residuals, exposure_ts_ms)
        if self.partial is None:
            self.partial, self._partition = partial, partition
        self._changed = True
        if _ARMS_WANTED in wanted:
            if self.arms is None:
                self.arms = ArmPartials(partial.dim, partial.n_heads)
            for arm, slots in _by_arm(exposure).items():
                self.arms.shown(arm, phi[slots], residuals[slots], exposure_ts_ms)
        if _ITEMS_WANTED in wanted:
            if self.items is None:
                self.items = WithItems.none(dim, n_heads)
            x, looks = item_features(phi, p[:, 0]), looks_at(np.arange(1, len(phi) + 1))
            self.items.shared.shown(x, residuals, exposure_ts_ms)
            items = [slot.item_id for slot in exposure.slots]
            self.items.items.shown(items, looks, x, residuals, exposure_ts_ms)
        if _LOGISTIC_WANTED in wanted:
            if self.logistic is None:
                self.logistic = LogisticPartial(partial.dim, partial.n_heads)
            self.logistic.shown(phi, p, exposure_ts_ms, residuals=residuals)
            self._logistic_changed = True

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        """Move a residual; see `features.state.emitter.Emitter.outcome`.

        Raises
        ------
        InvalidStatisticsError
            Its slate is not in the statistics. Nothing was added.
        """
        if self.partial is None:
            raise InvalidStatisticsError("an outcome without statistics; nothing was added")
        self.partial.outcome(phi, head, delta, exposure_ts_ms)
        self._changed = True
        wanted = set(exposure.statistics)
        if _ARMS_WANTED in wanted and self.arms is not None:
            self.arms.outcome(exposure.slots[slot].category, phi, head, delta, exposure_ts_ms)
        if _ITEMS_WANTED in wanted and self.items is not None:
            own, looks = exposure.slots[slot], float(looks_at(slot + 1))
            x = item_features(phi[None], np.array([own.p_shown[0]], dtype=np.float64))[0]
            self.items.shared.outcome(x, head, delta, exposure_ts_ms)
            self.items.items.outcome(own.item_id, looks, head, delta, exposure_ts_ms)
        if _LOGISTIC_WANTED in wanted and self.logistic is not None:
            self.logistic.outcome(phi, head, delta, exposure_ts_ms)
            self._logistic_changed = True

    @property
    def shape(self) -> tuple[int, int]:
        """Length of phi and number of heads; (0, 0) = it holds no slate yet."""
        return (0, 0) if self.partial is None else (self.partial.dim, self.partial.n_heads)

    def add_sums(
        self, partition: int, dim: int, n_heads: int, a: bytes, b: bytes, n_shown: int, newest_ms: int
    ) -> None:
        """Add what native code summed of many slates and outcomes that move nothing but the shared sums.

        Parameters
        ----------
        a, b : bytes
            Sums of phi phi^T and of phi e_h as float64, shapes (dim, dim) and (n_heads, dim), of terms on `grids`.
        """
        sums = Statistics(np.frombuffer(a).reshape(dim, dim), np.frombuffer(b).reshape(n_heads, dim), n_shown)
        other = Partial.of_sums(sums, newest_ms)
        if self.partial is None:
            self.partial, self._partition = other, partition
        else:
            self.partial.merge(other)
        self._changed = True

    def merge(self, key: str, fields: Mapping[bytes, bytes]) -> None:
        """Add sums that were counted apart, in the stored form."""
        other = StatisticsState(key, fields)
        if other.partial is None:
            return
        if self.partial is None:
            self.partial, self._partition = Partial(other.partial.dim, other.partial.n_heads), other._partition
        self.partial.merge(other.partial)
        self._changed = True
        if other.arms is not None:
            if self.arms is None:
                self.arms = ArmPartials(other.partial.dim, other.partial.n_heads)
            self.arms.merge(other.arms)
        if other.items is not None:
            if self.items is None:
                self.items = WithItems.none(other.partial.dim, other.partial.n_heads)
            self.items.merge(other.items)
        if other.logistic is not None:
            if self.logistic is None:
                self.logistic = LogisticPartial(other.partial.dim, other.partial.n_heads)
            self.logistic.merge(other.logistic)
            self._logistic_changed = True

    def take_back(self, other: StatisticsState) -> None:
        """Subtract sums that were entered here before, counted apart once more."""
        if other.partial is None or self.partial is None:
            return
        self.partial.take_back(other.partial)
        self._changed = True
        if other.arms is not None and self.arms is not None:
            self.arms.take_back(other.arms)
        if other.items is not None and self.items is not None:
            self.items.shared.take_back(other.items.shared)
            self.items.items.merge(other.items.items, sign=-1)
        if other.logistic is not None and self.logistic is not None:
            self.logistic.take_back(other.logistic)
            self._logistic_changed = True

    def due_ms(self) -> int | None:
        """Statistics are never due."""
        return None

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call; empty = no longer kept."""
        if not self._changed or self.partial is None:
            return {}
        self._changed = False
        fields = {_SUMS: self.partial.to_bytes(), _PARTITION: b"%d" % self._partition}
        if self.arms is not None:
            for arm, one in self.arms.take_changes().items():
                fields[ARM + arm.encode()] = b"" if one is None else one.to_bytes()
        if self.items is not None:
            changes = self.items.items.take_changes()
            for item, own in changes.items():
                fields[ITEM + item.encode()] = b"" if own is None else own.to_bytes()
            if changes:
                fields[ITEMS_SHARED] = self.items.shared.to_bytes()
        if self.logistic is not None and self._logistic_changed:
            self._logistic_changed = False
            fields[LOGISTIC] = self.logistic.to_bytes()
        return fields

    def value(self, namespace: str, fields: Mapping[bytes, bytes], version: bytes) -> VersionedValue:
        """What rankers read: ``<ns>:bandit:<generation>:<base model>:<schema>:<partition>``, the same fields."""
        generation = max(1, parse_version(version)[0])
        name = f"{namespace}:bandit:{generation}:{self._name.base_model}:{self._name.schema}:{self._partition}"
        shown = {field.decode(): data for field, data in fields.items() if field != _PARTITION}
        return VersionedValue(name, shown, version)


def _by_arm(exposure: Exposure) -> dict[str, Sequence[int]]:
    """Slots of each category."""
    found: dict[str, list[int]] = {}
    for at, slot in enumerate(exposure.slots):
        found.setdefault(slot.category, []).append(at)
    return dict(found)
