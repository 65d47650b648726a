"""rank, similar, explain, track against a scripted ranker: what is printed, and how errors look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import typer
from typer.testing import CliRunner

from liverank.calls import new_event
from liverank.cli import apps
from liverank.errors import ConfigError, NotFoundError
from liverank.files import write_events
from liverank.v1 import personalization_pb2 as pb
from liverank.v1 import personalization_pb2_grpc as rpc
from liverank.v1.decision_pb2 import MODE_SERVE, MODE_SHADOW, Decision

WHY = pb.ItemExplanation(
    item_id="i1",
    position=1,
    score=0.3,
    heads={"click": 0.25, "dismiss": 0.01},
    propensity=0.9,
    raw_score=0.5,
    bias=-0.5,
    contributions=[pb.Contribution(feature=f"user:f{n}", value=n, contribution=0.1) for n in range(10)],
    not_used=[
        pb.FeatureValue(feature="user_category_windows:saves_6h", value=4),
        pb.FeatureValue(feature="user_windows:likes_1h"),
    ],
)


class Scripted(rpc.PersonalizationServicer):
    """Answers with fixed replies."""

    def __init__(self) -> None:
        self.ranked: list[pb.RankRequest] = []

    def Rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> pb.RankReply:
        self.ranked.append(request)
        item = pb.RankedItem(item_id="i1", position=1, score=0.3, propensity=0.9, sources=["popular"])
        if request.explain:
            item.explanation.CopyFrom(WHY)
        reply = pb.RankReply(
            request_id=request.request_id, items=[item], policy="thompson", model="abc", rungs=["stale"]
        )
        reply.debug.feature_ages_ms["user_activity"] = 1500
        return reply

    def Similar(self, request: pb.SimilarRequest, context: grpc.ServicerContext) -> pb.SimilarReply:
        return pb.SimilarReply(items=[pb.SimilarItem(item_id="i2", score=0.5, sources=["semantic"])])

    def Track(self, request: pb.TrackRequest, context: grpc.ServicerContext) -> pb.TrackReply:
        bad = [n for n, event in enumerate(request.events) if not event.item_id]
        rejected = [pb.Rejected(index=n, reason="missing_id", detail="item_id is required") for n in bad]
        return pb.TrackReply(accepted=len(request.events) - len(bad), rejected=rejected)

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:
        if request.request_id == "gone":
            context.abort(grpc.StatusCode.NOT_FOUND, "no decision gone in the last 7 days")
        return pb.ExplainReply(decision=Decision(request_id=request.request_id, policy="linucb"), items=[WHY])


@pytest.fixture(name="served")
def _served() -> Iterator[tuple[Scripted, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    scripted = Scripted()
    cast(Any, rpc.add_PersonalizationServicer_to_server)(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield scripted, f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(*arguments: str) -> str:
    app = typer.Typer()
    apps.register(app)
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"exit {result.exit_code}\n{result.output}"


def test_rank_prints_the_slate_and_how_fresh_it_is(served: tuple[Scripted, str]) -> None:
    scripted, address = served
    out = run("rank", "--user", "u1", "-k", "5", "--address", address)
    for text in ("exit 0", "i1", "0.9000", "popular", "thompson", "degraded: stale", scripted.ranked[0].request_id):
        assert text in out
    assert scripted.ranked[0].mode == MODE_SHADOW
    run("rank", "--user", "u1", "--serve", "--address", address)
    assert scripted.ranked[1].mode == MODE_SERVE


def test_rank_explained_shows_contributions_and_ages(served: tuple[Scripted, str]) -> None:
    out = run("rank", "--user", "u1", "--explain", "--address", served[1])
    for text in (
        "click 0.250",
        "user:f0",
        "4 others",
        "+0.4000",
        "user_activity 1500 ms ago",
        "raw click score +0.5000",
        "user_category_windows:saves_6h",
        "not used by model",
    ):
        assert text in out


def test_replies_as_json(served: tuple[Scripted, str]) -> None:
    out = run("rank", "--user", "u1", "--json", "--address", served[1]).partition("\n")[2]
    assert json.loads(out)["items"][0]["item_id"] == "i1"
    assert json.loads(run("similar", "i1", "--json", "--address", served[1]).partition("\n")[2])["items"]


def test_similar_and_explain(served: tuple[Scripted, str]) -> None:
    assert "semantic" in run("similar", "i1", "--address", served[1])
    assert "linucb" in run("explain", "r1", "--address", served[1])
    with pytest.raises(NotFoundError, match="no decision gone"):
        run("explain", "gone", "--address", served[1])


def test_track_one_and_a_file(served: tuple[Scripted, str], tmp_path: Path) -> None:
    assert "accepted" in run("track", "click", "--user", "u", "--item", "i", "--address", served[1])
    refused = run("track", "click", "--user", "u", "--address", served[1])
    assert "exit 1" in refused
    assert "missing_id" in refused
    write_events(tmp_path / "e.jsonl", [new_event("like", user_id="u", item_id=f"i{n}") for n in range(1200)])
    assert "1,200 events accepted" in run("track", "--file", str(tmp_path / "e.jsonl"), "--address", served[1])
    with pytest.raises(ConfigError, match="not both or none"):
        run("track", "--address", served[1])
