"""Finds a decision in the log by its request id: the time in the id leads to the offsets, seconds are scanned."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from liverank.errors import ContractError
from liverank.ids import uuid7_ms
from liverank.kafka import LogReader, OffsetClient, Tp
from liverank.partition import partition
from liverank.settings import Settings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import DecisionNotFoundError, RequestError, RequestTimeoutError
from ranker.explanation import explain_decision
from ranker.models import Model
from ranker.models.errors import ModelCorruptError, ModelMissingError

# Ids of the server carry the decision's own time; ids of callers may be 5 min off either way.
YOUNG_S: Final = 3.0
WINDOWS_MS: Final = ((2_000, 20_000), (301_000, 330_000))


class DecisionFinder:
    """Reads `decisions`; a new reader a call, so that calls do not disturb each other.

    Parameters
    ----------
    settings
        Broker and topic.
    n_partitions
        Of the topic.
    """

    def __init__(self, settings: Settings, n_partitions: int) -> None:
        self._bootstrap, self._topic, self._n = settings.kafka.bootstrap, settings.topic("decisions"), n_partitions
        self._offsets: OffsetClient | None = None

    def find(self, request_id: str, *, timeout_s: float = 10.0) -> decision_pb2.Decision:
        """The decision of a request.

        Raises
        ------
        RequestError
            Not a UUIDv7.
        DecisionNotFoundError
            It is not in the log (any more).
        RequestTimeoutError
            The scan took too long.
        UnavailableError
            The broker is away.
        """
        try:
            made_ms = uuid7_ms(request_id)
        except ContractError as error:
            raise RequestError(error.reason, error.detail) from error
        give_up_s = time.monotonic() + timeout_s
        at = Tp(self._topic, partition(request_id.encode(), self._n))
        while True:
            found = self._search(at, request_id, made_ms, give_up_s)
            if found is not None:
                return found
            # A reply comes before its decision is delivered: a young one may be on its way.
            age_s = time.time() - made_ms / 1000
            if abs(age_s) > YOUNG_S or time.monotonic() > give_up_s - 1:
                break
            time.sleep(0.05)
        raise DecisionNotFoundError(
            f"no decision with request id {request_id} in the log: it was not made by this namespace, was without "
            "consent, or is older than the log's retention (7 days)"
        )

    def _search(self, at: Tp, request_id: str, made_ms: int, give_up_s: float) -> decision_pb2.Decision | None:
        if self._offsets is None:
            self._offsets = OffsetClient(self._bootstrap)
        end = self._offsets.ends([at])[at]
        for before_ms, after_ms in WINDOWS_MS:
            start = self._offsets.at([at], made_ms - before_ms)[at]
            if 0 <= start < end:
                found = self._scan(at, start, end, request_id.encode(), made_ms + after_ms, give_up_s)
                if found is not None:
                    return found
        return None

    def _scan(
        self, at: Tp, start: int, end: int, key: bytes, until_ms: int, give_up_s: float
    ) -> decision_pb2.Decision | None:
        reader = LogReader(self._bootstrap, {at: start}, name="explain")
        try:
            while True:
                if time.monotonic() > give_up_s:
                    raise RequestTimeoutError("looking for the decision took too long; raise the deadline")
                for record in reader.poll_batch(500, 0.2):
                    if record.key == key:
                        try:
                            return decision_pb2.Decision.FromString(record.value)
                        except DecodeError:
                            continue
                    if record.append_ts_ms > until_ms or record.offset >= end - 1:
                        return None
        finally:
            reader.close()


def explain(
    request: pb.ExplainRequest,
    finder: DecisionFinder,
    load: Callable[[str], Model],
    *,
    timeout_s: float = 10.0,
) -> pb.ExplainReply:
    """Find a decision and explain it with the model that made it.

    Parameters
    ----------
    request
        With a request id.
    finder
        Of the log.
    load
        A model of its own by id; raises `ModelMissingError` or `ModelCorruptError`.
    """
    if not request.request_id:
        raise RequestError("missing_id", "request_id is required: that of a Rank reply")
    made = finder.find(request.request_id.lower(), timeout_s=timeout_s)
    model: Model | None = None
    if made.base_model:
        try:
            model = load(made.base_model)
        except (ModelMissingError, ModelCorruptError):
            model = None  # the reply then has the logged figures without contributions
    return pb.ExplainReply(decision=made, items=explain_decision(made, model))
