"""The feature program of a partition: fenced state like any other, changed by control records alone.

A namespace begins with the program that was in Redis when its first worker started (*pinned*). Every later change of
the registry reaches a partition as records in its log (docs/specs/control.md), so that what a view counts is a function
of the log.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from features.errors import ProgramError
from features.program import FeatureProgram, ViewProgram
from features.redis import Redis, translated
from liverank.errors import ContractError, CorruptError
from streams.errors import WorkerConfigError

__all__ = ["PROGRAM_KEY", "ProgramState", "Running", "pin_published", "pinned_program", "published_program"]

PROGRAM_KEY: Final = "#program"
"""State key of a partition's program."""

_FIELD: Final = b"_program"
_FORMAT: Final = 1


@dataclass(slots=True)
class Running:
    """A view that a partition counts.

    Attributes
    ----------
    activation : str
        Which activation; empty = it counts from the first record.
    offset : int
        Record of `activate`; -1 = none.
    sources : set of int or None
        Item fold: source partitions from which it counts; None = all.
    merged : bool
        Whether it holds what was counted before it was activated.
    """

    view: ViewProgram
    activation: str = ""
    offset: int = -1
    sources: set[int] | None = None
    merged: bool = True


class ProgramState:
    """What one partition counts; a `streams.fold.KeyState` under the key `#program`.

    Parameters
    ----------
    base : FeatureProgram
        The pinned program: in force while nothing is stored.
    fields : mapping of bytes to bytes
        Stored fields.
    """

    def __init__(self, base: FeatureProgram, fields: Mapping[bytes, bytes]) -> None:
        self._project = base.project
        self.views = [Running(view) for view in base.views]
        self._leaving: dict[str, list[str]] = {}
        self._progress = ("", 0)
        self._changed = False
        stored = fields.get(_FIELD)
        if stored:
            self._read(stored)
        self._follow()

    # -- reading

    def running(self, activation: str) -> Running | None:
        """The view of an activation."""
        return next((each for each in self.views if each.activation == activation), None)

    def is_running(self, activation: str, source: int | None) -> bool:
        """Whether it counts already (what this source sends)."""
        found = self.running(activation)
        return found is not None and (source is None or found.sources is None or source in found.sources)

    def of_tiles(self, tiles_id: str) -> Running | None:
        """The running view with these tiles."""
        return next((each for each in self.views if each.view.tiles_id == tiles_id and each.view.aggregates), None)

    @property
    def leaving(self) -> Mapping[str, Sequence[str]]:
        """Fields of removed views that may still lie in the state, by `tiles_id`."""
        return self._leaving

    def skipped(self, source: int) -> frozenset[str]:
        """`tiles_id` of the views that do not count what this source sends yet."""
        return frozenset(each.view.tiles_id for each in self._partly if source not in (each.sources or ()))

    def counts_apart_from(self, activation: str, view: ViewProgram) -> bool:
        """Whether these tiles count already by another activation (a rebuild counts all views from the start)."""
        found = self.of_tiles(view.tiles_id)
        return found is not None and found.activation != activation

    def check_swept(self, view: ViewProgram) -> None:
        """Refuse to count on top of what a removed view left.

        Raises
        ------
        ContractError
            `bad_control`.
        """
        left = {field for fields in self._leaving.values() for field in fields}
        if left.intersection(field.decode() for field in view.page_fields):
            raise ContractError("bad_control", f"tiles of an earlier {view.name!r} are not swept yet")

    # -- changes

    def activate(self, activation: str, view: ViewProgram, offset: int, source: int | None, n_sources: int) -> None:
        """Count `view` from now on, or what `source` sends from now on."""
        found = self.running(activation)
        if found is None:
            found = Running(view, activation, offset, None if source is None else set(), merged=not view.aggregates)
            self.views.append(found)
        if source is not None and found.sources is not None:
            found.sources.add(source)
            if len(found.sources) == n_sources:
                found.sources = None
        self._touch()

    def remove(self, running: Running) -> None:
        """Stop counting; the fields wait to be swept."""
        self.views.remove(running)
        self._leaving[running.view.tiles_id] = [field.decode() for field in running.view.page_fields]
        self._touch()

    def begin(self, digest: str) -> int:
        """Begin a staging file, or go on with it; return the first key that is not done.

        Raises
        ------
        ContractError
            `bad_control`: another file was begun and not ended.
        """
        if self._progress[0] not in ("", digest):
            raise ContractError("bad_control", f"another staging file ({self._progress[0][:12]}...) is not done yet")
        return self._progress[1] if self._progress[0] else 0

    def done(self, n: int, digest: str) -> None:
        """Note that the first `n` keys of the staging file are done."""
        self._progress = (digest, n)
        self._changed = True

    def merged(self, activations: Collection[str]) -> None:
        """Note that these activations hold their past."""
        for each in self.views:
            if each.activation in activations:
                each.merged = True
        self._progress = ("", 0)
        self._touch()

    def swept(self, tiles_id: str) -> None:
        """Note that nothing of these tiles is left."""
        self._leaving.pop(tiles_id, None)
        self._progress = ("", 0)
        self._touch()

    # -- KeyState

    def due_ms(self) -> int | None:
        """A program is never due."""
        return None

    def dirty(self) -> dict[bytes, bytes]:
        """The stored form, if it changed since the last call."""
        if not self._changed:
            return {}
        self._changed = False
        body = {
            "format": _FORMAT,
            "views": [
                {
                    "view": each.view.to_dict(),
                    "activation": each.activation,
                    "offset": each.offset,
                    "sources": None if each.sources is None else sorted(each.sources),
                    "merged": each.merged,
                }
                for each in self.views
            ],
            "leaving": self._leaving,
            "progress": list(self._progress),
        }
        return {_FIELD: json.dumps(body, sort_keys=True, separators=(",", ":")).encode()}

    # -- inside

    def _touch(self) -> None:
        self._changed = True
        self._follow()

    def _follow(self) -> None:
        self.program = FeatureProgram(project=self._project, views=tuple(each.view for each in self.views))
        self.has_sessions = any(each.view.entity == "session" and each.view.aggregates for each in self.views)
        self._partly = [each for each in self.views if each.sources is not None]

    def _read(self, stored: bytes) -> None:
        try:
            body = json.loads(stored)
            if body["format"] != _FORMAT:
                raise CorruptError(
                    f"a partition's program has format {body['format']}, this build reads {_FORMAT}; "
                    "run `liverank rebuild`"
                )
            self.views = [
                Running(
                    ViewProgram.from_dict(each["view"]),
                    each["activation"],
                    each["offset"],
                    None if each["sources"] is None else set(each["sources"]),
                    each["merged"],
                )
                for each in body["views"]
            ]
            self._leaving = dict(body["leaving"])
            self._progress = (body["progress"][0], body["progress"][1])
        except (KeyError, IndexError, TypeError, ValueError, ProgramError) as error:
            raise CorruptError(f"a partition's program cannot be read ({error}); run `liverank rebuild`") from error


