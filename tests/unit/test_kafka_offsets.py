"""Asking a broker for offsets while leaders move."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from liverank import kafka_admin
from liverank.kafka import Tp


class Admin:
    """Answers with one error, or with offset 7."""

    def __init__(self, error: int | None) -> None:
        self.error = error

    def list_offsets(self, asked: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answers: dict[TopicPartition, Future[Any]] = {}
        for tp in asked:
            answers[tp] = Future()
            if self.error is None:
                answers[tp].set_result(SimpleNamespace(offset=7))
            else:
                answers[tp].set_exception(KafkaException(KafkaError(self.error)))
        return answers


@pytest.mark.parametrize("error", [KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH])
def test_a_client_that_remembers_an_old_leader_is_replaced(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    clients = [Admin(error), Admin(None)]
    monkeypatch.setattr(kafka_admin, "_admin", lambda bootstrap: clients.pop(0))
    wanted = [Tp("items", 0), Tp("items", 1)]
    assert kafka_admin.OffsetClient("broker").ends(wanted) == dict.fromkeys(wanted, 7)
    assert not clients
