"""Answers of providers on disk: no call is made or paid twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.llm.errors import LlmError
from liverank.errors import CorruptError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (key TEXT PRIMARY KEY, item_id TEXT NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
"""


class CacheCorruptError(LlmError, CorruptError):
    """The cache file is no cache."""


class AnswerCache:
    """SQLite file: key = SHA-256 of (what, provider, model, dim or prompt version, content).

    An answer is on disk before the next call is made, so that a killed job repeats no call. One writer at a time; a
    second process waits up to 30 s.

    Parameters
    ----------
    path : Path
        Made if missing.

    Raises
    ------
    CacheCorruptError
        The file exists and is no cache.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CacheCorruptError(
                f"{path} is no answer cache: {error}; delete it to pay for its answers anew"
            ) from error

    @staticmethod
    def key(*parts: str) -> str:
        """Key of a call; parts are joined so that no two lists collide."""
        return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()

    def vectors(self, keys: Sequence[str], dim: int) -> dict[str, NDArray[np.float32]]:
        """Cached vectors by key; absent keys are absent."""
        return {key: np.frombuffer(body, dtype="<f4") for key, body in self._read(keys).items() if len(body) == 4 * dim}

    def put_vectors(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors, in one transaction."""
        self._write([(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()])

    def objects(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Cached JSON answers by key; absent keys are absent."""
        return {key: json.loads(body) for key, body in self._read(keys).items()}

    def put_object(self, key: str, body: Mapping[str, Any]) -> None:
        """Keep one JSON answer."""
        self._write([(key, json.dumps(dict(body), sort_keys=True).encode())])

    def quarantined(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that failed for good; `liverank enrich --retry-quarantine` clears them."""
        found = set()
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found |= {row[0] for row in self._db.execute(f"SELECT key FROM quarantine WHERE key IN ({marks})", part)}
        return found

    def quarantine(self, key: str, item_id: str, detail: str) -> None:
        """Do not ask for this again."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (key, item_id, detail[:1000]))

    def clear_quarantine(self) -> int:
        """Forget which answers failed; returns how many."""
        with self._db:
            return self._db.execute("DELETE FROM quarantine").rowcount

    def _read(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            found.update(self._db.execute(f"SELECT key, body FROM answers WHERE key IN ({marks})", part))
        return found

    def _write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()
