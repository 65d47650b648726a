"""What the columns of somebody's own log mean: a guess by names and contents, which a person can read and correct."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from liverank.calls import event_type
from liverank.contract import MIN_TS_MS
from liverank.errors import ConfigError, ContractError

__all__ = ["Columns", "Shape", "guess", "guess_items", "times_ms"]

Shape = Literal["typed", "ratings", "exposures", "purchases", "clicks"]
"""One event type a row; ratings; rows that were shown with what came of it; purchases; plain clicks."""

_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": (
        "userid", "user", "uid", "customerid", "customer", "clientid", "visitorid", "memberid", "accountid",
        "profileid", "reviewerid",
    ),
    "session_id": ("sessionid", "session", "visitid"),
    "item_id": (
        "itemid", "item", "productid", "product", "movieid", "movie", "videoid", "video", "articleid", "newsid",
        "stockcode", "sku", "asin", "trackid", "songid", "bookid", "isbn", "listingid", "contentid", "postid", "adid",
    ),
    "event_ts_ms": (
        "eventtsms", "timems", "timestampms", "timestamp", "eventtimestamp", "eventtime", "ts", "time", "datetime",
        "createdat", "invoicedate", "orderdate", "unixtime", "unixreviewtime", "date",
    ),
    "type": (
        "type", "eventtype", "event", "action", "actiontype", "interaction", "interactiontype", "behavior",
        "behaviortype", "activity",
    ),
    "event_id": ("eventid", "interactionid"),
    "rating": ("rating", "ratingvalue", "stars", "score", "overall"),
    "dwell": (
        "dwellms", "dwelltimems", "playtimems", "watchtimems", "dwells", "dwell", "dwelltime", "playtime", "watchtime",
        "readtime",
    ),
    "value": ("value", "amount", "revenue"),
    "quantity": ("quantity", "qty"),
    "price": ("unitprice", "price", "itemprice"),
    "request_id": ("requestid", "slateid", "impressionid"),
    "position": ("position", "rank", "slot"),
    "surface": ("surface", "page", "placement"),
}  # fmt: skip
_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "click": ("isclick", "click", "clicked"),
    "like": ("islike", "like", "liked"),
    "save": ("issave", "saved", "save", "bookmarked", "addtocart", "iscollect", "collected"),
    "purchase": ("ispurchase", "purchase", "purchased", "bought", "isbuy", "converted", "ordered"),
    "dismiss": ("ishate", "isdislike", "dislike", "disliked", "hidden", "ishide"),
}
_ITEM_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "title": ("title", "name", "itemname", "productname", "headline", "description"),
    "text": ("text", "body", "abstract", "summary", "description", "overview"),
    "categories": (
        "categories", "category", "genres", "genre", "tags", "tag", "department", "maincategory", "categoryname",
    ),
    "creator": ("creator", "author", "authorid", "artist", "brand", "seller", "publisher", "channel"),
    "price": ("price", "unitprice", "itemprice"),
    "published_ts_ms": ("publishedtsms", "publishedat", "uploaddt", "releasedate", "createdat", "published"),
}  # fmt: skip
_TYPE_WORDS: Final[Mapping[str, str]] = {
    "view": "click", "pageview": "click", "detail": "click", "open": "click", "read": "click", "pv": "click",
    "impression": "impression", "shown": "impression", "show": "impression", "expose": "impression",
    "addtocart": "save", "cart": "save", "basket": "save", "bookmark": "save", "wishlist": "save", "favorite": "save",
    "favourite": "save", "fav": "save", "collect": "save",
    "transaction": "purchase", "buy": "purchase", "order": "purchase", "checkout": "purchase", "pay": "purchase",
    "dislike": "dismiss", "hide": "dismiss", "close": "dismiss", "play": "click", "listen": "click", "watch": "dwell",
    "rate": "rating", "review": "rating", "upvote": "like", "downvote": "thumbs_down",
}  # fmt: skip
_UNITS: Final = ((10**17, 10**-6, "ns"), (10**14, 10**-3, "us"), (10**11, 1, "ms"), (10**8, 1000, "s"))


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Roles of a log's columns.

    Attributes
    ----------
    shape : Shape
    roles : mapping of str to str
        Field of the event contract (or `rating`, `dwell`, `quantity`, `price`) -> column.
    outcomes : mapping of str to str
        Event type -> column of 0 and 1.
    types : mapping of str to str
        Word in the type column -> event type; words that are missing are left out.
    items : mapping of str to str
        Field of an item -> column.
    """

    shape: Shape
    roles: Mapping[str, str]
    outcomes: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    items: Mapping[str, str] = field(default_factory=dict)


