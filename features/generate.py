"""Read a feature repo's stream views and make what their tiles need: page fields and on-demand views."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from click import ClickException
from feast import StreamFeatureView
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_operations import get_repo_files

from features.compile import Locator, complete, is_owned
from features.errors import ProgramError
from features.ondemand import window_view
from features.program import Entity

__all__ = ["DefinitionError", "RepoLocator", "refusing", "stream_views", "window_views"]


class DefinitionError(ProgramError, ClickException):
    """A definition that is refused; Feast's command line prints it as one line and ends with status 1."""

    def __init__(self, message: str) -> None:
        ClickException.__init__(self, message)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message whole, for people and for tools that look for `path:line:`."""
        print(f"Error: {self.message}", file=file or sys.stderr)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn `ProgramError` into what Feast's command line shows well."""
    try:
        yield
    except DefinitionError:
        raise
    except ProgramError as error:
        raise DefinitionError(str(error)) from error


class RepoLocator(Locator):
    """Finds definitions in the files of a feature repo, so that messages can name the line."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._calls: dict[str, tuple[Path, ast.Call]] | None = None

    def view(self, view: str) -> str:
        found = self._find().get(view)
        return "" if found is None else f"{found[0]}:{found[1].lineno}: "

    def aggregation(self, view: str, at: int) -> str:
        found = self._find().get(view)
        if found is None:
            return ""
        path, call = found
        literal = [node for node in ast.walk(call) if isinstance(node, ast.Call) and _called(node) == "Aggregation"]
        literal.sort(key=lambda node: node.lineno)
        return f"{path}:{literal[at].lineno}: " if at < len(literal) else self.view(view)

    def _find(self) -> dict[str, tuple[Path, ast.Call]]:
        if self._calls is None:
            self._calls = {}
            for path in get_repo_files(self._repo):
                for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
                    if isinstance(node, ast.Call) and _called(node) == "StreamFeatureView":
                        for keyword in node.keywords:
                            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                                self._calls[str(keyword.value.value)] = (path, node)
        return self._calls


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def stream_views(repo: Path) -> list[StreamFeatureView]:
    """Owned stream views defined in the files of `repo`, by name. Imports every file that defines one."""
    found: dict[int, StreamFeatureView] = {}
    if str(repo) not in sys.path:
        sys.path.append(str(repo))
    for path in get_repo_files(repo):
        if "StreamFeatureView(" not in path.read_text():
            continue
        module: Any = importlib.import_module(".".join(path.relative_to(repo.resolve()).with_suffix("").parts))
        for value in vars(module).values():
            if is_owned(value):
                found[id(value)] = value
    return sorted(found.values(), key=lambda view: str(view.name))


def window_views(repo: Path, *entities: Entity, optional: Sequence[Entity] = ()) -> tuple[OnDemandFeatureView, ...]:
    """Complete the stream views of a repo and make the on-demand view of each entity, then of those `optional` ones
    that have views.

    Raises
    ------
    ProgramError
        With file and line, if a view is wrong; nothing is applied then.
    """
    locator = RepoLocator(repo)
    with refusing():
        completed = [(view, complete(view, locator)) for view in stream_views(repo)]
        made = []
        for entity in entities:
            views = [(view, program) for view, program in completed if program.entity == entity and program.aggregates]
            if not views:
                raise ProgramError(f"{repo}: no stream view of entity {entity!r} has aggregations; define one")
            made.append(window_view(entity, views))
        for entity in optional:
            views = [(view, program) for view, program in completed if program.entity == entity and program.aggregates]
            made += [window_view(entity, views)] if views else []
    return tuple(made)
