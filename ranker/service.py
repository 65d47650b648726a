"""The calls of the service, without a transport: gRPC and HTTP do the same through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from liverank.errors import LiverankError
from liverank.v1 import personalization_pb2 as pb
from ranker import metrics
from ranker.catalogue import Catalogue
from ranker.errors import NotReadyError
from ranker.filters import Filters
from ranker.models import Model
from ranker.pipeline import Pipeline
from ranker.similar import similar
from ranker.status import reason_of
from ranker.trace import DecisionFinder, explain
from ranker.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a transport calls. `rank` from one thread at a time; the rest from any.

    Attributes
    ----------
    pipeline, catalogue, tracker, finder
        The parts.
    load_model
        A model of its own by id, for Explain.
    not_ready
        Empty when Rank can be answered, else what is missing.
    """

    pipeline: Pipeline
    catalogue: Catalogue
    tracker: Tracker
    finder: DecisionFinder
    load_model: Callable[[str], Model]
    not_ready: Callable[[], str]

    def rank(self, request: pb.RankRequest, remaining_ms: float | None) -> bytes:
        """An encoded RankReply."""
        missing = self.not_ready()
        if missing:
            raise NotReadyError(f"the ranker is starting: {missing}; retry")
        return self.pipeline.rank(request, remaining_ms=remaining_ms)

    def similar(self, request: pb.SimilarRequest) -> pb.SimilarReply:
        """Neighbours of items."""
        return similar(request, self.catalogue, Filters())

    def track(self, request: pb.TrackRequest, timeout_s: float | None) -> pb.TrackReply:
        """Take events; answered when the broker has them."""
        reply = self.tracker.track(request, timeout_s=10.0 if timeout_s is None else timeout_s)
        metrics.TRACKED.labels("accepted").inc(reply.accepted)
        metrics.TRACKED.labels("rejected").inc(len(reply.rejected))
        return reply

    def explain(self, request: pb.ExplainRequest, timeout_s: float | None) -> pb.ExplainReply:
        """Why a slate looked as it did."""
        return explain(
            request, self.finder, self.load_model, timeout_s=10.0 if timeout_s is None else min(timeout_s, 60.0)
        )


def count_error(method: str, error: LiverankError) -> None:
    """Count a call that ended in an error."""
    metrics.ERRORS.labels(method, reason_of(error)).inc()
