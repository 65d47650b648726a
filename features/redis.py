"""Redis, as liverank uses it: the only importer of redis-py.

Holds the client, the translation of its errors, the fixed-width version text and the *versioned set*: a hash whose
fields are replaced only
if the stored version is not newer, so that a repeat or a writer that no longer owns the data can do no harm.
"""

from __future__ import annotations

import math
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis as _redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from features import native
from liverank.errors import ConfigError, UnavailableError
from liverank.settings import Settings

__all__ = [
    "Guarded",
    "Link",
    "Packed",
    "Redis",
    "RedisConfigError",
    "RedisUnavailableError",
    "Script",
    "VersionedSet",
    "VersionedValue",
    "connect",
    "format_version",
    "namespace_token",
    "parse_version",
    "send_packed",
    "translated",
    "write_guarded",
]

if TYPE_CHECKING:
    # redis-py types every reply as "awaitable or not": its answers are checked where they are used instead.
    Redis = Any
else:
    Redis = _redis.Redis


class RedisUnavailableError(UnavailableError):
    """Redis is away, loading, read-only, out of memory, or answered too late."""


class RedisConfigError(ConfigError):
    """The address, the password or a command is wrong."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn redis-py's errors into liverank's.

    Raises
    ------
    RedisUnavailableError
        Retryable: away, timed out, loading, read-only replica, out of memory.
    RedisConfigError
        Wrong password, wrong command, wrong type: retrying does not help.
    """
    try:
        yield
    except AuthenticationError as error:
        raise RedisConfigError(f"{doing}: Redis refuses the password ({error}); set redis.password") from error
    except (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError) as error:
        raise RedisUnavailableError(
            f"{doing}: Redis is away ({error}); is it up (`liverank status`), and LIVERANK_REDIS__URL right?"
        ) from error
    except ResponseError as error:
        if str(error).startswith(
            ("OOM", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "READONLY", "BUSY")
        ):
            raise RedisUnavailableError(
                f"{doing}: Redis cannot serve now ({error}); `liverank doctor` checks it"
            ) from error
        raise RedisConfigError(f"{doing}: {error}") from error
    except (RedisError, OSError) as error:
        raise RedisUnavailableError(f"{doing}: {error}; is Redis up (`liverank status`)?") from error


class Link:
    """Notices that a connection to Redis was lost: Redis may have come back older than it was.

    The command that meets the new connection is not sent: it raises once, so that whoever relies on what Redis held
    before can look first.

    Attributes
    ----------
    lost : bool
        A connection was made after the first one; set it to False when everything was read anew.
    """

    def __init__(self) -> None:
        self.lost = False
        self._first = True

    def made(self, connection: Any) -> None:
        """Called by redis-py in place of `on_connect`."""
        connection.on_connect()
        if self._first:
            self._first = False
        elif not self.lost:
            self.lost = True
            raise ConnectionError("the connection was lost; what Redis holds must be read anew")


def connect(settings: Settings, *, timeout_s: float | None = None, retries: int = 0, link: Link | None = None) -> Redis:
    """Return a client that speaks bytes. Makes no connection yet.

    Parameters
    ----------
    link : Link, optional
        Told about every connection; for a client of one thread.
    timeout_s : float, optional
        Socket timeout; default `settings.redis.socket_timeout_s`.
    retries : int
        How often a command is repeated on a broken connection. Leave 0 where a repeat could double an effect.

    Raises
    ------
    RedisConfigError
        No address is set.
    """
    url = settings.redis.url
    if not url:
        raise RedisConfigError(
            "no Redis address: run `liverank up`, or set LIVERANK_REDIS__URL, e.g. redis://127.0.0.1:6379/0"
        )
    if "://" not in url:
        url = f"redis://{url}"
    timeout_s = settings.redis.socket_timeout_s if timeout_s is None else timeout_s
    password = settings.redis.password.get_secret_value() if settings.redis.password else None
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries),
    }
    if password is not None:
        options["password"] = password
    if link is not None:
        options["redis_connect_func"] = link.made
    try:
        return _redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise RedisConfigError(
            f"Redis address {settings.redis.url!r}: {error}; allowed e.g. redis://host:6379/0"
        ) from error


