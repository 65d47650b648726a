"""Pages of state: a version byte, then packed little-endian entries."""

from __future__ import annotations

from typing import Final

from features.errors import StateFormatError

__all__ = ["HEAD", "HEAD_2", "body"]

VERSION: Final = 1
HEAD: Final = bytes((VERSION,))
HEAD_2: Final = b"\x02"
"""Of pages whose layout has changed once: event ids and sessions."""


def body(name: bytes, page: bytes, size: int = 1, version: int = VERSION) -> bytes:
    """The entries of a page, checked.

    Parameters
    ----------
    name : bytes
        Field that holds the page, for the message.
    page : bytes
        Stored bytes, not empty.
    size : int
        Bytes of one entry.
    version : int
        Of the page's layout.

    Raises
    ------
    StateFormatError
        Another version, or not a whole number of entries.
    """
    if page[0] != version or (len(page) - 1) % size:
        raise StateFormatError(
            f"page {name.decode()!r} has version {page[0]} and {len(page) - 1} bytes of entries; this build reads "
            f"version {version} and entries of {size} bytes; run `liverank rebuild` with this build"
        )
    return page[1:]
