"""The item fold: effects of users' events in; counters, trends and neighbours of items out (docs/specs/state.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from features import native
from features.online import EntityRow
from features.program import FeatureProgram
from features.redis import VersionedValue, parse_version
from features.state.effects import CLOCK, CONTROL, EVENT, PAIRS, Effects, read_effects
from features.state.item import ItemState
from liverank.contract import INTERNAL_HEADER, header
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Control
from streams.control import Command, apply_control, parse_control
from streams.errors import FoldBugError
from streams.fold import Context, Feed, KeyState, Number, Parsed, Record
from streams.numbers import item_row
from streams.program import PROGRAM_KEY, ProgramState
from streams.rows import plain_key, state_key
from streams.users import state_params

__all__ = ["ItemFold"]

_ROWS: Final = "item-rows"
_NONE: Final = (-1, -1, -1, -1)
_BATCH: Any = None if native.core is None else native.core.EffectBatch


class ItemFold:
    """`streams.fold.Fold` over `item-effects`. Its clock is the smallest newest tick of its sources. Not thread safe.

    Parameters
    ----------
    settings : Settings
        Signal weights.
    program : FeatureProgram
        The views to keep.
    token : bytes
        The namespace's token: control records carry it; empty = none are taken.
    """

    name = "items"
    kind = "i"

    def __init__(self, settings: Settings, program: FeatureProgram, *, token: bytes = b"") -> None:
        self._settings = settings
        self._base = program
        self._program = ProgramState(program, {})
        self._signals = state_params(settings).signals
        self._token = token

    def for_partition(self, program: Mapping[bytes, bytes]) -> ItemFold:
        """See `Fold.for_partition`."""
        fold = ItemFold(self._settings, self._base, token=self._token)
        fold._program = ProgramState(self._base, program)
        return fold

    def parse(self, record: Record) -> Parsed:
        """Decode a record of packed effects; see `Fold.parse`."""
        try:
            if _BATCH is not None:
                batch = _BATCH(record.value)
                if batch.simple:
                    return Parsed(batch.keys, batch)
            effects = read_effects(record.value)
        except ValueError as error:
            raise ContractError("corrupt_effects", f"not a protobuf ItemEffects ({error}); report it") from error
        if effects.control is not None:
            if not self._token or header(record.headers, INTERNAL_HEADER) != self._token:
                raise ContractError("not_allowed", "a control record needs the namespace's token")
            return Parsed((PROGRAM_KEY,), parse_control(Control.FromString(effects.control)), alone=True)
        keys: dict[str, None] = {}
        alone = False
        for effect in effects.effects:
            body = effect.body
            if effect.kind in (EVENT, PAIRS):
                keys[state_key(body.item_id)] = None
            elif effect.kind == CONTROL:
                keys[PROGRAM_KEY] = None
                alone = True
            elif effect.kind != CLOCK:
                raise ContractError(
                    "corrupt_effects", "an effect sets event, pairs, clock_ms or control, got none; report it"
                )
        return Parsed(tuple(keys), effects, alone=alone)

    def new(self, key: str) -> KeyState:
        """See `Fold.new`."""
        return self.load(key, {})

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        """See `Fold.load`."""
        if key == PROGRAM_KEY:
            return self._program
        return ItemState(plain_key(key), fields, self._program.program, self._signals)

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        """Fold the effects of one source partition, each once; see `Fold.apply`."""
        if isinstance(body, Command):
            apply_control(body, self._program, ctx, home=self._settings.home, offset=record.offset)
            return
        if _BATCH is not None and isinstance(body, _BATCH):
            source = body.source_partition
            if not self._program.skipped(source):
                before = ctx.taken(source) or _NONE
                after = body.apply(ctx, tuple(before))
                if after != before:
                    ctx.take(source, Number(*after))
                return
            body = read_effects(record.value)
        if not isinstance(body, Effects):
            raise FoldBugError(f"the item fold folds effects, got {type(body).__name__}")
        generation, source, effects, _ = body

        def failed(view: str, detail: str) -> None:
            ctx.dead_letter("transformation_failed", f"view {view!r}: {detail}; the effects count for all other views")

        skip = self._program.skipped(source)
        known = ctx.taken(source)
        taken: tuple[int, int, int, int] = known or _NONE
        for effect in effects:
            offset, step, index, kind, what = effect
            number = (generation, offset, step, index)
            if number <= taken and kind != CONTROL:
                continue
            if kind == EVENT:
                _item(ctx, what.item_id).observe(what, failed=failed, skip=skip)
            elif kind == PAIRS:
                _item(ctx, what.item_id).meet(what)
            elif kind == CLOCK:
                ctx.source_clock(source, what)
            else:
                if taken != (known or _NONE):
                    ctx.take(source, Number(*taken))
                ctx.reload()  # before it is taken: a new owner must find it untaken or applied
                if not ctx.take(source, Number(*number)):
                    continue
                known = Number(*number)
                command = parse_control(Control.FromString(what))
                apply_control(command, self._program, ctx, home=self._settings.home, offset=offset, source=source)
                skip = self._program.skipped(source)
            taken = number
        if taken != (known or _NONE):
            ctx.take(source, Number(*taken))

    def usual(self, ctx: Context) -> None:
        """Records of effects are many already; see `Fold.usual`."""
        return

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        """Nothing of an item is ever due."""
        raise FoldBugError(f"item {key!r} is due at {due_ms}, but nothing of an item is ever due")

    def rows(
        self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes
    ) -> Sequence[EntityRow | VersionedValue | Feed]:
        """Feast rows of an item, and the change for rankers; see `Fold.rows`."""
        if isinstance(state, ProgramState):
            return []
        if not isinstance(state, ItemState):
            raise FoldBugError(f"state of {key!r} is a {type(state).__name__}")
        item_id, event_ts_ms = state.item_id, state.newest_event_ts_ms
        change = item_row(*parse_version(version), item_id, fields, event_ts_ms)
        return [
            EntityRow("item_id", item_id, fields, event_ts_ms, version),
            Feed(_ROWS, item_id.encode(), change),
        ]


def _item(ctx: Context, item_id: str) -> ItemState:
    key = state_key(item_id)
    state = ctx.state(key)
    if not isinstance(state, ItemState):
        raise FoldBugError(f"state of {key!r} is a {type(state).__name__}, not an item's")
    return state
