"""Ids made by liverank: UUIDv7 (RFC 9562), whose first 48 bits are the time in ms."""

from __future__ import annotations

import hashlib
import random
import uuid

from liverank.errors import ContractError

_MAX_MS = (1 << 48) - 1


def uuid7(now_ms: int, rng: random.Random) -> str:
    """A new UUIDv7.

    Parameters
    ----------
    now_ms : int
        Time it carries, ms since the UTC epoch, in [0, 2**48).
    rng : random.Random
        Source of its 74 random bits; `random.SystemRandom()` in production, a seeded one in replays.

    Raises
    ------
    ContractError
        `bad_timestamp`, where `now_ms` does not fit 48 bits.

    Examples
    --------
    >>> uuid7_ms(uuid7(1_700_000_000_000, random.Random(1)))
    1700000000000
    """
    if not 0 <= now_ms <= _MAX_MS:
        raise ContractError("bad_timestamp", f"a UUIDv7 holds 0 to 2**48-1 ms, got {now_ms}")
    bits = rng.getrandbits(74)
    value = (now_ms << 80) | (0x7 << 76) | ((bits >> 62) << 64) | (0b10 << 62) | (bits & ((1 << 62) - 1))
    return str(uuid.UUID(int=value))


def uuid7_ms(request_id: str) -> int:
    """The time that a UUIDv7 carries, ms since the UTC epoch.

    Raises
    ------
    ContractError
        `bad_request_id`, where the text is not a UUIDv7.
    """
    try:
        parsed = uuid.UUID(request_id)
    except ValueError as error:
        raise ContractError("bad_request_id", f"a request id is a UUIDv7, got {request_id[:64]!r}") from error
    if parsed.version != 7:
        raise ContractError("bad_request_id", f"a request id is a UUIDv7, got version {parsed.version}: {request_id}")
    return parsed.int >> 80


def event_id_of(idempotency_key: str, index: int) -> str:
    """Event id of the `index`-th event of a batch with this idempotency key: the same on every repeat of the call."""
    return hashlib.blake2b(f"{idempotency_key}\0{index}".encode(), digest_size=16).hexdigest()
