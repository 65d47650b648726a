"""Agent: catalogue changes -> `item_catalogue` rows, and vectors for new items so that they are reachable at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from features.item_vectors import VIEW as SEMANTIC
from features.item_vectors import activate_space, active_space
from features.llm import Provider, provider_of
from features.llm.enrich import space_of
from features.llm.text import item_text
from features.online import OnlineWriter, Row
from features.redis import Redis, connect, format_version
from features.wire import pack_double, pack_floats, pack_int64, pack_string, pack_strings
from liverank.contract import read_item, validate_item
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.item_pb2 import Item, ItemChange
from streams.agents.batches import Pace
from streams.agents.dead import DeadLetterWriter
from streams.agents.positions import host
from streams.agents.services import AgentServices

if TYPE_CHECKING:
    import faust

CATALOGUE: Final = "item_catalogue"
JOIN_KEY: Final = "item_id"
PACE: Final = Pace(records=500, within_s=0.2)
_SOURCELESS_GENERATION: Final = 0  # the topic `items` has one life


class CatalogueHandler:
    """Writes the newest version of each item of a batch.

    Vectors are made only where the provider of the settings needs no network and its space is the active one (or none
    is: then it becomes active); otherwise they come with the next `liverank enrich`.

    Parameters
    ----------
    provider : Provider or None
        None: no vectors.
    """

    name = "catalogue"

    def __init__(
        self,
        client: Redis,
        settings: Settings,
        writer: OnlineWriter,
        provider: Provider | None,
        dead: DeadLetterWriter,
    ) -> None:
        self._client, self._settings, self._writer, self._dead = client, settings, writer, dead
        self._provider = provider if provider is not None and not provider.network else None

    def handle(self, records: Sequence[Record]) -> None:
        """Rows first, then vectors; refused records become dead letters."""
        newest: dict[str, tuple[Record, Item | None]] = {}
        for record in records:
            try:
                change = read_item(record.value, record.headers, key=record.key)
            except ContractError as error:
                self._dead.write(record, error.reason, error.detail)
                continue
            self._check_vectors(record, change)
            newest[change.item_id] = (record, change.upsert if change.HasField("upsert") else None)
        self._writer.write([catalogue_row(item_id, record, item) for item_id, (record, item) in newest.items()])
        self._embed({item_id: (record, item) for item_id, (record, item) in newest.items() if item is not None})
        self._dead.flush()

    def _check_vectors(self, record: Record, change: ItemChange) -> None:
        """Write a dead letter for a vector of the active space that has another length; the rest of the item counts."""
        if not change.upsert.vectors:
            return
        space = active_space(self._client, self._settings)
        if space is None:
            return
        try:
            validate_item(change, dims={str(space): space.dim})
        except ContractError as error:
            self._dead.write(
                record, error.reason, f"{error.detail}; the vector is ignored, the rest of the item counts"
            )

    def _embed(self, items: dict[str, tuple[Record, Item]]) -> None:
        provider = self._provider
        if provider is None or not items:
            return
        space = space_of(provider)
        activate_space(self._client, self._settings, space, only_if_none=True)
        if active_space(self._client, self._settings) != space:
            return
        vectors = provider.embed([item_text(item) for _, item in items.values()]).vectors
        rows = []
        for (item_id, (record, _)), vector in zip(items.items(), vectors, strict=True):
            if vector.any():
                values = {
                    "vector": pack_floats(vector),
                    "space": pack_string(str(space)),
                    "attributes": pack_string(""),
                }
                rows.append(Row(SEMANTIC, JOIN_KEY, item_id, values, record.append_ts_ms, version_of(record)))
        self._writer.write(rows)


def version_of(record: Record) -> bytes:
    """Version of an item's rows: the offset of its record (an item never changes its partition)."""
    return format_version(_SOURCELESS_GENERATION, record.offset, 0)


def catalogue_row(item_id: str, record: Record, item: Item | None) -> Row:
    """The Feast row of an item; a removed item keeps its fields and is not available."""
    if item is None:
        values = {"available": pack_int64(0), "version": pack_int64(record.offset)}
    else:
        values = {
            "title": pack_string(item.title),
            "price": pack_double(item.price),
            "available": pack_int64(int(item.available)),
            "creator": pack_string(item.creator),
            "categories": pack_strings(list(item.categories)),
            "published_ts_ms": pack_int64(item.published_ts_ms),
            "version": pack_int64(record.offset),
        }
    return Row(CATALOGUE, JOIN_KEY, item_id, values, record.append_ts_ms, version_of(record))


def register(app: faust.App, services: AgentServices) -> None:
    """Add the agent to the worker."""
    settings = services.settings
    client = connect(settings)
    provider = provider_of(settings.llm) if settings.llm.provider == "local" else None
    writer = OnlineWriter(client, settings.feast_project)
    handler = CatalogueHandler(client, settings, writer, provider, DeadLetterWriter(settings))
    host(app, services, "items", handler, PACE)
