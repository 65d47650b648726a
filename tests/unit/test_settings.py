"""The settings tree: sources, refusals, addresses, and the page made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from supervisor.datatypes import dict_of_key_value_pairs

from infra import settings_docs
from infra.stack.endpoints import publish
from infra.stack.layout import Layout
from infra.stack.supervisor import _environment
from liverank.settings import Endpoints, NamespaceEndpoints, Settings, resolve


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "liverank.toml").write_text('namespace = "file"\n[stack]\nworkers = 3\npartitions = 4\n')
    assert (Settings().namespace, Settings().stack.workers) == ("file", 3)
    monkeypatch.setenv("LIVERANK_STACK__WORKERS", "5")
    assert (Settings().stack.workers, Settings().stack.partitions) == (5, 4)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"namespace": "Shop"}, "namespace"),
        ({"namespace": "x" * 25}, "namespace"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"stack": {"workers": -1}}, "stack.workers"),
        ({"stack": {"wokers": 1}}, "stack.wokers"),
        ({"ranker": {"floor": 1.0}}, "ranker.floor"),
        ({"kafka": {"compression": "brotli"}}, "kafka.compression"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(given: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    assert {".".join(map(str, error["loc"])) for error in caught.value.errors()} == {where}


def test_addresses_come_from_the_endpoints_of_the_namespace_unless_set(tmp_path: Path) -> None:
    layout = Layout(home=tmp_path, cache=tmp_path)
    spaces = {"live": NamespaceEndpoints(grpc="g:1"), "replay": NamespaceEndpoints(grpc="g:2", feast_yaml="/r.yaml")}
    publish(layout, Endpoints(kafka="k:1", redis="redis://r:1/0", grpc="g:1", namespaces=spaces))
    assert resolve(Settings(home=tmp_path)).ranker.grpc == "g:1"
    replay = resolve(Settings(home=tmp_path, namespace="replay"))
    assert (replay.ranker.grpc, replay.feast.yaml, replay.kafka.bootstrap) == ("g:2", "/r.yaml", "k:1")
    assert resolve(Settings(home=tmp_path, namespace="other")).ranker.grpc == ""
    assert resolve(Settings(home=tmp_path, kafka={"bootstrap": "mine:9"})).kafka.bootstrap == "mine:9"
    assert resolve(Settings(home=tmp_path / "none")).kafka.bootstrap == ""


def test_all_settings_survive_the_way_to_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through supervisord's own parser, which knows no escapes."""
    settings = Settings(namespace="shop-1", ranker={"surfaces": ("home", "it's")}, redis={"password": '50%, "or" so'})
    for name, value in dict_of_key_value_pairs(_environment(settings.environment())).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_every_setting_has_a_meaning_and_the_page_is_up_to_date() -> None:
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {"": field}
        silent = [f"{name}.{key}" for key, one in inner.items() if not one.description]
        assert not silent, "write a line under the field in liverank/settings.py"
    text = settings_docs.DOCUMENT.read_text()
    assert settings_docs.rendered(text) == text, "run: python -m infra.settings_docs"