class Script:
    """A Lua script by its hash; loads itself where the server does not have it (a restart forgets scripts)."""

    def __init__(self, client: Redis, source: str) -> None:
        self._client = client
        self._source = source
        self._sha: str | None = None

    def sha(self) -> str:
        """Return the hash, loading the script at the first call."""
        if self._sha is None:
            with translated("loading a script"):
                self._sha = str(self._client.script_load(self._source))
        return self._sha

    def run_many(self, calls: Sequence[tuple[int, Sequence[bytes | str | int]]], doing: str) -> list[Any]:
        """Run the script once per call, in order, in one round trip without a transaction.

        Parameters
        ----------
        calls : sequence of (n_keys, keys and args)

        Returns
        -------
        list
            One reply per call, in order; a script error raises, after all calls were sent.
        """
        if not calls:
            return []
        sha = self.sha()
        with translated(doing):
            pipe = self._client.pipeline(transaction=False)
            for n_keys, args in calls:
                pipe.execute_command("EVALSHA", sha, n_keys, *args)
            replies = pipe.execute(raise_on_error=False)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                # The server was restarted: no call has run unless some ran before the restart, and every script here
                # is idempotent.
                self._client.script_load(self._source)
                pipe = self._client.pipeline(transaction=False)
                for n_keys, args in calls:
                    pipe.execute_command("EVALSHA", sha, n_keys, *args)
                replies = pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return list(replies)

    def run_packed(self, commands: Sequence[bytes], doing: str) -> list[Any]:
        """Run encoded `EVALSHA` commands of this script (`features.native`), as `run_many` runs calls."""
        if not commands:
            return []
        self.sha()
        with translated(doing):
            replies = self._exchange(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                self._client.script_load(self._source)
                replies = self._exchange(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        return _exchange(self._client, commands)


def send_packed(client: Redis, commands: Sequence[bytes], doing: str) -> list[Any]:
    """Send encoded commands in one round trip; return their replies, in order.

    Raises
    ------
    RedisUnavailableError
        How far they came is not known.
    RedisConfigError
        A command was refused; all were sent.
    """
    with translated(doing):
        replies = _exchange(client, commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
    return replies


class Packed(NamedTuple):
    """Encoded commands, and how many they are."""

    data: bytes
    n: int


class Guarded(NamedTuple):
    """Commands that run in one step, if hashes hold what they should.

    Attributes
    ----------
    holds : mapping
        Hash -> its fields -> what each must hold.
    """

    holds: Mapping[bytes, Mapping[bytes, bytes]]
    commands: Packed


def write_guarded(client: Redis, transactions: Sequence[Guarded], doing: str) -> list[bool]:
    """Run each transaction, in order, if what it rests on holds, and has not changed until it ends.

    The hashes are watched and read with the end of the transaction before (WATCH, then MULTI and EXEC): Redis takes
    plain commands at half the cost of the same from a script. Native code does the talking, without Python's lock: who
    folds meanwhile holds it for long. It cannot talk over an encrypted connection: then nothing is run.

    Returns
    -------
    list of bool
        Whether each has run, all of it; False = nothing of it.

    Raises
    ------
    RedisUnavailableError
        How far they came is not known.
    RedisConfigError
        A command was refused.
    """
    if not transactions:
        return []
    with translated(doing):
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            plain = _plain_socket(connection)
            if plain is None:
                return [False] * len(transactions)
            timeout_s = plain.gettimeout()
            asked = [
                (_look(each), [list(f.values()) for f in each.holds.values()], *each.commands) for each in transactions
            ]
            done: list[bool]
            done, refused, away = native.core.write_guarded(
                plain.fileno(), -1 if timeout_s is None else math.ceil(1000 * timeout_s), asked
            )
            if away:
                raise ConnectionError(away.decode(errors="replace"))
            if refused:
                _talk(connection, [_UNWATCH], 1)  # the next look may stand: the connection goes back to others
                raise ResponseError(refused.decode(errors="replace"))
            return done
        except ResponseError:  # every reply was read
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


def _plain_socket(connection: Any) -> socket.socket | None:
    """The socket of a connection; None where it is encrypted."""
    found = connection._sock
    return found if type(found) is socket.socket else None


def _look(transaction: Guarded) -> bytes:
    """Commands that watch and read what a transaction rests on."""
    reads = [_packed(b"HMGET", key, *fields) for key, fields in transaction.holds.items()]
    return b"".join((_packed(b"WATCH", *transaction.holds), *reads))


def _packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


_UNWATCH: Final = _packed(b"UNWATCH")


def _exchange(client: Redis, commands: Sequence[bytes]) -> list[Any]:
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        return _talk(connection, commands, len(commands))
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _talk(connection: Any, sent: Sequence[bytes], n: int) -> list[Any]:
    """Send, then read `n` replies; errors that Redis answers stand among them."""
    connection.send_packed_command(_joined(sent))
    replies: list[Any] = []
    for _ in range(n):
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def _joined(commands: Sequence[bytes]) -> list[bytes]:
    """Commands put together, so that many small ones cost neither side a system call each."""
    chunks: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for command in commands:
        waiting.append(command)
        size += len(command)
        if size >= _CHUNK_BYTES:
            chunks.append(b"".join(waiting))
            waiting, size = [], 0
    if waiting:
        chunks.append(b"".join(waiting))
    return chunks


_CHUNK_BYTES: Final = 128 * 1024


#: Version below every other.
VERSION_ZERO: Final = b"0000.0000000000000000.000000"


def format_version(generation: int, offset: int, step: int) -> bytes:
    """Return the fixed-width text of a version, so that texts compare in the order of the numbers (Lua compares
    strings).

    Examples
    --------
    >>> format_version(1, 42, 0)
    b'0001.0000000000000042.000000'

    Raises
    ------
    ValueError
        A number is negative or too large for its width.
    """
    if not (0 <= generation <= 9999 and 0 <= offset <= 10**16 - 1 and 0 <= step <= 999_999):
        raise ValueError(f"version ({generation}, {offset}, {step}) is outside (0-9999, 0-10^16, 0-999999)")
    return b"%04d.%016d.%06d" % (generation, offset, step)


def parse_version(text: bytes) -> tuple[int, int, int]:
    """Return (generation, offset, step) of a version text."""
    generation, offset, step = text.split(b".")
    return int(generation), int(offset), int(step)


class VersionedValue(NamedTuple):
    """Fields of one hash that are replaced only by a version that is not older."""

    key: str
    fields: Mapping[str, bytes]
    version: bytes


_VERSIONED_SET = """
local have = redis.call('HGET', KEYS[1], ARGV[1])
if have and have > ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""


class VersionedSet:
    """Versioned sets over plain hashes (Feast rows have their own writer, `features.online.OnlineWriter`)."""

    #: Field that holds the version.
    FIELD: Final = b"v"

    def __init__(self, client: Redis) -> None:
        self._script = Script(client, _VERSIONED_SET)

    def write(self, values: Sequence[VersionedValue]) -> list[bool]:
        """Set each value whose stored version is not newer; return for each whether it was set. One round trip.

        Raises
        ------
        RedisUnavailableError
            Nothing is known: repeat it, that is harmless.
        """
        calls: list[tuple[int, list[bytes | str | int]]] = []
        for value in values:
            args: list[bytes | str | int] = [value.key, self.FIELD, value.version]
            for name, data in value.fields.items():
                args += (name, data)
            calls.append((1, args))
        return [reply == 1 for reply in self._script.run_many(calls, "writing versioned values")]


def namespace_token(client: Redis, namespace: str) -> bytes:
    """Return the namespace's token (made at the first call): what liverank's own processes put into the header
    `liverank-internal`.
    """
    key = f"{namespace}:token"
    with translated("reading the namespace's token"):
        token = client.get(key)
        if token is None:
            client.set(key, secrets.token_hex(16), nx=True)
            token = client.get(key)
    if not isinstance(token, bytes):
        raise RedisUnavailableError(
            f"the namespace's token {key} cannot be read back; is another process deleting keys?"
        )
    return token
