"""Agent: label rows of the topic `examples` -> Parquet files, where training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from features.examples import examples_dir, write_examples
from liverank.errors import UnavailableError
from liverank.kafka import Record
from liverank.v1.stream_pb2 import Example
from streams.agents.batches import Pace
from streams.agents.dead import DeadLetterWriter
from streams.agents.positions import host
from streams.agents.services import AgentServices

if TYPE_CHECKING:
    import faust

PACE: Final = Pace(records=20_000, within_s=2.0)


class ExampleSink:
    """One file per partition and batch; a repeated batch writes rows that readers take once."""

    name = "examples"

    def __init__(self, folder: Path, dead: DeadLetterWriter) -> None:
        self._folder, self._dead = folder, dead

    def handle(self, records: Sequence[Record]) -> None:
        """Write the files.

        Raises
        ------
        UnavailableError
            The disk refuses: the batch is tried again.
        """
        rows: dict[int, list[tuple[int, Example]]] = {}
        for record in records:
            try:
                example = Example.FromString(record.value)
            except DecodeError as error:
                self._dead.write(record, "malformed", f"an example cannot be read: {error}")
                continue
            rows.setdefault(record.partition, []).append((record.offset, example))
        for partition, found in rows.items():
            try:
                write_examples(self._folder, partition, found[0][0], found[-1][0], [example for _, example in found])
            except OSError as error:
                raise UnavailableError(f"{self._folder} takes no examples: {error}; check disk and rights") from error
        self._dead.flush()


def register(app: faust.App, services: AgentServices) -> None:
    """Add the agent to the worker."""
    settings = services.settings
    host(app, services, "examples", ExampleSink(examples_dir(settings), DeadLetterWriter(settings)), PACE)
