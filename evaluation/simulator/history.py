"""The recorded past of a world: exposures with true propensities and what users did, as events in time order."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator

import numpy as np

from evaluation.simulator.catalogue import DAY_MS
from evaluation.simulator.policies import LoggingPolicy
from evaluation.simulator.population import User
from evaluation.simulator.world import World
from liverank.contract import uuid7
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot

SURFACE = "home"
GAP_SIGMA = 1.6


def history(world: World, *, days: float = 60.0) -> Iterator[Event]:
    """Events of the first `days` of a world, in time order, bit-equal on every call.

    Each request gives an exposure event (event_id = request id, exact propensities of `LoggingPolicy`, no model's
    probabilities) and what the user did. Events of one user never overlap.
    """
    params = world.params
    rng = np.random.default_rng([params.seed, 10])
    ids = random.Random(params.seed * 2 + 11)
    policy = LoggingPolicy(world.utility)
    behaviour = world.behaviour()
    end_ms = world.start_ms + int(days * DAY_MS)
    waiting: list[tuple[int, int, int, int]] = []  # (time, tie-break, user, request of the session)
    for n, user in enumerate(world.population.users):
        first_ms = world.start_ms + int(_gap_ms(user, rng) * rng.random())
        heapq.heappush(waiting, (first_ms, n, n, 0))
    pending: list[tuple[int, int, Event]] = []
    serial = 0
    sessions = [0] * len(world.population.users)
    while waiting and waiting[0][0] < end_ms:
        at_ms, _, n, request = heapq.heappop(waiting)
        yield from _until(pending, at_ms)
        user = world.population.users[n]
        sessions[n] += request == 0
        session_id = f"s-{n}-{sessions[n]}"
        rows, propensity = policy.draw(user, at_ms, params.slate, rng)
        request_id = uuid7(at_ms, ids)
        item_ids = [f"item-{row}" for row in rows]
        shown = Event(
            event_id=request_id,
            type=EventType.EVENT_TYPE_EXPOSURE,
            user_id=user.user_id,
            session_id=session_id,
            event_ts_ms=at_ms,
            request_id=request_id,
            surface=SURFACE,
            context=behaviour.context(user),
            exposure=Exposure(
                policy="history_plackett_luce",
                drawn=True,
                slots=[
                    ExposureSlot(item_id=i, catalogue_version=-1, propensity=float(p))
                    for i, p in zip(item_ids, propensity, strict=True)
                ],
            ),
        )
        reaction = behaviour.react(
            user, item_ids, request_id=request_id, session_id=session_id, surface=SURFACE, at_ms=at_ms, rng=rng, ids=ids
        )
        policy.learn(user, rows[[p - 1 for p in reaction.clicked]], at_ms)
        for event in (shown, *reaction.events):
            serial += 1
            heapq.heappush(pending, (event.event_ts_ms, serial, event))
        if rng.random() < 0.35 + 0.3 * bool(reaction.clicked):
            next_ms = reaction.end_ms + int(15_000 * np.exp(rng.normal(0.0, 1.0)))
            heapq.heappush(waiting, (next_ms, serial, n, request + 1))
        else:
            heapq.heappush(waiting, (reaction.end_ms + int(_gap_ms(user, rng)), serial, n, 0))
    yield from _until(pending, end_ms)


def _gap_ms(user: User, rng: np.random.Generator) -> float:
    """Time between two sessions: lognormal, heavy-tailed, with mean 1 / activity."""
    gap_days = np.exp(rng.normal(-(GAP_SIGMA**2) / 2, GAP_SIGMA)) / user.activity
    return float(max(gap_days * DAY_MS, 45 * 60_000))


def _until(pending: list[tuple[int, int, Event]], end_ms: int) -> Iterator[Event]:
    while pending and pending[0][0] < end_ms:
        yield heapq.heappop(pending)[2]
