"""The item fold: effects of users' events in; counters, trends and neighbours of items out (docs/specs/state.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from features.online import Row
from features.program import FeatureProgram
from features.redis import VersionedValue, parse_version
from features.state.item import ItemState
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.stream_pb2 import ItemEffects, ItemRow
from liverank.v1.stream_pb2 import Number as NumberMessage
from streams.errors import FoldBugError
from streams.fold import Context, Feed, KeyState, Number, Parsed, Record
from streams.rows import plain_key, rows_of, state_key
from streams.users import state_params

__all__ = ["ItemFold"]

_ROWS: Final = "item-rows"


class ItemFold:
    """`streams.fold.Fold` over `item-effects`. Its clock is the smallest newest tick of its sources. Not thread safe.

    Parameters
    ----------
    settings : Settings
        Signal weights.
    program : FeatureProgram
        The views to keep.
    """

    name = "items"
    kind = "i"

    def __init__(self, settings: Settings, program: FeatureProgram) -> None:
        self._program = program
        self._signals = state_params(settings).signals
        self._text = any(view.needs_text or view.transformation is not None for view in program.of_entity("item"))

    def parse(self, record: Record) -> Parsed:
        """Decode a record of packed effects; see `Fold.parse`."""
        try:
            effects = ItemEffects.FromString(record.value)
        except DecodeError as error:
            raise ContractError("corrupt_effects", f"not a protobuf ItemEffects ({error}); report it") from error
        keys: dict[str, None] = {}
        for effect in effects.effects:
            kind = effect.WhichOneof("effect")
            if kind == "event":
                keys[state_key(effect.event.item_id)] = None
            elif kind == "pairs":
                keys[state_key(effect.pairs.item_id)] = None
            elif kind is None:
                raise ContractError(
                    "corrupt_effects", "an effect sets event, pairs or clock_ms, got neither; report it"
                )
        return Parsed(tuple(keys), effects)

    def new(self, key: str) -> KeyState:
        """See `Fold.new`."""
        return self.load(key, {})

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        """See `Fold.load`."""
        return ItemState(plain_key(key), fields, self._program, self._signals)

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        """Fold the effects of one source partition, each once; see `Fold.apply`."""
        if not isinstance(body, ItemEffects):
            raise FoldBugError(f"the item fold folds effects, got {type(body).__name__}")
        generation, source = body.generation, body.source_partition

        def failed(view: str, detail: str) -> None:
            ctx.dead_letter("transformation_failed", f"view {view!r}: {detail}; the effects count for all other views")

        for effect in body.effects:
            if not ctx.take(source, Number(generation, effect.offset, effect.step, effect.index)):
                continue
            kind = effect.WhichOneof("effect")
            if kind == "event":
                event = effect.event
                category = ""
                if self._text:
                    item = ctx.item(event.item_id, record.append_ts_ms)
                    category = item.category if item is not None else ""
                _item(ctx, event.item_id).observe(event, category, failed=failed)
            elif kind == "pairs":
                _item(ctx, effect.pairs.item_id).meet(effect.pairs)
            else:
                ctx.source_clock(source, effect.clock_ms)

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        """Nothing of an item is ever due."""
        raise FoldBugError(f"item {key!r} is due at {due_ms}, but nothing of an item is ever due")

    def rows(
        self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes
    ) -> Sequence[Row | VersionedValue | Feed]:
        """Feast rows of an item, and the change for rankers; see `Fold.rows`."""
        if not isinstance(state, ItemState):
            raise FoldBugError(f"state of {key!r} is a {type(state).__name__}")
        item_id, event_ts_ms = state.item_id, state.newest_event_ts_ms
        generation, offset, step = parse_version(version)
        change = ItemRow(
            number=NumberMessage(generation=generation, offset=offset, step=step),
            item_id=item_id,
            pages={name.decode(): page for name, page in fields.items()},
            event_ts_ms=event_ts_ms,
        )
        return [
            *rows_of("item_id", item_id, fields, event_ts_ms, version),
            Feed(_ROWS, item_id.encode(), change),
        ]


def _item(ctx: Context, item_id: str) -> ItemState:
    key = state_key(item_id)
    state = ctx.state(key)
    if not isinstance(state, ItemState):
        raise FoldBugError(f"state of {key!r} is a {type(state).__name__}, not an item's")
    return state
