"""The registry follows the gate: aliases move with promotions, and a failing registry costs none of them."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import socket

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.manifest import manifest_of
from anomalyvae.cli import main
from anomalyvae.review import Queue, gate, promote
from anomalyvae.review.gate import Decision
from anomalyvae.review.promotion import record_champion, roll_back
from anomalyvae.tracking.registry import champion_name, fetched
from anomalyvae.tracking.server import import_mlflow
from anomalyvae.train import train

mlflow = import_mlflow()

RECIPE = WindowRecipe(signals=("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)


@pytest.fixture(scope="module")
def models(template, tmp_path_factory):
    """A folder with two drives, three models of one of them with manifests, and MLflow's database."""
    folder = tmp_path_factory.mktemp("models")
    time_s = np.arange(0, 60, 0.2)
    rng = np.random.default_rng(0)
    for name in ("drive", "held"):
        drive = {"time_s": time_s, "a": np.sin(time_s), "b": rng.normal(size=time_s.size)}
        pd.DataFrame(drive).to_csv(folder / f"{name}.csv", index=False)
    for seed, name in enumerate(("first", "second", "third")):
        detector = VAEOutlierDetector(max_epochs=2, hidden=(8,), random_state=seed)
        train([folder / "drive.csv"], RECIPE, detector, folder / name)
    shutil.copy(template, folder / "mlflow.db")
    return folder


