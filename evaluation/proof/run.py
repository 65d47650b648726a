"""Runs the proof against a live stack: control, dismissals, a click and a like of fresh users."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import ProofError
from evaluation.progress import Progress
from evaluation.proof import lines
from evaluation.proof.lines import Line, Reading
from evaluation.proof.meter import SEEDS, K, Meter, Probe
from liverank.calls import new_event, now_ms
from liverank.client import Client

Shares: TypeAlias = NDArray[np.float64]

FEATURES_S: Final = 1.0
VECTORS_S: Final = 60.0
POSTERIOR_S: Final = 60.0
SHARE_S: Final = 60.0
AHEAD_MS: Final = 120_000
N_IN_A_ROW: Final = 5
N_ASKED: Final = 8
MOST_ROUNDS: Final = 3
"""Users are asked in eight at a time, up to three times, until enough have a kind with room to move."""
N_TOGETHER: Final = 4
"""Users whose mean share is judged: one user's few slots can stand still by chance. The rest is read of the first."""
ROOM_DOWN: Final = (0.25, 0.45)
ROOM_UP: Final = (0.05, 0.35)
SUPPLY: Final = 12
"""Items of the kind in or near the slate, at least: nothing else can move up, or stay."""


@dataclass(frozen=True, kw_only=True)
class ProofPlan:
    """Who may be probed, and how long the control lasts.

    Parameters
    ----------
    users : sequence of str
        Users with a history and no open session, untouched by live traffic; at least 3, the preferred first.
    kinds : sequence of str
        Kinds to choose from.
    surface : str
        Of all requests.
    control_s : float
        Without an event.
    settle_s : float
        After an effect was seen everywhere, until the next reading (rankers refresh in the background).
    """

    users: Sequence[str]
    kinds: Sequence[str]
    surface: str = "home"
    control_s: float = 15.0
    settle_s: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The proof's lines, in order."""

    lines: tuple[Line, ...]

    @property
    def holds(self) -> bool:
        """Every line is true."""
        return all(line.holds for line in self.lines)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "proof": self.holds,
            "lines": [
                {
                    "name": line.name,
                    "claim": line.claim,
                    "holds": line.holds,
                    "delay_s": None if line.delay_s is None else round(line.delay_s, 3),
                    "figures": {name: round(value, 6) for name, value in line.figures.items()},
                }
                for line in self.lines
            ],
        }


