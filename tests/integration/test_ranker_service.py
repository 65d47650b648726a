"""The service on a real Kafka, Redis, Feast, a stream worker and a ranker process."""

from __future__ import annotations

import json
import random
import secrets
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from features.apply import render
from features.redis import connect
from infra.stack import Stack
from infra.stack import namespace as namespaces
from liverank.ids import uuid7
from liverank.kafka import LogReader, Producer, Tp, begin_offsets, end_offsets
from liverank.settings import Endpoints, KafkaSettings, RankerSettings, RedisSettings, Settings, StackSettings, resolve
from liverank.v1 import decision_pb2, event_pb2, item_pb2
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.personalization_pb2_grpc import PersonalizationStub
from tests.recount.namespace import settle

N_ITEMS = 400
SHADOW = decision_pb2.MODE_SHADOW


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return uuid7(now_ms(), random.SystemRandom())


def eventually(check: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """The first truthy answer; fails where none comes in time."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        answer = check()
        if answer:
            return answer
        time.sleep(0.05)
    pytest.fail(f"nothing in {timeout_s:g} s")


class App:
    """What an application holds: a channel, a producer of items, the addresses."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.channel = grpc.insecure_channel(settings.ranker.grpc)
        self.stub = PersonalizationStub(self.channel)
        self.producer = Producer(settings.kafka.bootstrap)

    def publish(self, *changes: item_pb2.ItemChange) -> None:
        for change in changes:
            self.producer.produce(
                self.settings.topic("items"), key=change.item_id.encode(), value=change.SerializeToString()
            )
        assert self.producer.flush(10.0) == 0

    def rank(self, **fields: Any) -> pb.RankReply:
        return self.stub.Rank(pb.RankRequest(**{"user_id": "u", "k": 10, **fields}), timeout=10)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.settings.ranker.http}{path}", data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def records(self, topic: str) -> list[tuple[bytes | None, bytes]]:
        """Everything in a topic now."""
        bootstrap, n = self.settings.kafka.bootstrap, self.settings.stack.partitions
        tps = [Tp(topic, partition) for partition in range(n)]
        ends, begins = end_offsets(bootstrap, tps), begin_offsets(bootstrap, tps)
        wanted = sum(ends[tp] - begins[tp] for tp in tps)
        reader, found = LogReader(bootstrap, begins, name="test"), []
        while len(found) < wanted:
            found += [(record.key, record.value) for record in reader.poll_batch(1000, 1.0)]
        reader.close()
        return found

    def close(self) -> None:
        self.channel.close()


def item(item_id: str, at: int, *, available: bool = True) -> item_pb2.ItemChange:
    return item_pb2.ItemChange(
        item_id=item_id,
        upsert=item_pb2.Item(
            item_id=item_id,
            title=f"Item {at}",
            available=available,
            price=1.0 + at % 50,
            creator=f"creator{at % 40}",
            categories=[f"kind{at % 8}"],
            published_ts_ms=now_ms() - at * 3_600_000,
        ),
    )


