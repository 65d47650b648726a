"""Hot settings in Redis: one hash `<ns>:config`, written by compare-and-set, every change with its audit line.

Fields: `v` the version (a count from 1), `d` the document as JSON, `a<version>` the audit line of each of the newest
1,000 changes. One key, so that a change and its line are one atomic call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from features.redis import Script, translated
from liverank.errors import CorruptError, NotFoundError, StaleError
from liverank.hot import HotSettings

if TYPE_CHECKING:
    from features.redis import Redis

__all__ = ["KEPT_CHANGES", "HotChange", "HotStore", "changes_between"]

KEPT_CHANGES: Final = 1_000
"""Changes whose lines are kept."""

_WRITE = """
local have = tonumber(redis.call('HGET', KEYS[1], 'v') or '0')
if have ~= tonumber(ARGV[1]) then return -1 end
redis.call('HSET', KEYS[1], 'v', have + 1, 'd', ARGV[2], 'a' .. (have + 1), ARGV[3])
redis.call('HDEL', KEYS[1], 'a' .. (have + 1 - tonumber(ARGV[4])))
return have + 1
"""


@dataclass(frozen=True, kw_only=True)
class HotChange:
    """One line of the audit log.

    Attributes
    ----------
    version
        That this change made.
    at_ms
        When, ms since the UTC epoch, by the writer's clock.
    who, why
        As given.
    changed
        Name -> (before, after), e.g. ``ranker.floor``.
    document
        What held from then on.
    """

    version: int
    at_ms: int
    who: str
    why: str
    changed: Mapping[str, tuple[Any, Any]]
    document: HotSettings


class HotStore:
    """The hot settings of a namespace. Thread-safe.

    Parameters
    ----------
    client
        Redis.
    namespace
        Key prefix.
    """

    def __init__(self, client: Redis, namespace: str) -> None:
        self._redis: Any = client
        self._key = f"{namespace}:config"
        self._write = Script(client, _WRITE)

    def version(self) -> int:
        """The version that holds now; 0 = nothing was ever changed. One round trip, 0.1 ms."""
        with translated("reading the version of the hot settings"):
            found = self._redis.hget(self._key, "v")
        return int(found) if found else 0

    def read(self) -> tuple[int, HotSettings]:
        """Version and document.

        Raises
        ------
        CorruptError
            The document cannot be read: another release wrote it, or someone by hand.
        """
        with translated("reading the hot settings"):
            version, data = self._redis.hmget(self._key, ["v", "d"])
        return (int(version), _document(data)) if version and data else (0, HotSettings())

    def write(self, document: HotSettings, *, over: int, who: str, why: str = "") -> HotChange:
        """Put a document in place of version `over`, with its audit line.

        Parameters
        ----------
        document
            Checked by the caller against the rules of a ranker.
        over
            Version that the change was made from.
        who, why
            For the audit line.

        Raises
        ------
        StaleError
            Someone else changed them meanwhile; nothing was written.
        """
        try:
            have, before = self.read()
        except CorruptError:  # what replaces it may be the way out
            have, before = self.version(), HotSettings()
        if have != over:
            raise StaleError(f"the hot settings are at version {have}, not {over}: look again, then repeat the change")
        changed = changes_between(before, document)
        line = {"at_ms": time.time_ns() // 1_000_000, "who": who, "why": why, "changed": changed}
        body = document.model_dump_json()
        text = json.dumps({**line, "document": json.loads(body)})
        args: list[bytes | str | int] = [self._key, over, body, text, KEPT_CHANGES]
        version = int(self._write.run_many([(1, args)], "writing the hot settings")[0])
        if version < 0:
            raise StaleError(
                "the hot settings were changed by someone else just now: look again, then repeat the change"
            )
        return _change(version, text.encode())

    def log(self, newest: int = 20) -> Sequence[HotChange]:
        """The newest changes, newest first."""
        version = self.version()
        wanted = range(version, max(0, version - min(newest, KEPT_CHANGES)), -1)
        if not wanted:
            return []
        with translated("reading the log of the hot settings"):
            lines = self._redis.hmget(self._key, [f"a{at}" for at in wanted])
        return [_change(at, line) for at, line in zip(wanted, lines, strict=True) if line]

    def at(self, version: int) -> HotSettings:
        """The document of an earlier version; 0 = before any change.

        Raises
        ------
        NotFoundError
            Not among the newest 1,000.
        """
        if version == 0:
            return HotSettings()
        with translated("reading the log of the hot settings"):
            line = self._redis.hget(self._key, f"a{version}")
        if not line:
            raise NotFoundError(f"version {version} of the hot settings is not kept: `liverank config log` has them")
        return _change(version, line).document


def changes_between(before: HotSettings, after: HotSettings) -> dict[str, tuple[Any, Any]]:
    """What differs, by name; None = not set."""
    old, new = _flat(before), _flat(after)
    names = sorted({*old, *new})
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _flat(document: HotSettings) -> dict[str, Any]:
    found: dict[str, Any] = {"exploration": document.exploration}
    found |= {f"policies.{key}": policy for key, policy in document.policies.items()}
    found |= {f"ranker.{name}": value for name, value in document.ranker.items()}
    return found


def _document(data: bytes) -> HotSettings:
    try:
        return HotSettings.model_validate_json(data)
    except ValidationError as error:
        raise CorruptError(
            f"hot settings cannot be read ({error.error_count()} faults): `liverank config rollback VERSION` puts an "
            "earlier version back"
        ) from error


def _change(version: int, line: bytes) -> HotChange:
    try:
        found = json.loads(line)
        return HotChange(
            version=version,
            at_ms=int(found["at_ms"]),
            who=str(found["who"]),
            why=str(found["why"]),
            changed={name: (pair[0], pair[1]) for name, pair in found["changed"].items()},
            document=HotSettings.model_validate(found["document"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"audit line {version} of the hot settings cannot be read: {error}") from error