class _Prover:
    def __init__(self, plan: ProofPlan, meter: Meter, client: Client, progress: Progress) -> None:
        self._plan, self._meter, self._client, self._progress = plan, meter, client, progress
        self._used: set[str] = set()
        self.lines: list[Line] = []

    def dismissal(self) -> None:
        """Control, (a) to (f), five in a row."""
        probe, *others = self._begin(ROOM_DOWN)
        first = self._meter.read(probe)
        time.sleep(self._plan.control_s)
        before = self._meter.read(probe)
        self.lines.append(lines.control(first, before))
        after, delays = self._act(probe, "dismiss", 0, before)
        more = self._meter.show(probe.user_id, probe.kind, N_IN_A_ROW - 1, probe.as_of_ms)
        for slot in range(len(more.shown)):
            self._send(more, "dismiss", slot)
        self._settle()
        last = self._meter.read(replace(probe, shown=(*probe.shown, *more.shown)))
        shares = self._shares(others, "dismiss", before, after)
        self._judge("", before, after, shares, delays, -1, ("a", "b", "c", "d"))
        self.lines.append(lines.several("d (five)", before, last, N_IN_A_ROW))
        self.lines.append(lines.model("e", first, before, after, last))
        self.lines.append(lines.parts("f", before, after, -1))

    def good_news(self, action: str, which: Sequence[str]) -> None:
        """Fresh users do something positive to one item of the kind: everything moves the other way."""
        probe, *others = self._begin(ROOM_UP)
        before = self._meter.read(probe)
        after, delays = self._act(probe, action, 0, before)
        shares = self._shares(others, action, before, after)
        self._judge(f" ({action})", before, after, shares, delays, +1, which)
        self.lines.append(lines.model(f"e ({action})", before, after))

    def _shares(
        self, others: Sequence[Probe], action: str, first_before: Reading, first_after: Reading
    ) -> tuple[Shares, Shares]:
        """The other users do the same; shares of the first and of them before and after, each (n_users, n_seeds)."""
        others = [replace(probe, as_of_ms=now_ms() + AHEAD_MS) for probe in others]
        before = [self._meter.shares(probe, SEEDS)[0] for probe in others]
        for probe in others:
            self._send(probe, action, 0)
        self._settle()
        after = [self._meter.shares(probe, SEEDS)[0] for probe in others]
        return np.array([first_before.shares, *before]), np.array([first_after.shares, *after])

    def _begin(self, room: tuple[float, float]) -> list[Probe]:
        """Ask some users in, show each an item of a kind; those whose kinds have most room to move are the probes.

        They come by first and leave (a click on something of a kind that they do not get, end of session): what moves
        afterwards is then what the action says, not that somebody is back after weeks. The choice looks at shares
        before the action only.

        Parameters
        ----------
        room : (float, float)
            Least and largest share of the kind before the action.
        """
        found: list[tuple[bool, bool, float, int, Probe]] = []
        for _ in range(MOST_ROUNDS):
            for asked in self._ask_in(room):
                probe = replace(asked, near_slate=self._meter.near_slate(asked))
                share = float(self._meter.shares(probe, range(1, 9))[0].mean())
                outside = not room[0] <= share <= room[1]
                short = sum(self._meter.kind(item) == probe.kind for item in probe.near_slate) < SUPPLY
                found.append((outside, short, _distance(share, room), len(found), probe))
            if sum(each[:2] == (False, False) for each in found) >= N_TOGETHER:
                break
        if not found:
            raise ProofError(f"no slate for any of {len(self._used)} users; is the ranker healthy?")
        fit = [each for each in sorted(found) if each[:2] == (False, False)] or [min(found)]
        return [replace(each[-1], as_of_ms=now_ms() + AHEAD_MS) for each in fit[:N_TOGETHER]]

    def _ask_in(self, room: tuple[float, float]) -> list[Probe]:
        """The next users' visits, and an item shown to each; empty where no user is left."""
        users = [user for user in self._plan.users if user not in self._used][:N_ASKED]
        if not users:
            return []
        self._used.update(users)
        visited = self._visit(users)
        shown = []
        for user_id in users:
            shares = self._kind_shares(user_id)
            kinds = [kind for kind in self._plan.kinds if kind in shares and kind != visited[user_id]]
            if kinds:
                # The item that is shown is left out of the readings: one slot less.
                kind = min(kinds, key=lambda kind: _distance(shares[kind] - 1 / K, room))
                with suppress(ProofError):  # a kind may have nothing left for this user: seven others are asked
                    shown.append(self._meter.show(user_id, kind, 1, now_ms() + AHEAD_MS))
        for probe in shown:
            self._send(probe, "impression", 0)  # as an app does: what moves later is not that the item was seen
        self._settle()
        return [replace(probe, as_of_ms=now_ms() + AHEAD_MS) for probe in shown]

    def _visit(self, users: Sequence[str]) -> dict[str, str]:
        """A short visit of each; gives the kind that each clicked on."""
        visited, events = {}, []
        for user_id in users:
            shares = self._kind_shares(user_id)
            kind = min(self._plan.kinds, key=lambda kind: shares.get(kind, 0.0))
            visited[user_id] = kind
            item_id = self._meter.items(kind)[0]
            events += [
                new_event("click", user_id=user_id, item_id=item_id, surface=self._plan.surface),
                new_event("session_end", user_id=user_id, surface=self._plan.surface),
            ]
        reply = self._client.track(events, deadline_s=10.0)
        if reply.rejected:
            raise ProofError(f"a visit was refused: {reply.rejected[0].reason}: {reply.rejected[0].detail}")
        self._settle()
        return visited

    def _kind_shares(self, user_id: str) -> dict[str, float]:
        blank = Probe(user_id, "", (), (), "", np.zeros((0, 0)), now_ms() + AHEAD_MS)
        _, slates, _ = self._meter.shares(blank, range(1, 5))
        counts: dict[str, float] = {}
        for item in (item for slate in slates for item in slate):
            kind = self._meter.kind(item)
            counts[kind] = counts.get(kind, 0.0) + 1.0 / (len(slates) * K)
        return counts

    def _send(self, probe: Probe, action: str, slot: int) -> float:
        event = new_event(
            action,
            user_id=probe.user_id,
            item_id=probe.shown[slot],
            request_id=probe.request_id,
            position=probe.slots[slot] + 1,
            surface=self._plan.surface,
        )
        reply = self._client.track([event], deadline_s=10.0)
        if reply.rejected:
            raise ProofError(f"the {action} was refused: {reply.rejected[0].reason}: {reply.rejected[0].detail}")
        return time.monotonic()

    def _act(self, probe: Probe, action: str, slot: int, before: Reading) -> tuple[Reading, dict[str, float | None]]:
        """Do it, and see when each layer has it."""
        meter = self._meter
        sent_s = self._send(probe, action, slot)
        delays = {
            "a": meter.wait(
                lambda: not np.array_equal(meter.features(probe, meter.row(probe.user_id)), before.features),
                sent_s,
                VECTORS_S,
            ),
            "b": meter.wait(
                lambda: bool((np.asarray(meter.row(probe.user_id).vectors) != before.vectors).any(axis=1).all()),
                sent_s,
                VECTORS_S,
            ),
            "c": meter.wait(
                lambda: meter.posterior_mean(probe, before.model, slot) != before.posterior_mean,
                sent_s,
                POSTERIOR_S if action != "like" else 0.0,
            ),
            "d": meter.wait(
                lambda: bool((meter.shares(probe, range(1, 9))[0] != before.shares[:8]).any()), sent_s, SHARE_S
            ),
        }
        self._settle()
        return meter.read(probe, slot=slot), delays

    def _judge(
        self,
        suffix: str,
        before: Reading,
        after: Reading,
        shares: tuple[Shares, Shares],
        delays: dict[str, float | None],
        sign: int,
        which: Sequence[str],
    ) -> None:
        made = {
            "a": lines.features(f"a{suffix}", before, after, sign, delays["a"], FEATURES_S),
            "b": lines.vectors(f"b{suffix}", before, after, sign, delays["b"], VECTORS_S),
            "c": lines.posterior(f"c{suffix}", before, after, sign, delays["c"], POSTERIOR_S),
            "d": lines.share(f"d{suffix}", *shares, sign, delays["d"]),
        }
        self.lines += [made[name] for name in which]

    def _settle(self) -> None:
        self._progress.wait(timeout_s=60.0)
        time.sleep(self._plan.settle_s)


