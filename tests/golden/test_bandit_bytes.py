"""docs/specs/bandit-bytes.md, pinned: bytes of released versions stay readable, and these inputs stay these bytes."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from bandits import Partial, Prior
from bandits.arms import ArmPartials
from bandits.snapshot import Snapshot

PARTIAL_HEX = (
    "4c524250010002000200020000000000000000000000000000000000000000000000e803000000000000"
    "000000000000f43f0000000000000000000000000000f43f000000000000e83f000000000000d8bf0000"
    "00000000e4bf0000000000000000a3757704"
)
SNAPSHOT_ID = "0e1e84d6ca9cfc1ad990816154c033584bfb146534a26e4c132a8df02ba6732e"
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
