"""What Vowpal Wabbit learns from label rows. Imported only where a policy asks for it."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError
from prometheus_client import Counter

from bandits import InvalidStatisticsError
from bandits.vw import VowpalModel, VowpalSettings
from bandits.vw_snapshot import VowpalSnapshot
from liverank.kafka import Record
from liverank.settings import RankerSettings
from liverank.v1.stream_pb2 import Example

__all__ = ["VowpalLearner", "vowpal_settings"]

_SKIPPED = Counter("liverank_policy_skipped", "Label rows that a learning policy left out", ["reason"])


def vowpal_settings(ranker: RankerSettings, dim: int) -> VowpalSettings:
    """What VW is started with."""
    return VowpalSettings(
        dim=dim, exploration=ranker.vw_exploration, learning_rate=ranker.vw_learning_rate, floor=ranker.vw_floor
    )


class VowpalLearner:
    """The model and how far it has read; one thread.

    Parameters
    ----------
    start
        Published before; None = from nothing.
    wanted
        (dimension of phi) -> settings; a snapshot of other settings or another feature schema is left behind.
    """

    def __init__(self, start: VowpalSnapshot | None, wanted: Callable[[int], VowpalSettings]) -> None:
        self._wanted = wanted
        self._schema = start.schema if start is not None else ""
        self._model: VowpalModel | None = None
        self._settings = start.settings if start is not None else None
        self.n_learned = start.n_learned if start is not None else 0
        self.newest_ms = start.newest_ms if start is not None else 0
        self.positions: dict[int, int] = dict(start.positions) if start is not None else {}
        if start is not None and start.settings == wanted(start.settings.dim):
            self._model = start.load()

    @property
    def n_read(self) -> int:
        """Records read in all."""
        return sum(self.positions.values())

    def take(self, record: Record) -> bool:
        """Learn from one label row; whether it did."""
        self.positions[record.partition] = record.offset + 1
        try:
            example = Example.FromString(record.value)
        except DecodeError:
            return self._skip("malformed")  # the example sink writes the dead letter
        if not example.drawn or example.pinned or example.correction or not example.phi:
            return self._skip("correction" if example.correction else "not_drawn")
        if example.schema != self._schema or self._model is None:
            self._begin(example.schema, len(example.phi))
        assert self._model is not None
        try:
            self._model.learn([list(example.phi)], 0, example.reward, min(1.0, example.propensity))
        except InvalidStatisticsError:
            return self._skip("malformed")
        self.n_learned += 1
        self.newest_ms = max(self.newest_ms, example.exposure_ts_ms)
        return True

    def snapshot(self) -> VowpalSnapshot | None:
        """What was learned so far; None before the first example."""
        if self._model is None or self._settings is None:
            return None
        return VowpalSnapshot(
            schema=self._schema,
            settings=self._settings,
            n_learned=self.n_learned,
            newest_ms=self.newest_ms,
            positions=dict(self.positions),
            model=self._model.to_bytes(),
        )

    def _begin(self, schema: str, dim: int) -> None:
        """Another feature schema or other settings: nothing that was learned can be used."""
        self.close()
        self._schema, self._settings = schema, self._wanted(dim)
        self._model = VowpalModel(self._settings)
        self.n_learned = 0

    def close(self) -> None:
        """Free VW's memory."""
        if self._model is not None:
            self._model.close()
            self._model = None

    @staticmethod
    def _skip(reason: str) -> bool:
        _SKIPPED.labels(reason).inc()
        return False
