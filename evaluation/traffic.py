"""Live traffic of the simulated world: slates over gRPC, reactions over Kafka (and some through the gateway)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from evaluation.simulator import Behaviour, User, World
from liverank.calls import now_ms
from liverank.client import Client
from liverank.errors import UnavailableError
from liverank.producer import EventProducer
from liverank.v1.decision_pb2 import MODE_SERVE
from liverank.v1.personalization_pb2 import RankReply

PACE: Final = 0.001
SURFACE: Final = "home"


@dataclass
class TrafficReport:
    """What happened.

    Attributes
    ----------
    value, popular, common, oracle : float
        Expected clicks a slot, for the same users at the same times: of the slates shown, of what was clicked most, of
        the best list that is the same for all (it takes the true tastes of everybody), of the best possible slates.
    latency_ms : list of float
        Of each Rank, as the app saw it.
    """

    requests: int = 0
    failed: int = 0
    slots: int = 0
    clicks: int = 0
    events: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    value: float = 0.0
    popular: float = 0.0
    common: float = 0.0
    oracle: float = 0.0
    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)

    @property
    def click_rate(self) -> float:
        """Clicks a slot."""
        return self.clicks / max(1, self.slots)

    def summary(self) -> str:
        """One line."""
        p50, p99 = np.quantile(self.latency_ms or [0.0], [0.5, 0.99])
        rungs = ", ".join(f"{name} {n}" for name, n in self.rungs.most_common(3))
        return (
            f"{self.requests} slates, {sum(self.events.values())} events, {self.clicks} clicks; click rate a slot "
            f"{self.click_rate:.3f} (expected {self.value:.3f}; most clicked {self.popular:.3f}, best common list by "
            f"true tastes {self.common:.3f}, oracle {self.oracle:.3f}); "
            f"Rank p50 {p50:.1f} ms, p99 {p99:.1f} ms" + (f"; rungs: {rungs}" if rungs else "")
        )


class Traffic:
    """Users come, look, click, complain. One thread.

    Parameters
    ----------
    world : World
    behaviour : Behaviour
        Remembers what users have opened.
    client : Client
    producer : EventProducer
    users : sequence of User
        Who comes, by activity.
    popular : sequence of str
        Items that were clicked most, best first.
    track_share : float
        Share of the slates whose reactions go through the gateway (Track) instead of Kafka.
    """

    def __init__(
        self,
        world: World,
        behaviour: Behaviour,
        client: Client,
        producer: EventProducer,
        users: Sequence[User],
        popular: Sequence[str],
        *,
        track_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._world, self._behaviour, self._client, self._producer = world, behaviour, client, producer
        self._users, self._popular, self._track_share = list(users), list(popular), track_share
        self._rng = np.random.default_rng([world.params.seed, 20, seed])
        # Event ids must not repeat from run to run.
        self._ids = random.Random(f"{world.params.seed}-{seed}-{time.time_ns()}")
        weights = np.array([user.activity for user in self._users])
        self._weights = weights / weights.sum()

    def run(self, *, n_requests: int, rate: float, seconds: float = float("inf")) -> TrafficReport:
        """Let users come until `n_requests` slates were shown or the time is over.

        Parameters
        ----------
        rate : float
            Slates a second, Poisson; less where the ranker is slower.
        """
        report = TrafficReport()
        started_s = next_s = time.monotonic()
        values: dict[str, list[float]] = {name: [] for name in ("value", "popular", "common", "oracle")}
        common, popular = self._common(now_ms()), self._popular[: self._world.params.slate]
        while report.requests < n_requests and time.monotonic() - started_s < seconds:
            time.sleep(max(0.0, next_s - time.monotonic()))
            next_s = max(next_s, time.monotonic() - 1.0) + float(self._rng.exponential(1.0 / rate))
            user = self._users[int(self._rng.choice(len(self._users), p=self._weights))]
            reply = self._slate(user, report)
            if reply is None:
                continue
            item_ids = [item.item_id for item in reply.items]
            if item_ids and report.requests % 5 == 0:
                at_ms = now_ms()
                for name, slate in (("value", item_ids), ("popular", popular), ("common", common)):
                    values[name].append(self._value(user, slate, at_ms))
                values["oracle"].append(self._world.oracle_value([user], at_ms, self._behaviour))
            self._react(user, reply.request_id, item_ids, report)
        self._producer.flush(30.0)
        report.seconds = time.monotonic() - started_s
        for name, figures in values.items():
            setattr(report, name, float(np.mean(figures or [0.0])))
        return report

    def _slate(self, user: User, report: TrafficReport) -> RankReply | None:
        started_s = time.perf_counter()
        try:
            reply = self._client.rank(
                user.user_id,
                k=self._world.params.slate,
                surface=SURFACE,
                mode=MODE_SERVE,
                context=self._behaviour.context(user),
            )
        except UnavailableError:
            report.failed += 1
            return None
        report.latency_ms.append((time.perf_counter() - started_s) * 1000)
        report.requests += 1
        report.rungs.update(reply.rungs)
        return reply

    def _react(self, user: User, request_id: str, item_ids: list[str], report: TrafficReport) -> None:
        reaction = self._behaviour.react(
            user,
            item_ids,
            request_id=request_id,
            session_id=f"live-{request_id[:13]}",
            surface=SURFACE,
            at_ms=now_ms(),
            rng=self._rng,
            ids=self._ids,
        )
        report.slots += len(item_ids)
        report.clicks += len(reaction.clicked)
        for event in reaction.events:
            report.events[str(event.type)] += 1
        if reaction.events and self._rng.random() < self._track_share:
            self._client.track(reaction.events, deadline_s=10.0)
        else:
            self._producer.send_all(reaction.events)

    def _common(self, at_ms: int) -> list[str]:
        """The best list that is the same for all users who come."""
        world, sample = self._world, self._users[:200]
        rows = world.live_rows(at_ms)
        mean = np.mean([world.utility.click_probability(user, rows, at_ms) for user in sample], axis=0)
        return [f"item-{rows[n]}" for n in np.argsort(-mean, kind="stable")[: world.params.slate]]

    def _value(self, user: User, item_ids: list[str], at_ms: int) -> float:
        rows = np.array([self._world.catalogue.row(item_id) for item_id in item_ids])
        return self._world.slate_value(self._behaviour.click_probability(user, rows, at_ms))