def _distance(share: float, room: tuple[float, float]) -> float:
    return abs(share - (room[0] + room[1]) / 2)


def prove(plan: ProofPlan, *, meter: Meter, client: Client, progress: Progress) -> Report:
    """Make the proof on a stack that nobody else sends events to.

    Raises
    ------
    ProofError
        It cannot be made here (no users, no slate).
    LagError
        The pipeline does not catch up.
    """
    prover = _Prover(plan, meter, client, progress)
    prover.lines.append(quiet(progress, plan.settle_s))
    prover.dismissal()
    prover.good_news("click", ("a", "b", "c", "d"))
    prover.good_news("like", ("a", "b", "d"))
    return Report(lines=tuple(prover.lines))


def quiet(progress: Progress, settle_s: float, timeout_s: float = 60.0) -> Line:
    """Traffic has stopped: lags reach 0, outboxes hold nothing but ticks."""
    start_s = time.monotonic()
    first = progress.wait(timeout_s=timeout_s)
    outboxes = progress.outboxes()
    while any(outboxes.values()) and time.monotonic() - start_s < timeout_s:
        time.sleep(0.2)
        outboxes = progress.outboxes()
    delay_s = time.monotonic() - start_s
    time.sleep(settle_s)
    return Line(
        name="quiet",
        claim="traffic stopped: lags 0, outboxes empty",
        holds=not any(outboxes.values()),
        figures={
            **{f"lag_{name}_at_first": float(n) for name, n in first.items()},
            "outboxes": float(sum(outboxes.values())),
        },
        delay_s=delay_s,
    )
