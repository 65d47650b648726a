"""The tables of docs/settings.md, made from the settings tree: ``python -m infra.settings_docs`` writes them anew.

Only what stands between the two markers of the file is replaced.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from infra.stack.files import write_atomic
from infra.stack.layout import CHECKOUT
from liverank.settings import Settings

DOCUMENT = CHECKOUT / "docs" / "settings.md"
BEGIN, END = "<!-- begin: made from liverank/settings.py by python -m infra.settings_docs -->", "<!-- end -->"
WORDS: Mapping[type, str] = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path"}


def tables() -> str:
    """Every setting by section: variable, what is allowed, default, meaning."""
    sections = {name: kind for name, field in Settings.model_fields.items() if (kind := _section_of(field))}
    top = {name: field for name, field in Settings.model_fields.items() if name not in sections}
    parts = [_table("General", "", "LIVERANK_", top)]
    for name, kind in sections.items():
        text = inspect.cleandoc(kind.__doc__ or "")
        parts.append(_table(f"[{name}]", text, f"LIVERANK_{name.upper()}__", kind.model_fields))
    return "\n\n".join(parts)


def rendered(document: str) -> str:
    """The document with its tables made anew."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(heading: str, text: str, prefix: str, fields: Mapping[str, FieldInfo]) -> str:
    lines = [f"### {heading}", *([text, ""] if text else [""])]
    lines += ["| variable | allowed | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split())
        cells = [f"`{prefix}{name.upper()}`", _allowed(field), _default(field), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind is SecretStr:
        return "secret text"
    pattern = next((one.pattern for one in field.metadata if getattr(one, "pattern", None)), "")
    if pattern:
        return f"`{pattern}`"
    signs = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for kind_, (name, sign) in signs.items()
        if isinstance(one, kind_)
    ]
    return ", ".join([WORDS.get(kind, "JSON"), *bounds])


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return ""
    return f"`{value}`" if isinstance(value, str | Path) else f"`{json.dumps(value)}`"


def main() -> None:
    """Write the document."""
    write_atomic(DOCUMENT, rendered(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
