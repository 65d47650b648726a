"""Asking a broker for offsets while leaders move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from liverank import kafka_admin
from liverank.kafka import KafkaConfigError, KafkaUnavailableError, Tp


class Asking:
    """Answers with one error for each partition, with one for all, or with offset 7."""

    def __init__(self, error: int | None, *, whole: bool = False, known: bool = False) -> None:
        self.error, self.whole, self.known = error, whole, known

    def list_topics(self, topic: str, **_: Any) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={0: None} if self.known else {})})

    def offsets_for_times(self, asked: list[TopicPartition], **_: Any) -> list[Any]:
        if self.error is not None and self.whole:
            raise KafkaException(KafkaError(self.error))
        fault = None if self.error is None else KafkaError(self.error)
        return [SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=7, error=fault) for tp in asked]


@pytest.mark.parametrize("error", [KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH])
@pytest.mark.parametrize("whole", [False, True])
def test_a_client_that_remembers_an_old_leader_is_replaced(
    monkeypatch: pytest.MonkeyPatch, error: int, whole: bool
) -> None:
    clients = [Asking(error, whole=whole), Asking(None)]
    monkeypatch.setattr(kafka_admin, "_consumer", lambda bootstrap: clients.pop(0))
    wanted = [Tp("items", 0), Tp("items", 1)]
    assert kafka_admin.OffsetClient("broker").ends(wanted) == dict.fromkeys(wanted, 7)
    assert not clients


@pytest.mark.parametrize("error", [KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
@pytest.mark.parametrize("whole", [False, True])
def test_a_broker_that_has_just_come_up_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, error: int, whole: bool
) -> None:
    asked: list[bool] = []

    class Starting(Asking):
        def offsets_for_times(self, asked_for: list[TopicPartition], **kwargs: Any) -> list[Any]:
            asked.append(True)
            self.error = error if len(asked) < 3 else None
            return super().offsets_for_times(asked_for, **kwargs)

    monkeypatch.setattr(kafka_admin, "_consumer", lambda bootstrap: Starting(error, whole=whole))
    assert kafka_admin.OffsetClient("broker").ends([Tp("items", 0)]) == {Tp("items", 0): 7}
    monkeypatch.setattr(kafka_admin, "_consumer", lambda bootstrap: Asking(error, whole=whole))
    with pytest.raises(KafkaConfigError, match="does not exist"):
        kafka_admin.OffsetClient("broker").ends([Tp("items", 0)], timeout_s=0.1)
    monkeypatch.setattr(kafka_admin, "_consumer", lambda bootstrap: Asking(error, whole=whole, known=True))
    with pytest.raises(KafkaUnavailableError, match="it starts"):
        kafka_admin.OffsetClient("broker").ends([Tp("items", 0)], timeout_s=0.1)
