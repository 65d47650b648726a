"""From an answer to the reply that a caller reads."""

from __future__ import annotations

from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.answer import Answer
from ranker.decisions import Trace
from ranker.explanation import explain_decision
from ranker.request import RankQuery


def build_reply(query: RankQuery, answer: Answer, made: decision_pb2.Decision, namespace: str) -> pb.RankReply:
    """The reply of an answer.

    Parameters
    ----------
    query, answer
        The request and what it came to.
    made
        Its decision; explanations are made from it, as they would be later.
    namespace
        Who answers.
    """
    trace, shown = answer.trace, answer.shown
    reply = pb.RankReply(
        request_id=query.request_id,
        policy=answer.policy_name,
        arm=trace.arm,
        model=trace.model_id,
        rungs=trace.rungs,
        freshness=freshness(trace, answer.posterior_newest_ms),
        namespace=namespace,
    )
    explanations = explain_decision(made, answer.model) if query.explain else []
    for at in range(len(shown)):
        item = reply.items.add(
            item_id=shown.item_ids[at],
            position=at + 1,
            score=float(shown.score[at]),
            propensity=float(shown.propensity[at]),
            explored=bool(shown.explored[at]),
            pinned=bool(shown.pinned[at]),
            sources=shown.sources[at],
        )
        variant = shown.variants.by_slot.get(at)
        if variant is not None:
            item.variant_id, item.variant_propensity = variant.variant_id, variant.propensity
        if explanations:
            item.explanation.CopyFrom(explanations[at])
    if answer.gathered is not None:
        for item_id, reason in answer.gathered.not_ranked:
            reply.not_ranked.add(item_id=item_id, reason=reason)
    if query.debug:
        _debug(reply.debug, answer)
    return reply


def _debug(debug: pb.RankDebug, answer: Answer) -> None:
    trace, gathered = answer.trace, answer.gathered
    debug.user_state = trace.user_state
    for stage, ms in trace.stage_ms.items():
        debug.stage_ms[stage] = ms
    for view, age_ms in trace.feature_ages_ms.items():
        debug.feature_ages_ms[view] = age_ms
    if gathered is not None:
        for name, count in gathered.candidates.counts.items():
            debug.counts[name] = count
        debug.counts["candidates"] = len(gathered.candidates.rows)
        debug.unknown_item_ids.extend(item for item, reason in gathered.not_ranked if reason == "unknown")
    if answer.scored is not None and answer.drawn is not None:
        debug.counts["scored"] = len(answer.scored.places)
        debug.counts["shortlist"] = len(answer.drawn.rows)
    debug.counts["shown"] = len(answer.shown)


def freshness(trace: Trace, posterior_newest_ms: int) -> pb.Freshness:
    """How old the inputs of a decision were when it was made."""
    newest_ms = trace.newest_event_ts_ms
    return pb.Freshness(
        newest_event_ts_ms=newest_ms,
        newest_event_age_ms=max(0, trace.decided_ts_ms - newest_ms) if newest_ms else -1,
        vector_age_ms=trace.feature_ages_ms.get("user_vectors", -1),
        posterior_age_ms=max(0, trace.decided_ts_ms - posterior_newest_ms) if posterior_newest_ms else -1,
    )
