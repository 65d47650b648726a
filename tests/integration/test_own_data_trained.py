"""USE-5: three public data sets, each of another shape, go from their file to a trained ranker with two commands."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import MakeNamespace
from typer.testing import CliRunner

from features.redis import connect
from liverank.cli import build
from liverank.settings import Settings
from ranker.models import load_active_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def ratings(data: Path, folder: Path) -> list[str]:
    """MovieLens: ratings in seconds and a catalogue beside them, as CSV."""
    frame = pd.read_csv(data / "ml-latest-small" / "ratings.csv")
    log, catalogue = folder / "ratings.csv", folder / "movies.csv"
    frame = frame.sort_values("timestamp").tail(4_000)
    frame.to_csv(log, index=False)
    films = pd.read_csv(data / "ml-latest-small" / "movies.csv")
    films[films["movieId"].isin(frame["movieId"])].to_csv(catalogue, index=False)
    return ["--from", str(log), "--items", str(catalogue)]


def shown(data: Path, folder: Path) -> list[str]:
    """KuaiRand: what was shown, with what came of it, as Parquet."""
    frame = pd.read_parquet(data / "kuairand-pure-apr25-30" / "val.parquet")
    log = folder / "shown.parquet"
    frame[frame["user_id"] % 16 == 0].to_parquet(log)
    return ["--from", str(log)]


def purchases(data: Path, folder: Path) -> list[str]:
    """Online Retail: lines of invoices, as JSON lines."""
    frame = pd.read_parquet(data / "online-retail-2011" / "online_retail.parquet").head(12_000)
    log = folder / "invoices.jsonl"
    frame.assign(InvoiceDate=frame["InvoiceDate"].astype(str)).to_json(log, orient="records", lines=True)
    return ["--from", str(log)]


def run(settings: Settings, *arguments: str) -> str:
    """A command as a person types it; what the folder's settings say is not in the environment."""
    environment = {name: value for name, value in settings.environment().items() if name != "LIVERANK_FEAST__REPO"}
    done = CliRunner().invoke(build(), list(arguments), env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.mark.data
@pytest.mark.parametrize(("shape", "file"), [("ratings", ratings), ("exposures", shown), ("purchases", purchases)])
def test_USE_5_a_file_becomes_a_trained_ranker_with_two_commands(
    make_namespace: MakeNamespace,
    data: Path,
    tmp_path: Path,
    shape: str,
    file: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = make_namespace()
    given = file(data, tmp_path)  # type: ignore[operator]
    own = tmp_path / "own"
    made = json.loads(run(settings, "init", *given, "--out", str(own), "--namespace", settings.namespace, "--json"))
    assert made["columns"]["shape"] == shape
    report = json.loads(run(settings, "import", str(own), "--train", "--slates", "900", "--json").splitlines()[-1])
    assert report["events"] == made["events"] > 2_000
    assert report["items"] == made["items"]
    assert report["dead_letters"] == {}
    model = load_active_model(connect(settings), settings)
    assert model.model_id == report["model"]
    assert model.manifest.heads[0] in report["heads"]
    with capsys.disabled():
        auc = report["heads"][model.manifest.heads[0]]["auc"]
        print(f" [{shape}: {report['events']:,} events, AUC {auc:.3f}]", end="")
