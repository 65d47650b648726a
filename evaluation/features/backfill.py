"""How far views are that are not served yet."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.features.inventory import Registry
from features.redis import translated
from liverank.settings import Settings

__all__ = ["Pending", "pending"]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A view that is not served in full.

    Attributes
    ----------
    state : str
        declared or warming.
    merged, partitions : int
        Partitions that hold its past; all.
    done, total : int
        Records of its backfill; 0 where none runs.
    """

    view: str
    state: str
    merged: int
    partitions: int
    done: int
    total: int


def pending(settings: Settings) -> list[Pending]:
    """Views of the registry that are not served; errors as `evaluation.features.inventory`."""
    registry = Registry(settings)
    found = []
    for view in registry.program.views:
        if not view.aggregates or registry.state(view) == "served":
            continue
        states = registry.partitions.of(view) if registry.partitions is not None else ()
        running = [state.of_tiles(view.tiles_id) for state in states]
        merged = sum(1 for each in running if each is not None and each.merged)
        done, total = _progress(registry)
        found.append(
            Pending(
                view=view.name,
                state=registry.state(view),
                merged=merged,
                partitions=len(running),
                done=done,
                total=total,
            )
        )
    return found


def _progress(registry: Registry) -> tuple[int, int]:
    """Records done and in all of the backfill that runs; one runs at a time."""
    with translated("reading the backfill's progress"):
        for key in registry.client.scan_iter(match=f"{registry.settings.namespace}:backfill:*", count=1000):
            done, total = registry.client.hmget(key, ("done", "total"))
            if done and total and int(done) < int(total):
                return int(done), int(total)
    return 0, 0
