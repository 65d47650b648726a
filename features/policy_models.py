"""Where the learner of a policy leaves what it learned: a versioned set in Redis, read by every ranker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from features.redis import VersionedSet, VersionedValue, format_version, translated

if TYPE_CHECKING:
    from features.redis import Redis

__all__ = ["Lease", "PolicyModels"]

_RENEW: Final = """
local have = redis.call('GET', KEYS[1])
if have and have ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class PolicyModels:
    """Newest model of each learning policy: ``<ns>:policy-model:<name>``. Thread-safe.

    Parameters
    ----------
    client
        Redis.
    namespace
        Key prefix.
    """

    def __init__(self, client: Redis, namespace: str) -> None:
        self._redis: Any = client
        self._set = VersionedSet(client)
        self._namespace = namespace

    def version(self, name: str) -> bytes | None:
        """Version of the newest model; None = there is none."""
        with translated("reading the version of a policy's model"):
            found = self._redis.hget(self._key(name), "v")
        return found if isinstance(found, bytes) else None

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        """Version and bytes of the newest model."""
        with translated("reading a policy's model"):
            version, data = self._redis.hmget(self._key(name), ["v", "d"])
        return (version, data) if version and data else None

    def write(self, name: str, data: bytes, *, generation: int, n_read: int) -> bool:
        """Publish a model; False where a newer one is there (another learner owns the policy now).

        Parameters
        ----------
        n_read
            Records that it has read in all: what versions are ordered by.
        """
        value = VersionedValue(self._key(name), {"d": data}, format_version(generation, n_read, 0))
        return self._set.write([value])[0]

    def _key(self, name: str) -> str:
        return f"{self._namespace}:policy-model:{name}"


class Lease:
    """One owner at a time, for as long as it renews. Not a fence: what the owner writes is versioned besides.

    Parameters
    ----------
    client
        Redis.
    key
        Of the lease.
    owner
        Different for every process.
    ttl_s
        How long a silent owner keeps it.
    """

    def __init__(self, client: Redis, key: str, owner: str, ttl_s: float) -> None:
        self._redis: Any = client
        self._key, self._owner, self._ttl_ms = key, owner, int(ttl_s * 1000)

    def hold(self) -> bool:
        """Take or renew it; False = another holds it."""
        with translated("renewing a lease"):
            return bool(self._redis.eval(_RENEW, 1, self._key, self._owner, self._ttl_ms))

    def release(self) -> None:
        """Let the next owner have it at once, if it is still ours."""
        with translated("releasing a lease"):
            if self._redis.get(self._key) == self._owner.encode():
                self._redis.delete(self._key)
