"""Dead letters for operators: read, replay, drop (`liverank dlq`).

A letter is named `<partition>:<offset>` of the topic `dead-letter`. What was done with it is noted in Redis,
`<ns>:dlq:<partition>`, a hash offset -> `replayed|dropped <ms>`; notes of letters that the topic has forgotten are
removed, and the key goes a day after the last letter could.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from features.redis import Redis, connect, translated
from liverank.contract import INTERNAL_HEADER, decode_event, event_key, read_item
from liverank.errors import ConfigError, ContractError, UnavailableError
from liverank.kafka import BEGINNING, LogReader, OffsetClient, Producer, Tp, partition_counts
from liverank.settings import Settings
from liverank.topics import RETENTION_MS
from liverank.v1.event_pb2 import DeadLetter, Event
from liverank.v1.item_pb2 import ItemChange

__all__ = ["DROPPED", "REPLAYED", "DeadLetters", "Letter", "replayable"]

REPLAYED: Final = "replayed"
DROPPED: Final = "dropped"
#: A value that long was cut when the letter was written.
_CUT_BYTES: Final = 256 * 1024
_DAY_MS: Final = 86_400_000
#: Headers that say how a record travelled, not what it is.
_TRAVEL: Final = ("liverank-forwarded", INTERNAL_HEADER)


class Letter(NamedTuple):
    """A dead letter and what was done with it.

    Attributes
    ----------
    partition, offset : int
        Where it lies in the topic `dead-letter`.
    written_ms : int
        Append time there.
    state : str
        ``open``, ``replayed`` or ``dropped``.
    """

    partition: int
    offset: int
    written_ms: int
    body: DeadLetter
    state: str

    @property
    def name(self) -> str:
        """`<partition>:<offset>`."""
        return f"{self.partition}:{self.offset}"

    def message(self) -> Event | ItemChange | None:
        """What was sent, if it can be decoded."""
        headers = tuple(self.body.headers.items())
        try:
            if ".events." in self.body.topic:
                return decode_event(self.body.value, headers)
            if self.body.topic.endswith(".items"):
                return read_item(self.body.value, headers, key=self.body.key or None)
        except (ContractError, DecodeError):
            return None
        return None


def replayable(letter: Letter) -> str:
    """Why a letter cannot be sent again as it is; empty = it can."""
    topic = letter.body.topic
    if ".events." not in topic and not topic.endswith(".items"):
        return f"it came from {topic}: only events and catalogue changes are replayed; report it"
    if len(letter.body.value) >= _CUT_BYTES:
        return f"its value was cut at {_CUT_BYTES} bytes"
    return ""


class DeadLetters:
    """The dead letters of a namespace.

    Parameters
    ----------
    settings : Settings
        Resolved.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topic("dead-letter")
        bootstrap = settings.kafka.bootstrap
        n = partition_counts(bootstrap, [self._topic]).get(self._topic)
        if n is None:
            raise ConfigError(f"there is no topic {self._topic}: run `liverank up` first")
        self._n = n
        self._offsets = OffsetClient(bootstrap)
        self._client: Redis = connect(settings)

    def read(self) -> Iterator[Letter]:
        """Every letter that the topic still holds, by partition and offset.

        Raises
        ------
        UnavailableError
            Kafka or Redis is away.
        """
        tps = [Tp(self._topic, partition) for partition in range(self._n)]
        begins, ends = self._offsets.begins(tps), self._offsets.ends(tps)
        for tp in tps:
            if ends[tp] > begins[tp]:
                yield from self._partition(tp, begins[tp], ends[tp])

    def _partition(self, tp: Tp, begin: int, end: int) -> Iterator[Letter]:
        states = self._states(tp.partition, begin)
        reader = LogReader(self._settings.kafka.bootstrap, {tp: BEGINNING}, name="dlq")
        following, deadline_s = begin, time.monotonic() + 30.0
        try:
            while following < end:
                found = reader.poll_batch(500, 0.5)
                if not found and time.monotonic() > deadline_s:
                    raise UnavailableError(f"{tp.topic} [{tp.partition}] gives nothing at {following}; is Kafka up?")
                for record in found:
                    following, deadline_s = record.offset + 1, time.monotonic() + 30.0
                    if record.offset >= end:
                        break
                    state = states.get(record.offset, "open")
                    body = DeadLetter.FromString(record.value)
                    yield Letter(tp.partition, record.offset, record.append_ts_ms, body, state)
        finally:
            reader.close()

    def find(self, names: Sequence[str]) -> list[Letter]:
        """Letters by their names.

        Raises
        ------
        ConfigError
            A name is wrong, or the topic has no such letter.
        """
        wanted: dict[tuple[int, int], str] = {}
        for name in names:
            partition, _, offset = name.partition(":")
            if not (partition.isdecimal() and offset.isdecimal()):
                raise ConfigError(f"a dead letter is named <partition>:<offset>, e.g. 0:17; got {name!r}")
            wanted[int(partition), int(offset)] = name
        found = {(letter.partition, letter.offset): letter for letter in self.read()}
        missing = [name for place, name in wanted.items() if place not in found]
        if missing:
            raise ConfigError(f"no dead letter {', '.join(missing)}; `liverank dlq list --all` names what there is")
        return [found[place] for place in wanted]

    def replay(self, letters: Sequence[Letter], *, instead: bytes | None = None) -> int:
        """Send letters again to where they came from, and note it; returns how many.

        An event that was applied meanwhile is a repeat and changes nothing. The key is taken from the value, so a
        stray finds its partition. Events go to the active generation.

        Parameters
        ----------
        letters : sequence of Letter
            All of them replayable.
        instead : bytes, optional
            A value to send in place of the letter's, as proto3 JSON.

        Raises
        ------
        ConfigError
            A letter cannot be replayed, or `instead` breaks the contract.
        UnavailableError
            Kafka or Redis is away: run it again, repeats are harmless.
        """
        for letter in letters:
            why = replayable(letter)
            if why and instead is None:
                raise ConfigError(f"dead letter {letter.name} cannot be replayed: {why}")
        failed: list[Exception] = []
        producer = Producer(self._settings.kafka.bootstrap, on_error=failed.append)
        for letter in letters:
            topic, key, value, headers = self._again(letter, instead)
            producer.produce(topic, key=key, value=value, headers=headers)
        if producer.flush(30.0) or failed:
            raise UnavailableError(f"Kafka did not take all: {failed[:1] or 'not within 30 s'}; run it again")
        self._note(letters, REPLAYED)
        return len(letters)

    def drop(self, letters: Sequence[Letter]) -> int:
        """Note that letters need nothing more; they stay in the topic until its retention."""
        self._note(letters, DROPPED)
        return len(letters)

    def _again(self, letter: Letter, instead: bytes | None) -> tuple[str, bytes | None, bytes, list[tuple[str, bytes]]]:
        body = letter.body
        headers = {name: value for name, value in body.headers.items() if name not in _TRAVEL}
        value = body.value
        if instead is not None:
            value, headers["content-type"] = instead, b"application/json"
        pairs = sorted(headers.items())
        topic, key = body.topic, body.key or None
        try:
            if ".events." in topic:
                topic = self._settings.topic("events", self._active())
                key = event_key(decode_event(value, tuple(pairs)))
            else:
                key = read_item(value, tuple(pairs), key=key).item_id.encode()
        except ContractError as error:
            if instead is not None:
                raise ConfigError(f"the value to send instead breaks the contract: {error.detail}") from error
        return topic, key, value, pairs

    def _active(self) -> int:
        with translated("reading the active generation"):
            text = self._client.get(f"{self._settings.namespace}:active")
        return int(text) if text else 1

    # -- notes

    def _key(self, partition: int) -> str:
        return f"{self._settings.namespace}:dlq:{partition}"

    def _states(self, partition: int, begin: int) -> Mapping[int, str]:
        with translated("reading what was done with dead letters"):
            noted: dict[bytes, bytes] = self._client.hgetall(self._key(partition))
            gone = [offset for offset in noted if int(offset) < begin]
            if gone:
                self._client.hdel(self._key(partition), *gone)
        return {int(offset): text.split()[0].decode() for offset, text in noted.items()}

    def _note(self, letters: Sequence[Letter], state: str) -> None:
        now_ms = int(time.time() * 1000)
        life_s = (RETENTION_MS + _DAY_MS) // 1000
        with translated("noting what was done with dead letters"):
            pipe: Any = self._client.pipeline(transaction=False)
            for letter in letters:
                pipe.hset(self._key(letter.partition), str(letter.offset), f"{state} {now_ms}")
            for partition in {letter.partition for letter in letters}:
                pipe.expire(self._key(partition), life_s)
            pipe.execute()