def guess(frame: pd.DataFrame, given: Mapping[str, str] | None = None) -> Columns:
    """Roles of a log's columns.

    Parameters
    ----------
    frame : DataFrame
        The log, or its beginning.
    given : mapping of str to str, optional
        Roles that a person has set: role -> column. An empty column means that there is none.

    Raises
    ------
    ConfigError
        User, item or time cannot be told; names the columns and how to say which is which.
    """
    names = {_plain(name): str(name) for name in reversed(list(frame.columns))}
    roles: dict[str, str] = {}
    for role, words in _ROLES.items():
        if given and role in given:
            column = given[role]
            if column and column not in frame.columns:
                raise ConfigError(f"{role}={column}: there is no such column; there are {_list(frame)}")
            if column:
                roles[role] = column
            continue
        found = (names[word] for word in words if word in names)
        column = next((name for name in found if _fits(role, frame[name])), "")
        if column:
            roles[role] = column
    for role, what in (("item_id", "what it happened to"), ("event_ts_ms", "when it happened")):
        if role not in roles:
            raise ConfigError(_unknown(role, what, frame))
    if "user_id" not in roles and "session_id" not in roles:
        raise ConfigError(_unknown("user_id", "who it was", frame))
    outcomes = {
        kind: names[word]
        for kind, words in _FLAGS.items()
        for word in words[::-1]
        if word in names and _is_flag(frame[names[word]])
    }
    types = _types(frame[roles["type"]]) if "type" in roles else {}
    if "type" in roles and not types:
        del roles["type"]
    shape: Shape = "clicks"
    if types:
        shape = "typed"
    elif "rating" in roles:
        shape = "ratings"
    elif outcomes:
        shape = "exposures"
    elif "quantity" in roles or ("price" in roles and any(n.startswith(("invoice", "order")) for n in names)):
        shape = "purchases"
    items = _item_roles(names, frame, taken=set(roles.values()) - {roles.get("price", "")})
    return Columns(shape=shape, roles=roles, outcomes=outcomes, types=types, items=items)


def guess_items(frame: pd.DataFrame) -> tuple[str, Mapping[str, str]]:
    """The item's column of a catalogue, and its fields' columns.

    Raises
    ------
    ConfigError
        No column is an item's id.
    """
    names = {_plain(name): str(name) for name in reversed(list(frame.columns))}
    key = next((names[word] for word in (*_ROLES["item_id"], "id") if word in names), "")
    if not key:
        raise ConfigError(f"the catalogue has no column of item ids, e.g. item_id; it has {_list(frame)}")
    return key, _item_roles(names, frame, taken={key})


def times_ms(column: pd.Series[Any]) -> pd.Series[Any]:
    """Times in ms since the UTC epoch (Int64, null where there is none), from epochs of any unit, dates or texts."""
    if pd.api.types.is_datetime64_any_dtype(column):
        stamps = pd.to_datetime(column, utc=True)
    else:
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.notna().mean() > 0.5:
            middle = float(numbers.abs().median())
            for least, factor, _ in _UNITS:
                if middle >= least:
                    return (numbers * factor).round().astype("Int64")
            return pd.Series(pd.NA, index=column.index, dtype="Int64")
        stamps = pd.to_datetime(column, utc=True, errors="coerce", format="mixed")
    known = stamps.notna()
    out = pd.Series(pd.NA, index=column.index, dtype="Int64")
    out[known] = stamps[known].astype("datetime64[ms, UTC]").astype("int64")
    return out


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _list(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))


def _unknown(role: str, what: str, frame: pd.DataFrame) -> str:
    return (
        f"no column says {what} ({role}); there are {_list(frame)}. Say which: --column {role}=NAME, "
        f"usual names are {', '.join(_ROLES[role][:6])}"
    )


def _fits(role: str, column: pd.Series[Any]) -> bool:
    """Whether the contents can have this role."""
    known = column.dropna()
    if known.empty:
        return False
    if role == "event_ts_ms":
        times = times_ms(known.head(1000))
        return bool(times.notna().mean() > 0.9 and times.dropna().median() >= MIN_TS_MS)
    if role in ("rating", "dwell", "value", "quantity", "price", "position"):
        return bool(pd.to_numeric(known.head(1000), errors="coerce").notna().mean() > 0.9)
    if role == "event_id":
        return bool(known.is_unique)
    if role == "type":
        return not pd.api.types.is_float_dtype(known) and known.nunique() <= 50
    return True


def _is_flag(column: pd.Series[Any]) -> bool:
    known = pd.to_numeric(column.dropna(), errors="coerce")
    return bool(len(known) and known.isin((0, 1)).all())


def _types(column: pd.Series[Any]) -> dict[str, str]:
    """Words of a type column and what they mean; only where most rows have a word that is known."""
    counts = column.dropna().astype(str).value_counts()
    known: dict[str, str] = {}
    for word in counts.index:
        plain = _plain(word.removeprefix("EVENT_TYPE_"))
        try:
            event_type(word.lower() if not word.startswith("EVENT_TYPE_") else word)
            known[word] = word.removeprefix("EVENT_TYPE_").lower()
        except ContractError:
            if plain in _TYPE_WORDS:
                known[word] = _TYPE_WORDS[plain]
    return known if counts[list(known)].sum() >= 0.5 * counts.sum() else {}


def _item_roles(names: Mapping[str, str], frame: pd.DataFrame, *, taken: Iterable[str]) -> dict[str, str]:
    used = set(taken)
    found: dict[str, str] = {}
    for role, words in _ITEM_ROLES.items():
        column = next((names[word] for word in words if word in names and names[word] not in used), "")
        if column and not (role == "price" and pd.to_numeric(frame[column], errors="coerce").isna().all()):
            found[role] = column
            used.add(column)
    return found
