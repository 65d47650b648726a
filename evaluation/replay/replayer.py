"""Tells recorded events to a live system on the data's clock, and asks it before the sampled ones.

Before a Rank everything told so far has passed both folds, the vectors, and the rankers' tables: the answer is a
function of the data, not of timing. Only SHADOW requests are made: looking is not showing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from evaluation.errors import ProofError
from evaluation.progress import Progress
from evaluation.replay.baselines import Popularity
from evaluation.replay.plan import TRUTHS, ReplayPlan, Sampled, user_state
from liverank.client import Client
from liverank.contract import INTERNAL_HEADER, event_key
from liverank.kafka import Producer
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SHADOW
from liverank.v1.event_pb2 import Event, EventType

TICK: Final = Event(type=EventType.EVENT_TYPE_TICK).SerializeToString()
MAX_EXCLUDED: Final = 2_000


class Replayer:
    """One replay. One thread.

    Parameters
    ----------
    plan : ReplayPlan
    client : Client
        Of the namespace with clock `data`.
    producer : Producer
    progress : Progress
    topic : str
        Full name of the events topic.
    n_partitions : int
        Of that topic.
    token : bytes
        The namespace's token: ticks need it.
    item_ids : sequence of str
        The catalogue.
    """

    def __init__(
        self,
        plan: ReplayPlan,
        *,
        client: Client,
        producer: Producer,
        progress: Progress,
        topic: str,
        n_partitions: int,
        token: bytes,
        item_ids: Sequence[str],
    ) -> None:
        self._plan, self._client, self._producer, self._progress = plan, client, producer, progress
        self._topic, self._n_partitions, self._token = topic, n_partitions, token
        self._known = frozenset(item_ids)
        self._all_time = Popularity(item_ids)
        self._decayed = Popularity(item_ids, plan.half_life_ms)
        self._items_of: dict[str, dict[str, None]] = defaultdict(dict)
        self._n_of: dict[str, int] = defaultdict(int)
        self._ticked_ms = 0

    def learn(self, event: Event) -> None:
        """Let the baselines know an event: the imported ones first, then each replayed one after it was asked about."""
        if event.type not in TRUTHS:
            return
        self._all_time.add(event.item_id, event.event_ts_ms)
        self._decayed.add(event.item_id, event.event_ts_ms)
        who = event.user_id or event.session_id
        self._items_of[who][event.item_id] = None
        self._n_of[who] += 1

    def run(
        self, events: Sequence[Event], sampled: frozenset[int], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Sampled]:
        """Replay events in order of time; returns what was asked.

        Raises
        ------
        LagError
            The system does not catch up.
        UnavailableError
            Kafka or the ranker is away.
        """
        out: list[Sampled] = []
        for n, event in enumerate(events):
            self._tick_until(event.event_ts_ms)
            if n in sampled:
                out.append(self._ask(event))
                if on_progress is not None:
                    on_progress(len(out), n + 1)
            self._producer.produce(
                self._topic, key=event_key(event), value=event.SerializeToString(), timestamp_ms=event.event_ts_ms
            )
            self.learn(event)
        if events:
            self._tick(events[-1].event_ts_ms + self._plan.tick_ms)
        self._settle()
        return out

    def _ask(self, event: Event) -> Sampled:
        self._tick(event.event_ts_ms)
        self._settle()
        who = event.user_id or event.session_id
        exclude = [] if self._plan.repeats else list(self._items_of[who])[-MAX_EXCLUDED:]
        reply = self._client.rank(
            who,
            k=self._plan.k,
            surface=event.surface,
            mode=MODE_SHADOW,
            exclude_item_ids=exclude,
            shadow=pb.ShadowOptions(as_of_ms=event.event_ts_ms, greedy=True, seed=1),
            deadline_s=30.0,
        )
        lists = (
            [item.item_id for item in reply.items],
            self._all_time.top(self._plan.k, set(exclude)),
            self._decayed.top(self._plan.k, set(exclude)),
        )
        if not reply.items:
            raise ProofError(
                f"the ranker gave no items for user {who} at {event.event_ts_ms}, rungs {list(reply.rungs)}; "
                "is the catalogue in the namespace?"
            )
        ours, all_time, decayed = (event.item_id in items for items in lists)
        return Sampled(
            event.event_id,
            who,
            user_state(self._n_of[who]),
            (ours, all_time, decayed),
            tuple(reply.rungs),
        )

    def _settle(self) -> None:
        self._producer.flush(30.0)
        self._progress.wait(timeout_s=120.0, pause_s=0.002)

    def _tick_until(self, at_ms: int) -> None:
        """A tick at the last simulated minute that has begun, if it is a new one; at the start, for that time.

        Minutes without an event have none: what fell due in them is done by the next tick, stamped with its own time
        (fold.md 9), and a log of twenty years has ten million of them.
        """
        if not self._ticked_ms:
            self._ticked_ms = at_ms - self._plan.tick_ms
        minutes = (at_ms - self._ticked_ms) // self._plan.tick_ms
        if minutes > 0:
            self._tick(self._ticked_ms + minutes * self._plan.tick_ms)

    def _tick(self, at_ms: int) -> None:
        if at_ms <= self._ticked_ms:
            return
        for partition in range(self._n_partitions):
            self._producer.produce(
                self._topic,
                key=None,
                value=TICK,
                partition=partition,
                headers=((INTERNAL_HEADER, self._token),),
                timestamp_ms=at_ms,
            )
        self._producer.poll(0.0)
        self._ticked_ms = at_ms