@pytest.fixture(scope="module")
def settings(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A namespace with one worker and one ranker, shared by the tests of this file."""
    given = Settings(
        namespace=f"t{secrets.token_hex(4)}",
        home=tmp_path_factory.mktemp("service"),
        kafka=KafkaSettings(bootstrap=stack.kafka),
        redis=RedisSettings(url=stack.redis),
        stack=StackSettings(partitions=4, workers=1, rankers=1),
    )
    namespaces.create(given)
    local = Stack(given)
    try:
        local.up(("features", "model", "workers", "rankers"))
        yield resolve(given)
    finally:
        local.down()
        namespaces.remove(given)


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[App]:
    app = App(settings)
    app.publish(*(item(f"i{at}", at) for at in range(N_ITEMS)))
    eventually(lambda: len(app.rank(mode=SHADOW, k=100).items) >= 50)
    yield app
    app.close()


def click(item_id: str, user_id: str = "u", **fields: Any) -> event_pb2.Event:
    event = event_pb2.Event(
        event_id=new_id(), type=event_pb2.EVENT_TYPE_CLICK, user_id=user_id, item_id=item_id, event_ts_ms=now_ms()
    )
    for name, value in fields.items():
        setattr(event, name, value)
    return event


def test_RNK_1_debug_block_health_and_reflection(app: App) -> None:
    reply = app.rank(debug=True, mode=SHADOW)
    assert {"parse", "user", "retrieve", "score", "explore", "slots"} <= set(reply.debug.stage_ms)
    assert reply.debug.counts["shown"] == len(reply.items) == 10
    assert reply.debug.user_state == "cold"
    assert reply.model
    assert reply.policy in ("thompson", "linucb", "epsilon_greedy")
    assert not reply.rungs
    health = health_pb2_grpc.HealthStub(app.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = reflection_pb2_grpc.ServerReflectionStub(app.channel).ServerReflectionInfo(iter([ask]), timeout=5)
    names = {service.name for answer in answers for service in answer.list_services_response.service}
    assert "liverank.v1.Personalization" in names
    similar = app.stub.Similar(pb.SimilarRequest(item_ids=["i1"], k=5), timeout=5)
    assert "i1" not in {each.item_id for each in similar.items}


def test_RNK_1_deadline_is_honoured_and_errors_have_a_reason(app: App) -> None:
    busy = [app.stub.Rank.future(pb.RankRequest(user_id="u", k=50, mode=SHADOW), timeout=10) for _ in range(60)]
    with pytest.raises(grpc.RpcError) as late:
        app.stub.Rank(pb.RankRequest(user_id="u", k=10), timeout=0.005)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert all(len(each.result().items) == 50 for each in busy)
    headers = {"x-liverank-deadline-ms": "0.000001"}
    status, answer = app.post("/v1/rank", {"userId": "u", "k": 5}, headers)
    assert (status, answer["status"]) == (504, "DEADLINE_EXCEEDED")
    for fields, reason in (
        ({"k": 0}, "bad_value"),
        ({"k": 10_000}, "bad_value"),
        ({"request_id": "not-a-uuid"}, "bad_request_id"),
        ({"user_id": ""}, "missing_id"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            app.rank(**fields)
        error: Any = refused.value
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert ("liverank-reason", reason) in {tuple(pair) for pair in error.trailing_metadata()}
    with pytest.raises(grpc.RpcError) as unknown:
        app.stub.Explain(pb.ExplainRequest(request_id=new_id()), timeout=10)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    raw = app.channel.unary_unary("/liverank.v1.Personalization/Rank")
    with pytest.raises(grpc.RpcError):
        raw(b"\xff\xff\xff\xff", timeout=5)


def test_RNK_1_tracked_events_reach_the_features(app: App) -> None:
    bad = click("i1")
    bad.item_id = ""
    tick = event_pb2.Event(event_id=new_id(), type=event_pb2.EVENT_TYPE_TICK, user_id="u", event_ts_ms=now_ms())
    reply = app.stub.Track(pb.TrackRequest(events=[click("i1"), bad, tick, click("i9")]), timeout=10)
    assert reply.accepted == 2
    assert [(each.index, each.reason) for each in reply.rejected] == [(1, "missing_id"), (2, "not_allowed")]
    letters = eventually(lambda: app.records(app.settings.topic("dead-letter")))
    reasons = {event_pb2.DeadLetter.FromString(value).reason for _, value in letters}
    assert {"missing_id", "not_allowed"} <= reasons
    stream = (pb.TrackRequest(events=[click("i17", user_id="s")]) for _ in range(3))
    assert app.stub.TrackStream(stream, timeout=10).accepted == 3
    eventually(lambda: app.rank(mode=SHADOW).freshness.newest_event_ts_ms > 0)
    reply = app.rank(mode=SHADOW, debug=True)
    assert 0 <= reply.freshness.newest_event_age_ms < 60_000
    assert reply.debug.feature_ages_ms


def test_retry_keeps_bytes_and_one_exposure(app: App) -> None:
    request = pb.RankRequest(user_id="u", k=7, request_id=new_id(), debug=True)
    raw = app.channel.unary_unary(
        "/liverank.v1.Personalization/Rank", request_serializer=pb.RankRequest.SerializeToString
    )
    first = raw(request, timeout=10)
    assert raw(request, timeout=10) == first
    with pytest.raises(grpc.RpcError) as conflict:
        app.rank(request_id=request.request_id, k=8)
    assert conflict.value.code() == grpc.StatusCode.ALREADY_EXISTS  # type: ignore[attr-defined]
    topic = app.settings.topic("events", 1)

    def exposures() -> list[event_pb2.Event]:
        events = [event_pb2.Event.FromString(value) for _, value in app.records(topic)]
        return [event for event in events if event.event_id == request.request_id]

    assert len(eventually(exposures)) == 1


def test_USE_2_candidates_are_permuted_and_unknown_ones_named(app: App) -> None:
    given = [f"i{at}" for at in range(0, 60, 3)]
    candidates = [pb.Candidate(item_id=each, scores={"mine": 0.1}) for each in [*given, "unheard-of"]]
    reply = app.rank(k=50, candidates=candidates, mode=SHADOW)
    assert sorted(each.item_id for each in reply.items) == sorted(given)
    assert [(left.item_id, left.reason) for left in reply.not_ranked] == [("unheard-of", "unknown")]


def test_USE_9_http_answers_as_grpc(app: App) -> None:
    request = pb.RankRequest(user_id="u", k=6, mode=SHADOW, shadow=pb.ShadowOptions(seed=11, as_of_ms=now_ms()))
    body = json_format.MessageToDict(request)
    status, answer = app.post("/v1/rank", body)
    assert status == 200
    by_grpc = app.stub.Rank(request, timeout=10)
    by_http = json_format.ParseDict(answer, pb.RankReply())
    assert by_http.items == by_grpc.items
    assert (by_http.policy, by_http.model) == (by_grpc.policy, by_grpc.model)
    # With a request id the same reply comes both ways, whole.
    request = pb.RankRequest(user_id="u", k=6, request_id=new_id())
    status, answer = app.post("/v1/rank", json_format.MessageToDict(request))
    assert json_format.ParseDict(answer, pb.RankReply()) == app.stub.Rank(request, timeout=10)
    event = json_format.MessageToDict(click("i3", user_id="web"))
    status, answer = app.post("/v1/track", {"events": [event]})
    assert (status, answer) == (200, {"accepted": 1})
    status, answer = app.post("/v1/similar", {"itemIds": ["i3"], "k": 3})
    assert status == 200
    assert app.post("/v1/rank", {"userId": "u", "k": 0})[0] == 400
    assert app.post("/v1/rank", b"{not json")[1]["reason"] == "malformed"
    assert app.post("/v1/similar", {"itemIds": ["unheard-of"], "k": 3})[0] == 404


def test_ING_8_unavailable_item_leaves_within_two_seconds(app: App) -> None:
    options = pb.ShadowOptions(greedy=True)
    victim = app.rank(mode=SHADOW, shadow=options).items[0].item_id
    started_s = time.monotonic()
    app.publish(item(victim, int(victim[1:]), available=False))

    def gone() -> bool:
        return victim not in {each.item_id for each in app.rank(mode=SHADOW, shadow=options, k=50).items}

    eventually(gone, timeout_s=2.0)
    assert time.monotonic() - started_s <= 2.0


def test_RNK_11_explain_equals_the_reply_and_sums_to_the_raw_score(app: App) -> None:
    reply = app.rank(explain=True, k=5)
    explained = app.stub.Explain(pb.ExplainRequest(request_id=reply.request_id), timeout=10)
    assert [each.item_id for each in explained.items] == [each.item_id for each in reply.items]
    assert [each.explanation for each in reply.items] == list(explained.items)
    made = explained.decision
    assert len(made.slots[0].features) == len(made.feature_names)
    assert made.snapshot
    for each in explained.items:
        total = sum(contribution.contribution for contribution in each.contributions) + each.bias
        assert total == pytest.approx(each.raw_score, abs=1e-5)


def test_USE_16_prefetch_exposes_at_the_impression(app: App) -> None:
    reply = app.rank(mode=decision_pb2.MODE_PREFETCH, k=3)
    topic = app.settings.topic("events", 1)

    def ids() -> list[str]:
        return [event_pb2.Event.FromString(value).event_id for _, value in app.records(topic)]

    assert reply.request_id not in ids()
    shown = click(reply.items[0].item_id, type=event_pb2.EVENT_TYPE_IMPRESSION, request_id=reply.request_id, position=1)
    assert app.stub.Track(pb.TrackRequest(events=[shown]), timeout=10).accepted == 1
    found = ids()
    assert found.index(reply.request_id) < found.index(shown.event_id)
    app.stub.Track(pb.TrackRequest(events=[shown]), timeout=10)
    assert ids().count(reply.request_id) == 1


def test_same_shadow_twice_is_equal(app: App) -> None:
    wait_until_quiet(app)
    options = pb.ShadowOptions(seed=5, as_of_ms=now_ms() + 120_000)
    first = app.rank(mode=SHADOW, shadow=options)
    time.sleep(1.5)  # past the second for which lists of the whole catalogue are kept
    second = app.rank(mode=SHADOW, shadow=options)
    assert [(each.item_id, each.score, each.propensity) for each in first.items] == [
        (each.item_id, each.score, each.propensity) for each in second.items
    ]


def _state(app: App) -> dict[bytes, Any]:
    """Every key of the namespace and every Feast row, but what the clock alone moves."""
    settings, found = app.settings, {}
    with connect(settings) as client:
        keys = [*client.scan_iter(match=f"{settings.namespace}:*", count=1000)]
        keys += client.scan_iter(match=f"*{settings.feast_project}", count=1000)
        for key in keys:
            if b":position:" in key or key.endswith((b".meta", b".due", b".outbox")):
                continue
            kind = client.type(key)
            found[key] = client.hgetall(key) if kind == b"hash" else client.get(key) if kind == b"string" else kind
    return found


def wait_until_quiet(app: App) -> dict[bytes, Any]:
    """The state once nothing changes any more by itself: the folds and agents have taken everything."""
    settle(app.settings, timeout_s=60.0, quiet_s=1.0)
    states = [_state(app)]

    def quiet() -> bool:
        time.sleep(1.0)
        states.append(_state(app))
        return states[-1] == states[-2]

    eventually(quiet, timeout_s=60.0)
    return states[-1]


@pytest.mark.timeout(240)
def test_USE_16_shadow_in_the_middle_of_a_stream_leaves_everything_equal(app: App) -> None:
    for at in range(20):
        reply = app.rank(user_id=f"u{at % 4}")
        shown = reply.items[0]
        app.stub.Track(
            pb.TrackRequest(events=[click(shown.item_id, f"u{at % 4}", request_id=reply.request_id, position=1)]),
            timeout=10,
        )
    topic = app.settings.topic("examples")
    before = wait_until_quiet(app)
    ends = end_offsets(app.settings.kafka.bootstrap, [Tp(topic, p) for p in range(app.settings.stack.partitions)])
    for at in range(2_000):
        app.rank(user_id=f"u{at % 4}", mode=SHADOW, k=5)
    time.sleep(1.0)
    assert _state(app) == before
    after = end_offsets(app.settings.kafka.bootstrap, [Tp(topic, p) for p in range(app.settings.stack.partitions)])
    assert after == ends


class Wire:
    """A TCP relay to Redis that a test can cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("redis://").partition("/")[0].rpartition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        self._cut = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self._cut:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    @staticmethod
    def _relay(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65_536):
                other.sendall(data)
        except OSError:
            pass
        finally:
            for each in (one, other):
                each.close()

    def cut(self) -> None:
        self._cut = True
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._open.clear()

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._server.close()


def test_RNK_7_redis_down_and_model_missing_are_labelled_and_answered(app: App, settings: Settings) -> None:
    """A second ranker in this process whose Redis can be cut off."""
    from ranker.server import RankerProcess

    wire = Wire(settings.redis.url)
    own = settings.model_copy(
        update={
            "redis": settings.redis.model_copy(update={"url": wire.url, "socket_timeout_s": 0.5}),
            "ranker": RankerSettings(grpc="127.0.0.1:0", http="127.0.0.1:0"),
        }
    )
    render(own)
    with connect(settings) as client:
        model = client.get(f"{settings.namespace}:model")
        client.delete(f"{settings.namespace}:model")
        process = RankerProcess(own, 9)
        stop = threading.Event()

        def rank(user_id: str) -> pb.RankReply:
            request = pb.RankRequest(user_id=user_id, k=10)
            return pb.RankReply.FromString(process.service.rank(request, 2_000))

        try:
            process.start()
            process.wait_until_ready(stop)
            assert list(rank("u").rungs) == ["no_model", "popular"]
            client.set(f"{settings.namespace}:model", model)
            eventually(lambda: not rank("u").rungs, timeout_s=5)
            wire.cut()
            replies = [rank("u" if at % 2 else f"stranger-{at}") for at in range(300)]
            assert all(len(reply.items) == 10 for reply in replies)
            assert {tuple(reply.rungs) for reply in replies[1::2]} == {("stale",)}
            assert {tuple(reply.rungs) for reply in replies[::2]} == {("no_user_features", "popular")}
            assert {reply.policy for reply in replies} == {"none"}
            wire.mend()
            eventually(lambda: not rank("u").rungs, timeout_s=10)
        finally:
            client.set(f"{settings.namespace}:model", model)
            stop.set()
            process.stop()
            wire.close()
            render(settings)
