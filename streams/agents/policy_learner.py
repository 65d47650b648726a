"""Learns Vowpal Wabbit's policy from the examples and publishes versioned snapshots.

VW's state cannot be added up, so one worker of all learns at a time: the one that holds the lease. What it has read
lies in the snapshot itself, so that the next owner goes on after the last example that the snapshot knows: each
example moves what is published once. Idle (one look at the settings a second) where no policy says ``vowpal``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge

from bandits.errors import CorruptStatisticsError
from features.hot_settings import HotStore
from features.policy_models import Lease, PolicyModels
from features.redis import connect
from liverank import log
from liverank.errors import ConfigError, CorruptError, LiverankError
from liverank.hot import HotSettings
from liverank.kafka import LogReader, Tp, begin_offsets, partition_counts
from liverank.settings import RankerSettings, Settings

if TYPE_CHECKING:
    from bandits.vw_snapshot import VowpalSnapshot
    from streams.agents.vowpal_learner import VowpalLearner

__all__ = ["NAME", "PolicyLearner", "learns"]

NAME: Final = "vowpal"
PUBLISH_S: Final = 1.0
LEASE_S: Final = 6.0
_IDLE_S: Final = 1.0
_LEARNED = Counter("liverank_policy_learned", "Slots that a learning policy learned from", ["policy"])
_OWNER = Gauge("liverank_policy_learner", "1 while this worker is the policy's learner", ["policy"])
_log = log.get(__name__)


def learns(ranker: RankerSettings, policies: Mapping[str, str]) -> bool:
    """Whether any arm or hot setting names the policy."""
    return any(text.partition("(")[0].strip() == NAME for text in (*ranker.arms, *policies.values()))


class PolicyLearner:
    """Runs the learner in one worker at a time, until it is stopped.

    Parameters
    ----------
    settings
        Resolved.
    generation
        Active one; orders versions.
    member
        Name of the worker.
    """

    def __init__(self, settings: Settings, generation: int, *, member: str) -> None:
        self._settings, self._generation = settings, generation
        self._topic = settings.topic("examples")
        client = connect(settings)
        self._hot = HotStore(client, settings.namespace)
        self._models = PolicyModels(client, settings.namespace)
        owner = f"{member}.{os.getpid()}"
        self._lease = Lease(client, f"{settings.namespace}:policy-learner:{NAME}", owner, LEASE_S)
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to publish and return."""
        self._stop.set()

    def run(self) -> None:
        """Learn while a policy asks for it and the lease is ours."""
        said = ""
        while not self._stop.is_set():
            try:
                if self._asked() is not None and self._lease.hold():
                    self._own()
                said = ""
            except LiverankError as error:
                if not error.retryable and not isinstance(error, ConfigError | CorruptError):
                    raise
                if str(error) != said:
                    said = str(error)
                    _log.warning("the policy's learner waits", error=said)
            self._stop.wait(_IDLE_S)

    def _asked(self) -> RankerSettings | None:
        """Settings that hold now, if any policy says vowpal."""
        _, hot = self._hot.read()
        ranker = self._effective(hot)
        return ranker if learns(ranker, hot.policies) else None

    def _effective(self, hot: HotSettings) -> RankerSettings:
        return hot.over(self._settings.ranker)

    def _own(self) -> None:
        from streams.agents.vowpal_learner import VowpalLearner, vowpal_settings

        ranker = self._asked()
        assert ranker is not None
        learner = VowpalLearner(self._newest(), lambda dim: vowpal_settings(ranker, dim))
        reader = self._open(learner)
        _OWNER.labels(NAME).set(1)
        _log.info("this worker learns the policy", policy=NAME, learned=learner.n_learned)
        looked_s, published = time.monotonic(), learner.n_read
        try:
            while True:
                learned = sum(learner.take(record) for record in reader.poll_batch(500, 0.25))
                _LEARNED.labels(NAME).inc(learned)
                now_s = time.monotonic()
                ending = self._stop.is_set()
                if now_s - looked_s < PUBLISH_S and not ending:
                    continue
                looked_s = now_s
                if not self._lease.hold():
                    return
                if learner.n_read > published:
                    snapshot = learner.snapshot()
                    if snapshot is not None and not self._models.write(
                        NAME, snapshot.to_bytes(), generation=self._generation, n_read=learner.n_read
                    ):
                        return  # a newer one is there: this worker was away
                    published = learner.n_read
                if ending:
                    self._lease.release()
                    return
                if self._asked() != ranker:
                    return  # begin again with what holds now
        finally:
            _OWNER.labels(NAME).set(0)
            reader.close()
            learner.close()

    def _newest(self) -> VowpalSnapshot | None:
        found = self._models.read(NAME)
        if found is None:
            return None
        from bandits.vw_snapshot import VowpalSnapshot

        try:
            return VowpalSnapshot.from_bytes(found[1])
        except CorruptStatisticsError as error:
            _log.error("the policy's snapshot cannot be read: it is learned anew", error=str(error))
            return None

    def _open(self, learner: VowpalLearner) -> LogReader:
        bootstrap = self._settings.kafka.bootstrap
        tps = [Tp(self._topic, p) for p in range(partition_counts(bootstrap, [self._topic]).get(self._topic, 0))]
        begins = begin_offsets(bootstrap, tps)
        starts = {tp: max(begins[tp], learner.positions.get(tp.partition, 0)) for tp in tps}
        for tp, offset in starts.items():
            learner.positions[tp.partition] = offset
        return LogReader(bootstrap, starts, name="policy-learner")