def published_program(client: Redis, namespace: str) -> FeatureProgram | None:
    """What the registry holds now; None before the first `feast apply`.

    Raises
    ------
    ProgramError
        It cannot be read.
    """
    with translated("reading the feature program"):
        text = client.get(f"{namespace}:program")
    return FeatureProgram.from_json(text) if text else None


def pinned_program(client: Redis, namespace: str) -> FeatureProgram:
    """Return the program that this namespace was created with, pinning the published one at the first call.

    Raises
    ------
    WorkerConfigError
        No program was ever published, or the state is of an older release.
    """
    with translated("reading the pinned feature program"):
        text = client.get(f"{namespace}:program:pinned")
    if not text:
        return pin_published(client, namespace)
    try:
        return FeatureProgram.from_json(text)
    except ProgramError as error:
        raise WorkerConfigError(
            f"the state of namespace {namespace} was made by another release ({error}); run `liverank rebuild` after "
            "`feast apply`"
        ) from error


def pin_published(client: Redis, namespace: str, *, anew: bool = False) -> FeatureProgram:
    """Pin the published program; `anew` replaces the pinned one: only while no state of it is left.

    Raises
    ------
    WorkerConfigError
        No program was ever published.
    """
    program = published_program(client, namespace)
    if program is None:
        raise WorkerConfigError(
            f"there is no feature program at {namespace}:program: run `liverank up` (or `feast apply`) first"
        )
    key = f"{namespace}:program:pinned"
    with translated("pinning the feature program"):
        client.set(key, program.to_json(), nx=not anew)
        return FeatureProgram.from_json(client.get(key))
