"""Feast reads and writes: one user row, a thousand items, and what our row writer costs (`python -m bench.feast`).

FEA-2: the p99 of one user row, read through `get_online_features` with everything that a Rank needs of it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from bench.report import Figure, finish
from bench.stack import namespace
from features import tiles
from features.apply import apply_here, open_store
from features.columns import row_of
from features.item_load import load_from_feast, parity
from features.item_table import ItemTable
from features.online import OnlineWriter, Row
from features.program import ViewProgram
from features.provider import read_program
from features.redis import connect, format_version
from features.user_row import UserRowReader
from features.wire import pack_bytes, pack_floats, pack_int64, pack_string

N_USERS, N_ITEMS, N_READS, N_EVENTS = 200, 1000, 3000, 120
HOUR, DAY = 3_600_000, 86_400_000
KINDS = [f"kind-{at}" for at in range(12)]


def rows_of(view: ViewProgram, join_key: str, entity_id: str, now_ms: int, rng: np.random.Generator) -> Row:
    """The row of a mature user or item: events over 30 days, more of them lately."""
    state = tiles.new(view)
    for age_ms in (30 * DAY * rng.random(N_EVENTS) ** 3).astype(int).tolist():
        row = row_of(one=1, impression=1, click=float(rng.random() < 0.2), expected=0.5)
        state.add(now_ms - age_ms, row, 1.0, KINDS[int(rng.integers(len(KINDS)))])
    values = {name.decode().split(":")[1]: pack_bytes(page) for name, page in state.dirty().items()}
    return Row(view.name, join_key, entity_id, values, now_ms, format_version(1, 1, 0))


def times(call: Callable[[int], object], n: int) -> dict[str, Figure]:
    """p50, p99 and CPU of a call, in ms."""
    spent = np.empty(n)
    cpu = time.process_time()
    for at in range(n):
        start = time.perf_counter()
        call(at)
        spent[at] = time.perf_counter() - start
    cpu_ms = (time.process_time() - cpu) / n * 1e3
    p50, p99 = np.percentile(spent, [50, 99]) * 1e3
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "cpu_ms": round(cpu_ms, 3)}


def main() -> int:
    """Run the bench; 0 where the bounds hold."""
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="feast")
    rng = np.random.default_rng(1)
    now_ms = int(time.time() * 1000)
    with namespace(("kafka", "redis")) as settings:
        apply_here(settings)
        client = connect(settings)
        program = read_program(client, settings.namespace)
        assert program is not None
        writer = OnlineWriter(client, settings.feast_project)
        rows = []
        for at in range(N_USERS):
            views = program.of_entity("user", "user_category")
            rows += [rows_of(view, "user_id", f"u{at}", now_ms, rng) for view in views if view.aggregates]
            vector = {f"vector_{span}": pack_floats(rng.normal(size=64)) for span in ("1w", "1m", "6m")}
            vector |= {"space": pack_string("words"), "computed_ms": pack_int64(now_ms)}
            rows.append(Row("user_vectors", "user_id", f"u{at}", vector, now_ms, format_version(1, 1, 0)))
        items = [rows_of(program.view("item_activity"), "item_id", f"i{at}", now_ms, rng) for at in range(N_ITEMS)]
        start = time.process_time()
        for first in range(0, len(rows), 200):
            writer.write(rows[first : first + 200])
        write_us = (time.process_time() - start) / len(rows) * 1e6
        writer.write(items)

        store = open_store(settings, timeout_s=10.0)
        reader = UserRowReader(store)
        read = times(lambda at: reader.read(f"u{at % N_USERS}"), N_READS)
        kept = [reader.read(f"u{at}") for at in range(N_USERS)]

        def windows(at: int) -> None:
            row = kept[at % N_USERS]
            row.windows(now_ms + at * 1000)
            row.category_windows(now_ms + at * 1000)

        table = ItemTable(program)
        start = time.perf_counter()
        load_from_feast(table, client, settings.feast_project)
        load_us = (time.perf_counter() - start) / N_ITEMS * 1e6
        thousand = np.arange(N_ITEMS, dtype=np.int32)
        figures: dict[str, Figure] = {
            "user_read": read,
            "user_features": len(reader.schema.features),
            "user_windows": times(windows, 1000),
            "item_windows_1000_same_tiles": times(lambda _: table.windows(thousand, now_ms), 1000),
            "item_windows_1000_other_tiles": times(lambda at: table.windows(thousand, now_ms + at * 600_000), 100),
            "item_load_us": round(load_us, 1),
            "row_write_cpu_us": round(write_us, 1),
            "parity_differences": len(parity(table, store, [f"i{at}" for at in range(50)], now_ms)),
        }
    return finish("feast", figures, {"user_read.p99_ms": ("<=", 3.0), "parity_differences": ("==", 0)})


if __name__ == "__main__":
    sys.exit(main())
