"""Feast provider of liverank: a pass-through that guards what the folds own.

`feast apply` is validated here, before the registry is committed, and the compiled program is published to
`<ns>:program`. Rows of owned views are written by the folds alone: `push`, `write_to_online_store` and materialisation
of such a view are refused or skipped, everything else passes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
from feast import FeatureView, OnDemandFeatureView, RepoConfig, StreamFeatureView
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.base_registry import BaseRegistry
from pydantic import SecretStr

from features.compile import Locator, compile_registry, compile_view, is_owned
from features.deployment import CHECKOUT
from features.errors import OwnedViewError, PointInTimeError, ProgramError
from features.generate import RepoLocator, refusing
from features.program import FeatureProgram
from features.redis import Redis, connect, translated
from liverank.settings import RedisSettings, Settings, resolve

__all__ = ["LiverankProvider", "namespace_of", "program_key", "read_program"]

_PREFIX: Final = "liverank_"


def namespace_of(project: str) -> str:
    """Namespace of a Feast project, e.g. `liverank_demo_1` -> `demo-1`.

    Raises
    ------
    ProgramError
        If the project is not one of liverank's.
    """
    if not project.startswith(_PREFIX):
        raise ProgramError(
            f"Feast project must be liverank_<namespace>, got {project!r}; use the feature_store.yaml that "
            "`liverank up` wrote"
        )
    return project.removeprefix(_PREFIX).replace("_", "-")


def program_key(namespace: str) -> str:
    """Redis key of the compiled program."""
    return f"{namespace}:program"


def read_program(client: Redis, namespace: str) -> FeatureProgram | None:
    """The published program, or None before the first `feast apply`."""
    with translated("reading the feature program"):
        text = client.get(program_key(namespace))
    return None if text is None else FeatureProgram.from_json(bytes(text))


class LiverankProvider(PassthroughProvider):
    """Provider named in `feature_store.yaml`."""

    def update_infra(
        self,
        project: str,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Validate, publish the program, then let Feast's stores follow.

        Raises
        ------
        ProgramError
            With file and line; nothing was committed.
        """
        namespace = namespace_of(project)
        locator = RepoLocator(Path.cwd())
        with refusing():
            for view in tables_to_keep:
                if is_owned(view):
                    self._check(view, namespace, locator)
            program = compile_registry(tables_to_keep, project, locator)
        client = self._redis()
        try:
            before = read_program(client, namespace)
        except ProgramError:
            before = None  # of another release, or broken: this one takes its place
        if partial and before is not None:
            named = {view.name for view in program.views}
            kept = [view for view in before.views if view.name not in named]
            program = FeatureProgram(
                project=project, views=tuple(sorted((*kept, *program.views), key=lambda view: view.name))
            )
        super().update_infra(project, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial)
        if before is not None and before.hash == program.hash:
            print(f"feature program {program.hash}: no change ({len(program.views)} stream views)")
            return
        with translated("publishing the feature program"):
            client.set(program_key(namespace), program.to_json())
        print(f"feature program {program.hash}: published to {program_key(namespace)}{_difference(before, program)}")

    def online_write_batch(
        self, config: RepoConfig, table: Any, data: list[Any], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows of views that are not owned.

        Raises
        ------
        OwnedViewError
            The view belongs to a fold.
        """
        _refuse(table)
        super().online_write_batch(config, table, data, progress)

    async def online_write_batch_async(
        self, config: RepoConfig, table: Any, data: list[Any], progress: Callable[[int], Any] | None
    ) -> None:
        """See `online_write_batch`."""
        _refuse(table)
        await super().online_write_batch_async(config, table, data, progress)

    def materialize_single_feature_view(
        self,
        config: RepoConfig,
        feature_view: FeatureView | OnDemandFeatureView,
        start_date: datetime,
        end_date: datetime,
        registry: BaseRegistry,
        project: str,
        tqdm_builder: Callable[[int], Any],
        disable_event_timestamp: bool = False,
    ) -> None:
        """Materialise a view that is not owned; an owned one is skipped with one line."""
        if is_owned(feature_view):
            print(f"{feature_view.name}: written by liverank's workers from Kafka, skipped")
            return
        super().materialize_single_feature_view(
            config, feature_view, start_date, end_date, registry, project, tqdm_builder, disable_event_timestamp
        )

    def get_historical_features(
        self,
        config: RepoConfig,
        feature_views: list[FeatureView | OnDemandFeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Rows as they were: owned views from the archive's replay, others from the configured offline store.

        Raises
        ------
        PointInTimeError
            Owned views are asked for without rows of entity keys and timestamps.
        """
        owned: list[Any] = [view for view in feature_views if is_owned(view)]
        others: list[Any] = [view for view in feature_views if not is_owned(view)]
        if not owned:
            return super().get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, **kwargs
            )
        from features.point_in_time import PointInTimeJob, Question

        if not isinstance(entity_df, pd.DataFrame):
            raise PointInTimeError(
                f"stream views ({', '.join(view.name for view in owned)}) need rows: a DataFrame of entity keys and "
                f"event_timestamp, got {type(entity_df).__name__}"
            )
        question = Question(
            owned=owned,
            others=others,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            refs=feature_refs,
            entity_df=entity_df,
            full_feature_names=full_feature_names,
        )

        def ask_others(views: Sequence[FeatureView], refs: list[str], rows: pd.DataFrame) -> RetrievalJob:
            return super(LiverankProvider, self).get_historical_features(
                config, list(views), refs, rows, registry, project, full_feature_names, **kwargs
            )

        return PointInTimeJob(self._settings(project, owned), question, ask_others)

    def teardown_infra(self, project: str, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Tear down what is not owned; a namespace's rows go with the namespace."""
        super().teardown_infra(project, [table for table in tables if not is_owned(table)], entities)

    def _check(self, view: StreamFeatureView, namespace: str, locator: Locator) -> None:
        program = compile_view(view, locator)
        here = f"{locator.view(view.name)}view {view.name!r}"
        source: Any = view.stream_source
        topic = str(source.kafka_options.topic)
        expected = f"liverank.{namespace}."
        if not topic.startswith(expected):
            raise ProgramError(
                f"{here}: its source reads topic {topic!r}, this feature_store.yaml is of namespace {namespace!r} "
                f"({expected}*); set LIVERANK_NAMESPACE={namespace}"
            )
        stored = {field.name for field in view.features}
        missing = [page for page in program.page_names if page not in stored]
        if missing:
            raise ProgramError(
                f"{here}: has aggregations but no fields for its tiles ({', '.join(missing)}); apply it from a repo "
                "that holds windows.py (features/repo/windows.py), which adds them"
            )

    def _settings(self, project: str, owned: Sequence[Any]) -> Settings:
        """Settings of the namespace: those of the checkout, with the addresses that the registry was applied with."""
        namespace = namespace_of(project)
        with contextlib.chdir(CHECKOUT):
            settings = Settings()
        registry = Path(str(self.repo_config.registry.path))
        home = settings.home if settings.home.is_absolute() else CHECKOUT / settings.home
        if registry.parent.name == namespace:
            home = registry.parent.parent
        settings = resolve(settings.model_copy(update={"namespace": namespace, "home": home}))
        kafka = settings.kafka.bootstrap or str(owned[0].stream_source.kafka_options.kafka_bootstrap_servers)
        return settings.model_copy(
            update={
                "kafka": settings.kafka.model_copy(update={"bootstrap": kafka}),
                "redis": self._redis_settings() if not settings.redis.url else settings.redis,
            }
        )

    def _redis(self) -> Redis:
        return connect(Settings.model_construct(redis=self._redis_settings()))

    def _redis_settings(self) -> RedisSettings:
        host, *options = str(self.repo_config.online_store.connection_string).split(",")
        given = dict(option.split("=", 1) for option in options)
        scheme = "rediss" if given.get("ssl", "").lower() == "true" else "redis"
        return RedisSettings(
            url=f"{scheme}://{host}/{given.get('db', '0')}",
            password=SecretStr(_password(given["password"])) if "password" in given else None,
        )


def _password(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _refuse(view: Any) -> None:
    if is_owned(view):
        raise OwnedViewError(
            f"view {view.name!r} is written by liverank's workers from Kafka alone, a push or write_to_online_store is "
            "refused; produce events (liverank.EventProducer, Track), or push to a view of your own"
        )


def _difference(before: FeatureProgram | None, after: FeatureProgram) -> str:
    old = {} if before is None else {view.name: view.to_dict() for view in before.views}
    new = {view.name: view.to_dict() for view in after.views}
    parts = [
        ("new", sorted(new.keys() - old.keys())),
        ("changed", sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        ("removed", sorted(old.keys() - new.keys())),
    ]
    return "".join(f"; {word}: {', '.join(names)}" for word, names in parts if names)
