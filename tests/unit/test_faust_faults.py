"""Faust's ten worst known faults (docs/exactness.md): what is impossible here by construction stays impossible."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from faust.types.enums import ProcessingGuarantee

from liverank.settings import Settings
from streams.agents import AgentServices
from streams.app import build_app

STREAMS = Path(__file__).resolve().parents[2] / "streams"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), kafka={"bootstrap": "127.0.0.1:1"}, redis={"url": "redis://127.0.0.1:1"}
    )
    services = AgentServices(settings=settings, generation=1, name_of=lambda _hashed: None)
    return build_app(settings, "worker-0", services)


def calls(tree: ast.AST) -> set[str]:
    """Names of methods that a module calls."""
    return {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_no_transactions(app: Any) -> None:
    """2, 3: exactly_once sends outside its transactions and crashes in rebalances."""
    assert app.conf.processing_guarantee == ProcessingGuarantee.AT_LEAST_ONCE


def test_no_tables_and_no_rocksdb(app: Any) -> None:
    """6, 10: recovery of tables races, and RocksDB locks and loses writes."""
    assert not app.tables
    assert str(app.conf.store) == "memory:"
    for name in ("rocksdb", "rocksdict", "faust_streaming_rocksdb"):
        assert importlib.util.find_spec(name) is None
    for path in STREAMS.rglob("*.py"):
        assert not calls(ast.parse(path.read_text())) & {"Table", "GlobalTable", "SetTable"}, path


def test_one_batch_at_a_time_per_agent(app: Any) -> None:
    """4: commits pass what is still in work where an agent has concurrency."""
    assert len(app.agents) == 4
    assert {agent.concurrency for agent in app.agents.values()} == {1}


def test_agents_get_raw_bytes_and_only_by_events(app: Any) -> None:
    """1, 8: `take` acknowledges what failed, and ends an agent in silence on a value that cannot be decoded."""
    for agent in app.agents.values():
        assert agent.channel.value_type is bytes
        assert str(agent.channel.value_serializer) == "raw"
    drivers = [
        path for path in (STREAMS / "agents").glob("*.py") if "take_events" in calls(ast.parse(path.read_text()))
    ]
    assert [path.name for path in drivers] == ["batches.py"]
    for path in (STREAMS / "agents").glob("*.py"):
        found = calls(ast.parse(path.read_text()))
        assert "noack_take" not in found, path


def test_a_restart_keeps_its_partitions_and_waits_no_minute(app: Any) -> None:
    """9: ghosts of dead members keep partitions; default timeouts are a minute."""
    assert app.conf.consumer_group_instance_id == "worker-0"
    assert app.conf.broker_session_timeout <= 20
    assert app.conf.broker_heartbeat_interval <= app.conf.broker_session_timeout / 3
    assert app.conf.consumer_auto_offset_reset == "earliest"
    assert not app.conf.topic_allow_declare


def test_every_codec_of_a_producer_can_be_read() -> None:
    """One lz4 batch kills a worker whose aiokafka lacks its codec."""
    from aiokafka import codec

    assert codec.has_lz4()
    assert codec.has_snappy()
    assert codec.has_zstd()
