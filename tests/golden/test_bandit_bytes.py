"""docs/specs/bandit-bytes.md, pinned: bytes of released versions stay readable, and these inputs stay these bytes."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from bandits import Partial, Prior
from bandits.arms import ArmPartials
from bandits.hybrid import HybridPrior
from bandits.item_posterior import ItemPrior
from bandits.items import ItemSum, ItemSums, WithItems
from bandits.learned import LearnedSnapshot, read_snapshot
from bandits.logistic import LogisticPartial, LogisticPrior
from bandits.snapshot import Snapshot

PARTIAL_HEX = (
    "4c524250010002000200020000000000000000000000000000000000000000000000e803000000000000"
    "000000000000f43f0000000000000000000000000000f43f000000000000e83f000000000000d8bf0000"
    "00000000e4bf0000000000000000a3757704"
)
SNAPSHOT_ID = "0e1e84d6ca9cfc1ad990816154c033584bfb146534a26e4c132a8df02ba6732e"
LOGISTIC_SHA = "17bbfeb4936006d6515ec95c24e56e1bd6a375a19fab660852affacbc93f8a2a"
LEARNED_IDS = (
    "f23c9e1be27e095fb8062095ea8bf2a4baaa3fd41d426af6c04b77e083f4db5b",
    "6561595cdeda827a65912c8599d66b5d4f79cd86c870b9be1ca71a72306ac136",
)
ITEMS_SHA = "cf58d3bfd8ff9a17eb9aed536164e49f782884c95d86f15591dfb63b0d129f09"
WITH_ITEMS_ID = "0decd1cf509c6042d9a3124cca7b652ff67e88e9bd6b28ba3e1d572ec1d032da"
ARMS_SHA = "c5bbec09b6a2138195a79da7d3dea7e78ba9189ca3a3563578fecbabe12e9f19"


def partial() -> Partial:
    made = Partial(2, 2)
    made.shown([[1.0, -0.5], [0.5, 1.0]], [[-0.25, -0.5], [0.0, -0.25]], ts_ms=1_000)
    made.outcome([1.0, -0.5], head=0, delta=1.0, ts_ms=900)
    return made


def test_partial_bytes_by_the_spec() -> None:
    data = partial().to_bytes()
    assert struct.unpack_from("<4sBBHHqqqq", data) == (b"LRBP", 1, 0, 2, 2, 2, 0, 0, 1_000)
    assert np.frombuffer(data, "<f8", 3, 42).tolist() == [1.25, 0.0, 1.25]
    assert np.frombuffer(data, "<f8", 4, 66).tolist() == [0.75, -0.375, -0.625, 0.0]
    assert len(data) == 42 + 7 * 8 + 4


def test_partial_bytes_are_pinned() -> None:
    assert partial().to_bytes().hex() == PARTIAL_HEX
    assert Partial.from_bytes(bytes.fromhex(PARTIAL_HEX)) == partial()


def test_snapshot_bytes_are_pinned() -> None:
    prior = Prior(sd=0.3, noise_sd=0.5)
    snapshot = Snapshot(base_model="ab" * 32, schema="phi-1", generation=1, prior=prior, partial=partial())
    assert snapshot.id == SNAPSHOT_ID
    assert struct.unpack_from("<4sBBHHHIddI", snapshot.to_bytes()) == (b"LRBS", 1, 0, 64, 5, 0, 1, 0.3, 0.5, 102)


def test_arm_bytes_are_pinned() -> None:
    table = ArmPartials(2, 2)
    table.shown("b", [1.0, 0.0], [0.5, 0.0])
    table.shown("a", [0.0, 1.0], [0.0, 0.5])
    assert hashlib.sha256(table.to_bytes()).hexdigest() == ARMS_SHA


def per_item() -> ItemSums:
    table = ItemSums(2, 2)
    table.shown(["b", "a"], [0.25, 0.5], [[1.0, -0.5], [0.5, 1.0]], [[-0.25, -0.5], [0.0, -0.25]], ts_ms=1_000)
    table.outcome("b", 0.25, 0, 1.0, ts_ms=1_000)
    return table


def test_item_bytes_by_the_spec_and_pinned() -> None:
    one = per_item().take_changes()["b"]
    assert one is not None
    data = one.to_bytes()
    assert struct.unpack_from("<4sBBHHqq", data) == (b"LRBI", 1, 0, 2, 2, 1, 1_000)
    assert np.frombuffer(data, "<f8", 5, 26).tolist() == [0.0625, 0.25, -0.125, 0.1875, -0.125]
    assert len(data) == 26 + 5 * 8 + 4
    assert ItemSum.from_bytes(data).to_bytes() == data
    table = per_item().to_bytes()
    assert struct.unpack_from("<4sBBHHH", table) == (b"LRBJ", 1, 0, 2, 2, 2)
    assert struct.unpack_from("<HI", table, 12) == (1, len(data))
    assert hashlib.sha256(table).hexdigest() == ITEMS_SHA


def test_a_snapshot_with_items_is_pinned() -> None:
    sums = WithItems(shared=partial(), items=per_item())
    assert struct.unpack_from("<4sBBI", sums.to_bytes()) == (b"LRBK", 1, 0, 102)
    prior = ItemPrior(shared_sd=0.3, item_sd=0.4, noise_sd=0.5)
    snapshot = LearnedSnapshot(
        base_model="ab" * 32, schema="phi-1", generation=1, learner="items", prior=prior, sums=sums
    )
    head = struct.unpack_from("<4sBBHHIdddI", snapshot.to_bytes())
    assert head == (b"LRBX", 1, 4, 64, 5, 1, 0.3, 0.5, 0.4, len(sums.to_bytes()))
    assert snapshot.id == WITH_ITEMS_ID
    assert read_snapshot(snapshot.to_bytes()) == snapshot


def in_logits() -> LogisticPartial:
    made = LogisticPartial(2, 2)
    made.shown([[1.0, -0.5], [0.5, 1.0]], [[0.25, 0.5], [0.0, 0.25]], ts_ms=1_000)
    made.outcome([1.0, -0.5], head=0, delta=1.0, ts_ms=900)
    return made


def test_logistic_bytes_are_pinned() -> None:
    data = in_logits().to_bytes()
    assert struct.unpack_from("<4sBBII", data) == (b"LRBL", 1, 0, 102, 194)
    assert data[14 + 102 :][:4] == b"LRBC"
    assert hashlib.sha256(data).hexdigest() == LOGISTIC_SHA
    assert LogisticPartial.from_bytes(data) == in_logits()


def test_snapshots_of_other_learners_are_pinned() -> None:
    table = ArmPartials(2, 2)
    table.shown("b", [1.0, 0.0], [0.5, 0.0])
    prior = HybridPrior(shared_sd=0.3, arm_sd=0.1, noise_sd=0.5)
    names = {"base_model": "ab" * 32, "schema": "phi-1", "generation": 1}
    hybrid = LearnedSnapshot(**names, learner="hybrid", prior=prior, sums=table)  # type: ignore[arg-type]
    logistic = LearnedSnapshot(**names, learner="logistic", prior=LogisticPrior(sd=0.5), sums=in_logits())  # type: ignore[arg-type]
    assert (hybrid.id, logistic.id) == LEARNED_IDS
    head = struct.unpack_from("<4sBBHHIdddI", hybrid.to_bytes())
    assert head == (b"LRBX", 1, 2, 64, 5, 1, 0.3, 0.5, 0.1, len(table.to_bytes()))
    for one in (hybrid, logistic):
        assert read_snapshot(one.to_bytes()) == one
