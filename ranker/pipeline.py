"""One Rank: user -> candidates -> rows -> heads -> value -> draw -> reply, exposure, decision.

Every step that can fail has a rung below it (`ranker.degrade`); a request that passed its checks is answered as long
as there is time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bandits import Greedy, Policy, specification
from liverank.errors import UnavailableError
from liverank.settings import Settings
from liverank.v1 import decision_pb2, stream_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker import degrade, metrics
from ranker.answer import Answer
from ranker.budget import NewItemBudget
from ranker.catalogue import Catalogue
from ranker.decisions import (
    DecisionLog,
    Shown,
    Trace,
    decision,
    exposure_event,
    fully_logged,
    log_candidates,
)
from ranker.errors import RequestTimeoutError
from ranker.experiments import Arm
from ranker.explore import Drawn, Exploration, explore
from ranker.fallback import fallback_answer, fallback_slate
from ranker.filters import Filters
from ranker.gather import Gathered, gather, times_shown
from ranker.inputs import UserView
from ranker.learned import LearnedBelief
from ranker.models import Model
from ranker.posterior import Belief
from ranker.quotas import bind
from ranker.registered import NOTHING, registered
from ranker.replies import ReplyStore
from ranker.reply import build_reply
from ranker.request import RankQuery, parse_rank
from ranker.retrieval import Source
from ranker.rules import NO_LIST_RULES, ListRules
from ranker.scoring import FEW, Scored, score
from ranker.serving import Rulebook, Serving, fallback_model
from ranker.stages import Stages
from ranker.user_states import Router
from ranker.users import NOBODY, Users, Without
from ranker.variants import Variants, choose
from ranker.vowpal import VowpalBelief
from ranker.watch import ExplorationWatch

SMALL_CANDIDATES = 300
SMALL_FEW = 80


class Pipeline:
    """Answers Rank requests, one at a time; everything it shares with other threads guards itself.

    Parameters
    ----------
    settings
        Of the process.
    book
        What operators decide.
    catalogue, users, sources
        What requests read.
    serving
        Gives the model and belief of this instant; None where no model is active.
    log
        Takes exposures and decisions.
    replies
        Keeps replies for retries.
    clock_ms
        Now, ms since the UTC epoch.
    rng
        Source of request ids.
    rules
        Gives the rules of this instant; None = `book` for ever.
    budget
        Exposures of new items; None (and always in recorded time) = no new item is explored where a budget is set.
    vowpal
        Gives the model of the policy ``vowpal``; while there is none, ``thompson`` draws instead.
    behind
        Whether the stream stands still.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        book: Rulebook,
        catalogue: Catalogue,
        users: Users,
        sources: Sequence[Source],
        serving: Callable[[], Serving | None],
        log: DecisionLog,
        replies: ReplyStore,
        clock_ms: Callable[[], int],
        rng: random.Random,
        rules: Callable[[], Rulebook] | None = None,
        budget: NewItemBudget | None = None,
        vowpal: Callable[[], VowpalBelief | None] = lambda: None,
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._rules = settings, rules or (lambda: book)
        self._budget = budget if settings.clock == "wall" else None
        self._catalogue, self._users, self._sources = catalogue, users, sources
        self._serving, self._log, self._replies = serving, log, replies
        self._clock_ms, self._rng = clock_ms, rng
        self._router = Router(book.states)
        self._filters = Filters()
        self._kept: degrade.Recent[degrade.KeptSlate] = degrade.Recent(10_000, 600.0)
        self._rates = fallback_model()
        self._vowpal = vowpal
        self._behind = behind
        self._watch = ExplorationWatch()
        self.cost = degrade.Cost()

    def rank(self, request: pb.RankRequest, *, remaining_ms: float | None = None) -> bytes:
        """Answer a request.

        Parameters
        ----------
        request
            As received.
        remaining_ms
            Time until the caller's deadline; None = the default of the settings.

        Returns
        -------
        bytes
            An encoded RankReply: a retry with the same request id gets these very bytes.

        Raises
        ------
        RequestError
            The request breaks the contract.
        RequestConflictError
            Its id was used for another request.
        RequestTimeoutError
            The deadline has passed.
        """
        stages = Stages()
        ranker = self._rules().settings
        data_clock = self._settings.clock == "data"
        # In recorded time a request happens when it says that it does.
        now_ms = (request.shadow.as_of_ms if data_clock else 0) or self._clock_ms()
        query = parse_rank(request, now_ms=now_ms, rng=self._rng, surfaces=ranker.surfaces, any_time=data_clock)
        left_ms = float(ranker.deadline_ms) if remaining_ms is None else remaining_ms
        if left_ms <= 0:
            raise RequestTimeoutError("the deadline passed before the request's turn came; raise it or add rankers")
        earlier = self._earlier(query)
        if earlier is not None:
            return earlier
        stages.done("parse")
        # Nobody waits for SHADOW, and a lower rung would answer another question.
        short = left_ms < self.cost.estimate_ms * 1.2 and query.mode != decision_pb2.MODE_SHADOW
        serving = self._serving()
        if short:
            self.cost.turned_away()
        if short or serving is None:
            answer = self._fallback(query, now_ms, stages, [] if serving is not None else [degrade.NO_MODEL])
        else:
            answer = self._full(query, now_ms, stages, serving)
            self.cost.took(stages.total_ms)
        return self._finish(query, answer, stages)

    # --- the full path -------------------------------------------------------------------------------------------

    def _full(self, query: RankQuery, now_ms: int, stages: Stages, serving: Serving) -> Answer:
        rungs: list[str] = []
        book = self._rules()
        as_of_ms = query.shadow.as_of_ms or now_ms
        user = self._user(query, rungs)
        stages.done("user")
        model = self._rates if pb.LAYER_MODEL in query.without else serving.model
        state = self._router.route(query.subject, len(user.history))
        limit, few = state.n_candidates, FEW
        if model.engine == "lightgbm":
            rungs.append(degrade.SMALL)
            limit, few = SMALL_CANDIDATES, SMALL_FEW
        size = max(state.shortlist, query.k + query.k // 2 + 10)
        seed = query.shadow.seed or seed_of(query.request_id)
        explores = query.personal and book.exploring.explores(query.surface) and not query.shadow.greedy
        with self._catalogue.lock:
            table = self._catalogue.table
            gathered = gather(
                query,
                user,
                self._catalogue,
                as_of_ms=as_of_ms,
                state=state,
                sources=self._sources,
                filters=self._filters,
                seen_policy=book.settings.seen_policy,
                disliked_after=book.settings.disliked_after,
                limit=limit,
                seed=seed,
                n_explore=book.settings.explore_candidates if explores else 0,
            )
            rungs += [degrade.source_rung(name) for name in gathered.candidates.failed]
            stages.done("retrieve")
            scored = score(
                user,
                table,
                gathered.candidates,
                affinity=gathered.affinity,
                met=gathered.met,
                context=query.context,
                as_of_ms=as_of_ms,
                model=model,
                weights=book.weights,
                times_shown=times_shown(gathered, len(table)),
                few=max(few, size),
            )
            stages.done("score")
            if not self._log.safe:
                rungs.append(degrade.UNLOGGED)
            arm = book.arm(query.surface, query.subject)
            policy = self._policy(query, book, arm, rungs)
            learned_reward = self._vowpal() if policy is not None and policy.name == "vowpal" else None
            if policy is not None and policy.name == "vowpal" and learned_reward is None:
                policy = book.exploring.named("thompson")  # nothing was learned yet
            belief = serving.acts_on(policy)
            if belief is None:
                policy, belief = book.exploring.named("thompson"), serving.belief  # not read yet
            how = Exploration(
                policy=policy,
                greedy_slots=self._greedy_slots(query, book, policy, belief),
                seed=seed,
                rules=book.exploring,
                now_ms=as_of_ms,
                has_budget=self._budget.has if self._budget is not None else None,
                dislike_weight=book.weights.heads.get("dismiss", 0.0),
                learns_reward=learned_reward is not None,
            )
            learned = book.weights.of(serving.model.heads).tolist()
            residual = belief.under(learned, silent=pb.LAYER_POSTERIOR in query.without)
            cited = learned_reward or belief
            drawn = explore(
                scored,
                gathered.candidates,
                table,
                posterior=learned_reward.model if learned_reward is not None else residual,
                k=query.k,
                size=size if not query.candidates else len(scored.places),
                rules=NO_LIST_RULES if query.candidates else self._list_rules(book, query),
                how=how,
            )
            variants = choose(
                table,
                drawn.rows[np.array(drawn.slate.order, dtype=np.int64)].tolist(),
                query.context.device,
                query.surface,
                policy=None if policy is None or isinstance(policy, Greedy) else book.exploring.named("thompson"),
                floor=book.exploring.floor,
                seed=seed,
            )
            stages.done("explore")
            shown = self._shown(model, gathered, scored, drawn, variants)
            beside = NOTHING
            if query.explain or query.debug:
                beside = registered(user, table, drawn.rows[np.array(drawn.slate.order, dtype=np.int64)], as_of_ms)
            feasible_ids = [table.ids[row] for row in drawn.rows[drawn.feasible].tolist()]
        stages.done("slots")
        trace = Trace(
            decided_ts_ms=now_ms,
            as_of_ms=as_of_ms,
            policy=specification(policy) if policy is not None else "none",
            arm=arm.name if policy is not None else "",
            seed=how.seed,
            n_draws=int(getattr(policy, "n_draws", 0)),
            floor=book.exploring.floor,
            cap=book.exploring.cap,
            greedy_slots=drawn.greedy_slots,
            model_id=model.model_id,
            heads=model.heads,
            head_weights=book.weights.of(model.heads).tolist(),
            snapshot_id=cited.snapshot_id,
            feasible_ids=feasible_ids,
            rungs=rungs,
            stage_ms=stages.ms,
            newest_event_ts_ms=user.newest_event_ts_ms,
            drawn=policy is not None,
            space=table.space,
            user_state=state.name,
            feature_ages_ms=dict(user.ages_ms(as_of_ms)),
            k=query.k,
            config_version=book.version,
            caps=drawn.rules.caps,
            quotas=drawn.rules.quotas,
            reserved_share=drawn.reserved_share,
            registered=beside,
            statistics=book.statistics,
        )
        return Answer(
            trace=trace,
            shown=shown,
            policy_name=policy.name if policy is not None else "none",
            gathered=gathered,
            scored=scored,
            drawn=drawn,
            model=model,
            snapshot=(cited.snapshot_id, cited.snapshot_bytes),
            posterior_newest_ms=cited.newest_ms,
        )

    def _user(self, query: RankQuery, rungs: list[str]) -> UserView:
        if not query.personal:
            return NOBODY
        if self._behind():
            rungs.append(degrade.STALE_STREAM)
        user, rung = self._users.get(query.subject)
        if rung is not None:
            rungs.append(rung)
            if rung == degrade.NO_USER:
                rungs.append(degrade.POPULAR)
        features = pb.LAYER_USER_FEATURES not in query.without
        vectors = pb.LAYER_USER_VECTORS not in query.without
        return user if features and vectors else Without(user, features=features, vectors=vectors)

    @staticmethod
    def _policy(query: RankQuery, book: Rulebook, arm: Arm, rungs: Sequence[str]) -> Policy | None:
        """Who draws; None where nothing may be drawn or greed was asked for."""
        if query.shadow.greedy or not query.personal or not degrade.drawable(rungs):
            return None
        if query.shadow.policy:
            return book.exploring.named(query.shadow.policy)
        return book.exploring.policy(query.surface, arm.name, arm.policy)

    @staticmethod
    def _greedy_slots(query: RankQuery, book: Rulebook, policy: Policy | None, belief: Belief | LearnedBelief) -> int:
        """First slots that greed fills: all of them where the policy is greed itself (the kill switch)."""
        if isinstance(policy, Greedy):
            return query.k
        young = belief.n_shown < book.exploring.greedy_until_shown
        return book.exploring.greedy_slots if young else 0

    def _shown(self, model: Model, gathered: Gathered, scored: Scored, drawn: Drawn, variants: Variants) -> Shown:
        order = np.array(drawn.slate.order, dtype=np.int64)
        at = drawn.at[order]
        x = scored.x[at]
        table = self._catalogue.table
        rows = drawn.rows[order]
        return Shown(
            item_ids=[table.ids[row] for row in rows.tolist()],
            versions=table.version[rows],
            propensity=drawn.slate.propensity,
            pinned=drawn.slate.pinned,
            explored=drawn.slate.explored,
            effective_floor=drawn.slate.effective_floor,
            score=drawn.slate.score[order],
            p_shown=model.predict(x, np.arange(1, len(at) + 1, dtype=np.int32)),
            p_first=scored.p_first[at],
            phi=drawn.phi[order],
            posterior_mean=drawn.posterior_mean[order],
            posterior_sd=drawn.posterior_sd[order],
            features=x,
            sources=[gathered.candidates.names(int(scored.places[place])) for place in at],
            n_feasible=drawn.slate.n_feasible,
            greedy_score=drawn.greedy_score,
            budgeted=drawn.budgeted,
            categories=[drawn.kinds[place] for place in drawn.slate.order],
            variants=variants,
        )

    def _list_rules(self, book: Rulebook, query: RankQuery) -> ListRules:
        """Hard rules of a slate, with the quotas of its surface; with the catalogue's lock held."""
        catalogue, quotas = self._catalogue, book.settings.quotas
        if not quotas:
            return book.list_rules
        bound = bind(quotas, query.surface, catalogue.table, self._filters, catalogue.revision)
        return replace(book.list_rules, quotas=bound)

    # --- lower rungs ---------------------------------------------------------------------------------------------

    def _fallback(self, query: RankQuery, now_ms: int, stages: Stages, rungs: list[str]) -> Answer:
        """The last slate again, else popular items; never drawn."""
        kept = self._kept.get(query.subject) if query.personal and not query.candidates else None
        if kept is not None and kept.surface != query.surface:
            kept = None
        with self._catalogue.lock:
            rules = self._list_rules(self._rules(), query)
            slate = fallback_slate(query, self._catalogue, self._sources[-1], kept, self._filters, rules, now_ms)
        stages.done("fallback")
        return fallback_answer(slate, now_ms, stages, rungs)

    # --- what a reply leaves -------------------------------------------------------------------------------------

    def _earlier(self, query: RankQuery) -> bytes | None:
        """The reply of an earlier request with the caller's id; without Redis a retry is ranked anew."""
        if not query.callers_id or not keeps_replies(query) or self._replies.breaker.open:
            return None
        try:
            found = self._replies.find(query.request_id, query.request_hash)
        except UnavailableError:
            self._replies.breaker.failed()
            return None
        self._replies.breaker.worked()
        return found

    def _finish(self, query: RankQuery, answer: Answer, stages: Stages) -> bytes:
        trace, shown = answer.trace, answer.shown
        made = decision(query, trace, shown)
        if answer.scored is not None and answer.drawn is not None and self._wants_candidates(query):
            with self._catalogue.lock:
                ids = [self._catalogue.table.ids[row] for row in answer.drawn.rows.tolist()]
            at = answer.drawn.at
            log_candidates(made, ids, answer.scored.p_first[at], answer.drawn)
        reply = build_reply(query, answer, made, self._settings.namespace)
        data = reply.SerializeToString(deterministic=True)
        serve = query.mode == decision_pb2.MODE_SERVE and query.personal
        prefetch = query.mode == decision_pb2.MODE_PREFETCH and query.personal
        exposure = exposure_event(query, trace, shown) if (serve or prefetch) and len(shown) else None
        if keeps_replies(query) and (query.callers_id or prefetch):
            stored = stream_pb2.StoredReply(
                request_hash=query.request_hash,
                reply=data,
                exposure=exposure.SerializeToString() if prefetch and exposure is not None else b"",
            )
            earlier, kept = self._keep(query, stored)
            if earlier is not None:
                return earlier
            if prefetch and not kept:
                # The exposure has nowhere to wait: what is shown will never be known, so nothing was drawn.
                made.drawn, made.policy, reply.policy = False, "none", "none"
                made.rungs.append(degrade.UNLOGGED)
                reply.rungs.append(degrade.UNLOGGED)
                data = reply.SerializeToString(deterministic=True)
        if serve or prefetch:
            self._spend(shown)
            if answer.drawn is not None and made.drawn:
                self._watch.saw(
                    trace.policy,
                    shown,
                    answer.drawn,
                    seed=trace.seed,
                    now_ms=trace.decided_ts_ms,
                    newest_ms=answer.posterior_newest_ms,
                )
        if query.personal:
            if not self._log.write(exposure if serve else None, made, answer.snapshot):
                metrics.LOG_LOST.inc()
            if answer.scored is not None and not query.candidates and query.mode != decision_pb2.MODE_SHADOW:
                self._kept.put(query.subject, degrade.KeptSlate(tuple(shown.item_ids), query.surface))
        stages.done("reply")
        metrics.count_reply(reply.policy, reply.rungs, stages.ms, reply.freshness.newest_event_age_ms)
        return data

    def _keep(self, query: RankQuery, stored: stream_pb2.StoredReply) -> tuple[bytes | None, bool]:
        if self._replies.breaker.open:
            return None, False
        try:
            return self._replies.keep(query.request_id, stored), True
        except UnavailableError:
            self._replies.breaker.failed()
            return None, False

    def _spend(self, shown: Shown) -> None:
        """Pay for the new items that were explored."""
        if self._budget is not None:
            for at in np.flatnonzero(shown.budgeted).tolist():
                self._budget.spend(shown.item_ids[at])

    def _wants_candidates(self, query: RankQuery) -> bool:
        return query.debug or query.explain or fully_logged(query.request_id, self._rules().settings.full_log_share)


def keeps_replies(query: RankQuery) -> bool:
    """Whether a reply is kept for retries: nothing is stored for SHADOW or without consent."""
    return query.personal and query.mode != decision_pb2.MODE_SHADOW


def seed_of(request_id: str) -> int:
    """Seed of a request's draw: a retry without a kept reply draws the same."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8, person=b"draw-seed").digest(), "big")