@pytest.fixture
def world(models, tmp_path, monkeypatch, no_settings):
    """A copy of these models, with MLflow's store."""
    shutil.copytree(models, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    mlflow.set_tracking_uri(None)
    yield tmp_path / "world"
    mlflow.set_tracking_uri(None)


def identity(folder):
    return read_card(folder)["model_id"]


def decision(challenger, champion, promoted):
    reasons = ("finds more of the faults", "no more alarms")
    against = identity(champion) if Path(champion).exists() else None
    return Decision(promoted, reasons, against, identity(challenger), (), 30.0, 0.05, "2026-11-23T10:00:00+00:00")


def holdout():
    return manifest_of(["held.csv"], RECIPE)


def version(alias):
    return mlflow.MlflowClient().get_model_version_by_alias("road", alias)


def model_id(alias):
    return version(alias).tags["anomalyvae.model_id"]


def aliases():
    return set(mlflow.MlflowClient().get_registered_model("road").aliases)


def test_aliases_move_with_promotion_refusal_and_rollback(world):
    shutil.copytree("first", "champion")
    refused = decision("second", "champion", promoted=False)
    assert promote("second", "champion", refused, holdout(), register="road")
    assert (model_id("champion"), model_id("challenger")) == (identity("first"), identity("second"))
    assert version("challenger").tags["gate"] == "refused"
    assert version("challenger").tags["refused_because"] == "finds more of the faults"
    assert "no more alarms" in version("challenger").description

    assert promote("third", "champion", decision("third", "champion", promoted=True), holdout(), register="road")
    assert (model_id("champion"), aliases()) == (identity("third"), {"champion"})
    client = mlflow.MlflowClient()
    before = client.get_model_version("road", version("champion").tags["champion_before"])
    assert before.tags["anomalyvae.model_id"] == identity("first")
    assert before.tags["champion_until"]
    assert version("champion").description.startswith("Promoted 2026-11-23T10:00:00+00:00")

    assert promote("second", "champion", decision("second", "champion", promoted=True), holdout(), register="road")
    assert (model_id("champion"), aliases()) == (identity("second"), {"champion"})
    assert len(client.search_model_versions("name = 'road'")) == 3  # each model once

    assert roll_back("champion", register="road") == identity("third") == model_id("champion")
    assert "champion_until" not in version("champion").tags
    assert roll_back("champion", register="road") == identity("first") == model_id("champion")


def test_manifest_holdout_and_decision_travel_with_the_model(world):
    shutil.copytree("first", "champion")
    promote("second", "champion", decision("second", "champion", promoted=True), holdout(), register="road")
    with fetched("models:/road@champion") as folder:
        assert read_manifest(folder).equals(read_manifest("second"))
        assert read_manifest(folder / "holdout.json").equals(holdout())
        assert json.loads((folder / "gate.json").read_text())["promoted"]


def test_a_failing_registry_loses_no_promotion_and_catches_up_later(world, capsys, monkeypatch):
    shutil.copytree("first", "champion")
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        made = decision("second", "champion", promoted=True)
        with pytest.warns(UserWarning, match="did not record") as warned:
            assert not promote("second", "champion", made, holdout(), register="road")
    assert identity("champion") == identity("second")
    [line] = [str(warning.message) for warning in warned if warning.category is UserWarning]
    assert line.endswith("Run later: anomalyvae promote --champion champion --register road")
    assert "\n" not in line

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(line.partition("Run later: anomalyvae ")[2].split()) == 0
    assert "The champion of road is the model in champion." in capsys.readouterr().out
    assert (model_id("champion"), version("champion").tags["gate"]) == (identity("second"), "promoted")
    former = mlflow.MlflowClient().get_model_version("road", version("champion").tags["champion_before"])
    assert former.tags["anomalyvae.model_id"] == identity("first")
    assert record_champion("champion", "road")  # again: changes nothing
    assert len(mlflow.MlflowClient().search_model_versions("name = 'road'")) == 2


def test_a_promotion_that_was_killed_before_the_registry_is_recorded_by_the_next(world):
    shutil.copytree("first", "champion")
    assert record_champion("champion", "road")
    promote("second", "champion", decision("second", "champion", promoted=True), holdout())
    assert promote("second", "champion", decision("second", "champion", promoted=False), holdout(), register="road")
    assert (model_id("champion"), aliases()) == (identity("second"), {"champion"})
    assert version("champion").tags["gate"] == "promoted"
    assert roll_back("champion", register="road") == identity("first") == model_id("champion")


def test_nothing_is_recorded_without_a_challenger_that_was_forgotten(world, capsys):
    for unused in (["--dry-run"], ["--queue", "queue.db"]):
        assert main(["promote", "--champion", "first", "--register", "road", *unused]) == 1
        assert f"Got {unused[0]}, but --register without CHALLENGER" in capsys.readouterr().err


def test_the_loop_with_a_champion_only_in_the_registry(world, capsys, monkeypatch):
    events = pd.DataFrame({"recording": ["held"], "start_s": [20.0], "end_s": [24.0]})
    events.to_csv("marks.csv", index=False)
    assert record_champion("first", "road")
    champion = "models:/road@champion"
    assert main(["score", "held.csv", "scores", "--model", champion, "--quiet"]) == 0
    assert main(["flag", "scores", "--model", champion, "--queue", "queue.db", "--alarms", "alpha=0.5", "--quiet"]) == 0
    with Queue("queue.db", create=False) as queue:
        flagged = queue.events()
        assert set(flagged["model_id"]) == {identity("first")}
    assert main(["retrain", "--queue", "queue.db", "--champion", champion, "--out", "again", "--quiet"]) == 1
    assert "Review events first" in capsys.readouterr().err  # no verdict, nothing new

    command = ["promote", "second", "--champion", champion, "--queue", "queue.db", "--holdout", "held.csv"]
    assert main([*command, "--events", "marks.csv"]) == 4
    assert (model_id("champion"), model_id("challenger")) == (identity("first"), identity("second"))
    assert main([*command, "--register", "street"]) == 1
    assert "names another model than" in capsys.readouterr().err
    assert main(["promote", "--rollback", "--champion", champion]) == 1
    assert "has no earlier champion" in capsys.readouterr().err

    late = replace(decision("second", "first", promoted=True), champion="0" * 12)  # the alias has moved meanwhile
    monkeypatch.setattr(gate, "judge", lambda *_, **__: late)
    assert main(command) == 1
    said = capsys.readouterr()
    assert f"{champion} has the model {identity('first')} now, expected 000000000000: another process" in said.err
    assert "Promoted" not in said.out
    monkeypatch.setattr(gate, "judge", lambda *_, **__: decision("second", "first", promoted=True))
    assert main([*command, "--dry-run"]) == 0
    assert model_id("champion") == identity("first")
    assert main(command) == 0
    assert (model_id("champion"), aliases()) == (identity("second"), {"champion"})
    assert main(command[:-2]) == 0  # the hold-out is frozen with the champion
    assert not [path for path in Path().iterdir() if "former" in path.name]
    capsys.readouterr()
    assert main(["promote", "--rollback", "--champion", champion]) == 0
    assert capsys.readouterr().out == "Rolled back to version 1 of road.\n"
    assert model_id("champion") == identity("first")


def test_a_decision_about_another_model_is_ignored(world):
    shutil.copytree("first", "champion")
    refused = decision("second", "champion", promoted=False)
    Path("champion", "gate.json").write_text(json.dumps(refused.to_dict()))  # of another model
    assert record_champion("champion", "road")
    assert (model_id("champion"), aliases()) == (identity("first"), {"champion"})
    assert "gate" not in version("champion").tags
    assert record_champion("second", "road")  # without a gate
    assert model_id("champion") == identity("second")
    assert "champion_before" not in version("champion").tags


def test_promotion_moves_no_other_alias():
    assert champion_name("models/road") is None
    assert champion_name("models:/road@champion") == champion_name("models://road@champion") == "road"
    for address in ("models:/road/3", "models:/road@challenger", "runs:/1/model", "models:/@champion"):
        with pytest.raises(ValueError, match=r"expected models:/NAME@champion"):
            champion_name(address)


def test_a_model_without_an_onnx_file_is_warned_of(world):
    card = json.loads(Path("first", "card.json").read_text())
    del card["parts"]["model.onnx"], card["digest"]
    Path("first", "card.json").write_text(json.dumps(card))
    with pytest.warns(UserWarning, match="has no ONNX file"):
        assert not record_champion("first", "road")
