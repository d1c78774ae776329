"""MLflow gets everything by its own conventions, and a failing server costs neither the model nor minutes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from anomalyvae import Scorer, VAEOutlierDetector, autolog, load, save, track, tracked_run
from anomalyvae.cli import main
from anomalyvae.nets.bodies import BODIES
from anomalyvae.tracking import entries
from anomalyvae.tracking import runs as tracking_runs
from anomalyvae.tracking.drift import track_drift
from anomalyvae.tracking.entries import Result
from anomalyvae.tracking.registry import fetched
from anomalyvae.tracking.runs import NOTE, MetricSender
from anomalyvae.tracking.server import import_mlflow, mlflow_session

mlflow = import_mlflow()

BIN = Path(sys.executable).parent
PACKAGES = Path(np.__file__).parents[1]


def free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def process(*command, answers, cwd):
    """A running process, from its first answer until the block ends; its children end with it."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (cwd / "output").open("w") as output:
        started = psutil.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(answers, timeout=5).close()  # noqa: S310
                break
            except OSError:
                assert started.poll() is None, (cwd / "output").read_text()
                assert time.monotonic() < deadline, (cwd / "output").read_text()
                time.sleep(0.1)
        yield started
    finally:
        send(signal.SIGKILL, started)
        started.wait()


def send(number, started):
    """Signal a process and its children."""
    if started.is_running():
        for each in [*started.children(recursive=True), started]:
            each.send_signal(number)


@pytest.fixture
def store(template, tmp_path, monkeypatch, no_settings):
    """A folder with an empty local store, MLflow's default."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, "mlflow.db")
    mlflow.set_tracking_uri(None)
    yield tmp_path
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    speed = rng.normal(size=400)
    table = pd.DataFrame({"speed": speed, "rpm": 9 * speed + rng.normal(size=400)})
    return table.assign(gear=rng.choice(["low", "high"], 400), wet=rng.random(400) < 0.5)


def a_detector(**settings):
    return VAEOutlierDetector(**{"max_epochs": 4, "hidden": (8,), "random_state": 0} | settings)


@pytest.fixture(scope="module")
def bundle(rows, tmp_path_factory):
    return save(a_detector().fit(rows), tmp_path_factory.mktemp("bundle") / "pump", figures={"auroc": 0.75})


@pytest.fixture
def own(bundle, tmp_path):
    """A copy of the bundle, for notes."""
    return Path(shutil.copytree(bundle, tmp_path / "pump"))


@pytest.fixture
def runs():
    return lambda: mlflow.search_runs(search_all_experiments=True, output_format="list")


def history_of(run_id, name="loss"):
    return [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run_id, name)]


def losses_of(detector):
    return list(zip(detector.history_["epoch"], detector.history_["loss"], strict=True))


def model_of(run_id):
    [output] = mlflow.get_run(run_id).outputs.model_outputs
    return mlflow.get_logged_model(output.model_id)


def scores_of(bundle, rows):
    scorer = Scorer(bundle)
    found = scorer.score(rows)
    return pd.DataFrame(
        {
            "anomaly_score": found["anomaly_score"],
            "p_value": found["p_value"],
            "is_outlier": found["is_outlier"],
            "model_id": scorer.metadata["model_id"],
        }
    )


# Contents of a run


@pytest.fixture(scope="module")
def tracked(rows, template, tmp_path_factory):
    """A fit tracked in a git repository, with MLflow's default store: run, detector, bundle and commit."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "MLFLOW_EXP", "MLFLOW_RUN"))]:
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        with tracked_run(experiment="pumps", run_name="first", registered_model="pump") as run:
            detector = a_detector(validation_fraction=0.3, criterion="elbo").fit(rows)
            save(detector, "models/pump", figures={"auroc": 0.75, "own threshold": {"recall": 0.5}})
            assert run.log("models/pump", source="pumps.csv")
        yield mlflow.get_run(run.run_id), detector, folder / "models" / "pump", commit


def test_a_run_has_settings_losses_figures_and_tags(tracked):
    run, detector, bundle, commit = tracked
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert mlflow.get_experiment(run.info.experiment_id).name == "pumps"
    settings = detector.get_params() | {"hidden": [8]}
    assert run.data.params == {name: str(value) for name, value in settings.items()}
    for name in ("loss", "held_out_loss", "held_out_reconstruction", "held_out_kl"):
        expected = list(zip(detector.history_["epoch"], detector.history_[name], strict=True))
        assert history_of(run.info.run_id, name) == expected
    figures = {"auroc": 0.75, "own threshold.recall": 0.5, "threshold": -detector.offset_, "training.rows": 400}
    figures["calibration.rows"] = len(detector.calibration_.scores)
    assert {name: run.data.metrics[name] for name in figures} == figures
    tags = run.data.tags
    assert tags["stop_reason"] == detector.stop_reason_
    assert tags["version.mlflow"] == mlflow.__version__
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["anomalyvae.model_id"] == json.loads((bundle / "card.json").read_text())["model_id"]
    assert not (bundle / NOTE).exists()


def test_run_model_and_version_of_few_recordings_say_so(tracked):
    _, _, bundle, _ = tracked
    result = Result.read(bundle)
    assert "caution" not in result.tags
    few = replace(result, card=result.card | {"calibration": {"evidence": 3.0}, "windowing": {"stride_s": 1.0}})
    assert few.tags["caution"].startswith("3 recordings can show no p-value below 0.25")
    sent = []
    entries.send_card(SimpleNamespace(log_batch=lambda run_id, **parts: sent.append(parts)), "run", few)
    assert {tag.key: tag.value for tag in sent[0]["tags"]}.items() >= few.tags.items()


def test_a_run_describes_its_data_set_by_fingerprint_source_and_columns(tracked):
    run, detector, _, _ = tracked
    [known] = run.inputs.dataset_inputs
    assert detector.training_["sha256"].startswith(known.dataset.digest)
    assert len(known.dataset.digest) >= 32
    assert run.data.tags["training.sha256"] == detector.training_["sha256"]
    assert json.loads(known.dataset.source)["uri"] == "pumps.csv"
    columns = {column["name"]: column["type"] for column in json.loads(known.dataset.schema)["mlflow_colspec"]}
    assert columns == {"speed": "double", "rpm": "double", "gear": "string", "wet": "any"}


def test_the_model_is_logged_once_with_types_and_pins_without_torch(tracked, tmp_path):
    run, _, _, _ = tracked
    [model] = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    assert (str(model.status), model.source_run_id) == ("READY", run.info.run_id)
    assert {metric.key: metric.value for metric in model.metrics}["auroc"] == 0.75
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model.model_id}", dst_path=str(tmp_path)))
    signature = mlflow.models.get_model_info(str(folder)).signature
    assert signature.inputs.input_names() == ["speed", "rpm", "gear", "wet"]
    assert dict(zip(signature.outputs.input_names(), map(str, signature.outputs.input_types()), strict=True)) == {
        "anomaly_score": "DataType.double",
        "p_value": "DataType.double",
        "is_outlier": "DataType.boolean",
        "model_id": "DataType.string",
    }
    pins = (folder / "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {"mlflow", "numpy", "onnxruntime", "pandas"}
    bundle = folder / "artifacts" / "bundle"
    assert sorted(file.name for file in bundle.iterdir()) == ["card.json", "model.onnx", "model.safetensors"]


def test_loaded_by_mlflow_it_scores_as_the_scorer_does(tracked, rows):
    run, _, bundle, _ = tracked
    model = mlflow.pyfunc.load_model(f"models:/{model_of(run.info.run_id).model_id}")
    some = rows.head(50).copy()
    some.loc[3, "speed"] = np.nan
    some.loc[4, "gear"] = None
    some["unknown"] = 1
    pd.testing.assert_frame_equal(
        model.predict(some), scores_of(bundle, some.drop(columns="unknown")), check_dtype=False
    )
    with pytest.raises(mlflow.MlflowException, match="rpm"):
        model.predict(rows.drop(columns="rpm"))


def test_null_in_a_request_is_a_missing_cell(tracked, rows):
    run, _, bundle, _ = tracked
    model = mlflow.pyfunc.load_model(f"models:/{model_of(run.info.run_id).model_id}")
    some = rows.head(4).astype(object)
    for row, column in enumerate(rows):
        some.loc[row, column] = None
    expected = scores_of(bundle, some.astype({"speed": float, "rpm": float}))
    for orient in ("split", "records"):
        request = {f"dataframe_{orient}": json.loads(some.to_json(orient=orient))}
        parsed = infer_and_parse_data(request, model.metadata.get_input_schema())
        pd.testing.assert_frame_equal(model.predict(parsed), expected, check_dtype=False)


def test_rows_without_names_are_a_matrix(store):
    rows = np.random.default_rng(0).normal(size=(300, 3))
    with tracked_run() as run:
        save(a_detector().fit(rows), "plain")
        assert run.log("plain")
    model = mlflow.pyfunc.load_model(f"models:/{model_of(run.run_id).model_id}")
    pd.testing.assert_frame_equal(model.predict(rows), scores_of("plain", rows), check_dtype=False)


def test_a_worker_scores_without_torch_and_without_this_package(tracked, rows, tmp_path):
    run, _, bundle, _ = tracked
    uri = f"models:/{model_of(run.info.run_id).model_id}"
    folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path))
    rows.head(20).to_json(tmp_path / "rows.json", orient="split")
    script = f"""
import sys
sys.path.insert(0, {str(PACKAGES)!r})  # its packages, but not what is installed in place
import mlflow, pandas as pd
assert "anomalyvae" not in sys.modules
model = mlflow.pyfunc.load_model({folder!r})
scores = model.predict(pd.read_json({str(tmp_path / "rows.json")!r}, orient="split"))
print(sorted({{"torch", "sklearn", "onnx"}} & set(sys.modules)), sys.modules["anomalyvae"].__file__)
print(scores["anomaly_score"].tolist())
"""
    command = [sys.executable, "-S", "-E", "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    heavy, scores = result.stdout.splitlines()
    assert heavy == f"[] {folder}/artifacts/package/anomalyvae/__init__.py".replace("//", "/")
    assert json.loads(scores) == Scorer(bundle).anomaly_score(rows.head(20)).tolist()


@pytest.mark.slow
def test_mlflow_models_predict_and_serve(tracked, rows, tmp_path):
    run, _, bundle, _ = tracked
    uri = f"models:/{model_of(run.info.run_id).model_id}"
    folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path))
    expected = scores_of(bundle, rows.head(5))
    rows.head(5).to_csv(tmp_path / "rows.csv", index=False)
    command = [BIN / "mlflow", "models", "predict", "-m", folder, "--env-manager", "local"]
    command += ["-i", "rows.csv", "-t", "csv", "-o", "scores.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = pd.DataFrame(json.loads((tmp_path / "scores.json").read_text())["predictions"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)

    port = free_port()
    command = [BIN / "mlflow", "models", "serve", "-m", folder, "--env-manager", "local", "-p", str(port)]
    with process(*command, answers=f"http://127.0.0.1:{port}/ping", cwd=tmp_path):
        asked = json.dumps({"dataframe_split": json.loads(rows.head(5).to_json(orient="split"))}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", asked, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            found = pd.DataFrame(json.load(answer)["predictions"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


@pytest.mark.spark
def test_a_spark_udf_scores_as_the_scorer_does(tracked, rows, monkeypatch):
    pyspark = pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs Java, which is not installed")
    run, _, bundle, _ = tracked
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # or workers take whatever python3 is on the path
    spark = (
        pyspark.sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    try:
        uri = f"models:/{model_of(run.info.run_id).model_id}"
        score = mlflow.pyfunc.spark_udf(spark, uri, env_manager="local")
        columns = pyspark.sql.functions.struct(*rows.columns)
        table = spark.createDataFrame(rows.head(50)).withColumn("found", score(columns)).select("found.*")
        found = pd.DataFrame([row.asDict() for row in table.collect()])
    finally:
        spark.stop()
    pd.testing.assert_frame_equal(found, scores_of(bundle, rows.head(50)), check_dtype=False)


# MLflow's settings decide where a run goes


def test_an_active_run_is_joined_and_left_open(store, own):
    with mlflow.start_run(run_name="mine") as mine:
        mlflow.log_param("weather", "wet")
        with tracked_run(experiment="ignored") as run:
            assert run.log(own)
        assert mlflow.active_run().info.run_id == mine.info.run_id == run.run_id
        assert mlflow.get_run(run.run_id).info.status == "RUNNING"
    assert mlflow.get_run(run.run_id).data.params["weather"] == "wet"
    assert model_of(run.run_id).tags["anomalyvae.model_id"]


def test_environment_and_code_decide_where_a_run_goes(store, own, monkeypatch, template):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    with tracked_run() as run:
        pass
    assert mlflow.get_experiment(mlflow.get_run(run.run_id).info.experiment_id).name == "from the environment"
    monkeypatch.setenv("MLFLOW_RUN_ID", run.run_id)  # as `mlflow run` does it
    with tracked_run() as resumed:
        assert resumed.log(own)
    assert resumed.run_id == run.run_id
    elsewhere = f"sqlite:///{shutil.copy(template, store / 'other.db')}"
    mlflow.set_tracking_uri(elsewhere)
    with tracked_run() as run:
        pass
    assert mlflow.MlflowClient(elsewhere).get_run(run.run_id).info.status == "FINISHED"


def test_another_store_for_one_block(store, template):
    before = mlflow.get_tracking_uri()
    elsewhere = f"sqlite:///{shutil.copy(template, store / 'other.db')}"
    with tracked_run(uri=elsewhere) as run:
        assert mlflow.get_tracking_uri() == elsewhere
    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.MlflowClient(elsewhere).get_run(run.run_id).info.status == "FINISHED"


def test_trials_of_a_study_are_children_of_one_run(store, rows, runs):
    with tracked_run(run_name="study", listen=False):
        for trial in range(2):
            with tracked_run(nested=True, run_name=f"trial {trial}"):
                a_detector(beta=1 + trial, validation_fraction=0.2).fit(rows)
    found = {run.info.run_name: run for run in runs()}
    assert set(found) == {"study", "trial 0", "trial 1"}
    for trial in ("trial 0", "trial 1"):
        assert found[trial].data.tags["mlflow.parentRunId"] == found["study"].info.run_id
        assert [step for step, _ in history_of(found[trial].info.run_id)] == [1, 2, 3, 4]
    assert "loss" not in found["study"].data.metrics


def test_an_error_in_the_block_marks_the_run_and_propagates(store, runs):
    with pytest.raises(ZeroDivisionError), tracked_run():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tracked_run():
        raise KeyboardInterrupt
    assert [run.info.status for run in runs()] == ["KILLED", "FAILED"]


def test_telemetry_is_off_unless_the_user_turns_it_on(monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    import_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    import_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_without_mlflow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"pip install 'anomalyvae\[mlflow\]'"), tracked_run():
        pass


def test_timeouts_are_short_unless_the_user_sets_them(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with mlflow_session():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) <= 1
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


# A server that fails


def test_a_server_that_is_down_costs_one_line(store, rows, runs, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with tracked_run(experiment="pumps", run_name="first", registered_model="pump") as run:
            detector = a_detector().fit(rows)
            save(detector, "pump")
            assert not run.log("pump", source="pumps.csv")
    [line] = [str(warning.message) for warning in said if warning.category is UserWarning]
    assert "\n" not in line
    assert "lacks everything of pump (Connection refused)" in line
    assert line.endswith("anomalyvae track pump")
    assert load("pump").anomaly_score(rows).tolist() == detector.anomaly_score(rows).tolist()
    assert main(["track", "pump"]) == 1
    assert "Connection refused" in capsys.readouterr().err

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["track", "pump", "--uri", f"sqlite:///{store}/mlflow.db"]) == 0
    assert "Tracked: run" in capsys.readouterr().out
    assert not (store / "pump" / NOTE).exists()
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    [found] = runs()
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert history_of(found.info.run_id) == losses_of(detector)
    assert json.loads(found.inputs.dataset_inputs[0].dataset.source)["uri"] == "pumps.csv"
    assert mlflow.MlflowClient().get_model_version_by_alias("pump", "champion").run_id == found.info.run_id


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """A real ``mlflow server``, and its address."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copy(template, folder / "mlflow.db")
    command = [BIN / "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with process(*command, answers=f"{address}/health", cwd=folder) as started:
        yield started, address


@pytest.mark.slow
def test_a_hanging_server_costs_bounded_time_and_gets_the_rest_later(server, rows, store, runs, monkeypatch):
    started, address = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracked_run(experiment="hangs") as run:
        detector = a_detector().fit(rows)
        run._sender.finish(20)  # the losses are there
        save(detector, "pump")
        send(signal.SIGSTOP, started)
        try:
            with pytest.warns(UserWarning, match=r"lacks the parameters .* and the model of pump \(timed out\)"):
                assert not run.log("pump")
        finally:
            send(signal.SIGCONT, started)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    assert json.loads(Path("pump", NOTE).read_text())["run_id"] == run.run_id
    assert run.run_id in track("pump")
    [found] = [each for each in runs() if each.info.run_id == run.run_id]
    assert found.info.status == "FINISHED"
    assert history_of(run.run_id) == losses_of(detector)
    assert str(model_of(run.run_id).status) == "READY"
    assert not Path("pump", NOTE).exists()
    track("pump")  # again: a run of its own
    assert len(runs()) == 2


@pytest.mark.slow
def test_a_server_killed_during_training_costs_no_model(server, rows, store, monkeypatch):
    started, address = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking_runs, "_BATCH_S", 0.05)
    arrived, call = [], MetricSender.__call__

    def killing(self, record):
        call(self, record)
        if record["epoch"] == 20:
            deadline = time.monotonic() + 30
            while not arrived and time.monotonic() < deadline:
                arrived.extend(history_of(run.run_id))
            send(signal.SIGKILL, started)

    monkeypatch.setattr(MetricSender, "__call__", killing)
    with tracked_run() as run:
        detector = a_detector(max_epochs=40).fit(rows)
        save(detector, "pump")
        with pytest.warns(UserWarning, match=r"lacks .*the losses.* and the model of pump \(.*anomalyvae track pump$"):
            assert not run.log("pump")
    assert 0 < len(arrived) < 40
    assert len(detector.history_) == 40
    assert load("pump").anomaly_score(rows).tolist() == detector.anomaly_score(rows).tolist()
    note = json.loads(Path("pump", NOTE).read_text())
    assert (note["run_id"], note["uri"]) == (run.run_id, address)


# The registry


def test_versions_aliases_and_scoring_by_them(store, own, rows, tmp_path, capsys):
    second = save(a_detector(random_state=1).fit(rows), "second")
    for folder in (own, second):
        with tracked_run(registered_model="pump") as run:
            assert run.log(folder)
    rows.to_csv("rows.csv", index=False)
    ids = {name: json.loads((folder / "card.json").read_text())["model_id"] for name, folder in
           (("champion", own), ("challenger", second))}  # fmt: skip
    for alias, model_id in ids.items():
        assert main(["score", "rows.csv", f"{alias}.parquet", "--model", f"models:/pump@{alias}", "--quiet"]) == 0
        assert set(pd.read_parquet(f"{alias}.parquet")["model_id"]) == {model_id}
    with fetched("models:/pump/2") as folder:
        assert load(folder).anomaly_score(rows).tolist() == load(second).anomaly_score(rows).tolist()
    assert main(["score", "rows.csv", "no.parquet", "--model", "models:/pump@nobody"]) == 1
    assert "has no model models:/pump@nobody" in capsys.readouterr().err


def test_a_model_of_another_flavour_is_refused(store):
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="other", python_model=lambda model_input: model_input, input_example=["a"], pip_requirements=[]
        )
    with pytest.raises(FileNotFoundError, match="was not logged by anomalyvae"), fetched(info.model_uri):
        pass


# autolog


@pytest.fixture
def automatic(store):
    yield autolog
    autolog(disable=True)


def test_autolog_tracks_fits_until_it_is_disabled(automatic, rows, runs):
    automatic(extra_tags={"team": "pumps"})
    detector = a_detector().fit(rows)
    [run] = runs()
    assert run.data.params["max_epochs"] == "4"
    assert history_of(run.info.run_id) == losses_of(detector)
    assert (run.data.tags["mlflow.autologging"], run.data.tags["team"]) == ("anomalyvae", "pumps")
    assert model_of(run.info.run_id).tags["anomalyvae.model_id"]
    with mlflow.start_run() as mine:  # the first fit goes into it, the second into a child
        a_detector(beta=2.0).fit(rows)
        a_detector(beta=3.0).fit(rows)
    first, second = mlflow.get_run(mine.info.run_id), runs()[0]
    assert (first.data.params["beta"], second.data.params["beta"]) == ("2.0", "3.0")
    assert second.data.tags["mlflow.parentRunId"] == mine.info.run_id
    automatic(disable=True)
    a_detector().fit(rows)
    assert len(runs()) == 3


@pytest.mark.parametrize("log_models", [True, False])
def test_settings_and_tags_are_sent_as_written(automatic, rows, runs, log_models):
    """A store that is a database took True for 1, and settings without a model had another form."""
    automatic(log_models=log_models, extra_tags={"wet": True, "gear": 1, "rpm": 1.0, "pump": None, "plant": "007"})
    a_detector().fit(rows)
    [run] = runs()
    assert (run.data.params["hidden"], run.data.params["verbose"]) == ("[8]", "False")
    found = {name: run.data.tags[name] for name in ("wet", "gear", "rpm", "pump", "plant")}
    assert found == {"wet": "True", "gear": "1", "rpm": "1.0", "pump": "None", "plant": "007"}


def test_a_body_of_the_users_own_is_tracked_by_its_name(automatic, rows, runs):
    def narrow(shape, latent):
        return BODIES["mlp"](shape, latent, hidden=(4,))

    automatic()
    detector = a_detector(body=narrow).fit(rows[["speed", "rpm"]])
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["body"].endswith("narrow")
    assert history_of(run.info.run_id) == losses_of(detector)


def test_the_same_command_goes_on_in_the_run_that_failed(store, own, runs, capsys):
    assert main(["track", str(own), "--register", "pumps/first"]) == 1
    assert "did not take the registered version" in (said := capsys.readouterr().err)
    assert "Correct what it names, or wait until it answers, and run the same command again" in said
    assert main(["track", str(own), "--register", "pump"]) == 0
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert mlflow.MlflowClient().get_model_version_by_alias("pump", "champion").run_id == run.info.run_id
    with pytest.raises(ConnectionError, match=r"of .*pump \(.*'?foo'?.*schemes"):
        track(own, uri="foo://bar")


def test_a_search_is_one_run_with_a_table_of_candidates(automatic, rows, runs):
    from joblib import parallel_backend
    from sklearn.model_selection import GridSearchCV

    automatic(log_models=False)
    with parallel_backend("threading"):
        search = GridSearchCV(a_detector(), {"beta": [0.5, 1.0]}, cv=2, n_jobs=2).fit(rows)
    [run] = runs()
    assert run.data.params["beta"] == str(search.best_params_["beta"])
    assert run.data.metrics["best_score"] == search.best_score_
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="cv_results.csv"))
    assert table["mean_test_score"].tolist() == pytest.approx(search.cv_results_["mean_test_score"].tolist())
    assert not (run.outputs and run.outputs.model_outputs)
    assert run.info.status == "FINISHED"


def test_a_study_is_one_run_with_a_child_for_each_trial(automatic, rows, runs):
    optuna = pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        detector = a_detector(beta=trial.suggest_float("beta", 0.5, 2.0)).fit(rows)
        if trial.number == 2:
            raise optuna.TrialPruned
        return -detector.score_samples(rows).mean()

    automatic(log_models=False)
    for jobs in (1, 2):  # in this thread, and in others
        study = optuna.create_study()
        with mlflow.start_run(run_name=f"{jobs} jobs") as mine:
            study.optimize(objective, n_trials=4, n_jobs=jobs)
        parent = mlflow.get_run(mine.info.run_id)
        assert parent.data.metrics["best_value"] == study.best_value
        assert parent.data.params == {"best.beta": str(study.best_params["beta"])}
        children = [run for run in runs() if run.data.tags.get("mlflow.parentRunId") == mine.info.run_id]
        found = {run.info.run_name: run for run in children}
        assert set(found) == {f"trial {trial.number}" for trial in study.trials} == {f"trial {n}" for n in range(4)}
        for trial in study.trials:
            data = found[f"trial {trial.number}"].data
            assert data.params["beta"] == data.params["trial.beta"] == str(trial.params["beta"])
            assert (data.metrics.get("value"), data.tags.get("pruned") == "true") == (trial.value, trial.value is None)
            assert data.metrics["loss"]
    assert len(runs()) == 2 * (1 + 4)
    optuna.create_study().optimize(objective, n_trials=1)  # without an active run
    assert len(runs()) == 2 * (1 + 4) + 2
    assert {run.info.status for run in runs()} == {"FINISHED"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_with_a_callback_of_optuna_has_a_run_per_trial(automatic, rows, runs, jobs):
    optuna = pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    integration = pytest.importorskip("optuna_integration", reason="needs optuna-integration")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    callback = integration.MLflowCallback(create_experiment=False)

    def objective(trial):  # a parameter of the same name, and another value than the detector's
        hidden = {"small": (4,), "large": (8,)}[trial.suggest_categorical("hidden", ["small", "large"])]
        return -a_detector(hidden=hidden).fit(rows).score_samples(rows).mean()

    automatic(log_models=False)
    study = optuna.create_study()
    study.optimize(objective, n_trials=3, n_jobs=jobs, callbacks=[callback])
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    found = {run.info.run_name: run.data for run in runs()}
    assert set(found) == {"0", "1", "2"}
    assert len(runs()) == 3
    for trial in study.trials:
        assert found[str(trial.number)].params == {"hidden": trial.params["hidden"]}
        assert found[str(trial.number)].metrics == {"value": trial.value}
    a_detector().fit(rows)  # a fit outside the study is a run again
    assert len(runs()) == 4


def test_mlflow_sklearn_logs_a_pipeline_without_pickle(store, rows):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = rows[["speed", "rpm"]]
    pipeline = make_pipeline(StandardScaler(), a_detector()).fit(rows)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            pipeline, name="model", serialization_format="skops",
            skops_trusted_types=["anomalyvae.detector.estimator.VAEOutlierDetector"],
        )  # fmt: skip
    again = mlflow.sklearn.load_model(info.model_uri)
    np.testing.assert_array_equal(again.score_samples(rows), pipeline.score_samples(rows))
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(info.model_uri).predict(rows), pipeline.predict(rows))


def test_mlflow_sklearn_autolog_takes_precedence(automatic, rows, runs):
    from sklearn.model_selection import GridSearchCV

    mlflow.sklearn.autolog(silent=True, log_models=False)
    try:
        automatic()
        GridSearchCV(a_detector(), {"beta": [0.5, 1.0]}, cv=2).fit(rows)
    finally:
        mlflow.sklearn.autolog(disable=True)
    assert {run.data.tags["mlflow.autologging"] for run in runs()} == {"sklearn"}
    assert sum("mlflow.parentRunId" not in run.data.tags for run in runs()) == 1


# Jobs


def test_a_job_is_a_run_with_a_child_per_fold(store, runs):
    for number in range(2):
        rng = np.random.default_rng(number)
        bump = rng.normal(size=300)
        bump[100:105] += 12
        table = pd.DataFrame({"time_s": np.arange(0, 60, 0.2), "bump": bump, "sway": rng.normal(size=300)})
        table.to_csv(f"drive{number}.csv", index=False)
    marks = pd.DataFrame({"recording": ["drive0", "drive1"], "time_s": [20.0, 20.0]})
    marks.to_csv("events.csv", index=False)
    Path("bumps.toml").write_text("""
[data]
recordings = "drive*.csv"
events = "events.csv"
[windows]
signals = ["bump", "sway"]
rate_hz = 5
length_s = 2
stride_s = 1
max_gap_s = 1
[detector]
max_epochs = 3
hidden = [8]
random_state = 0
[output]
folder = "out"
[tracking]
experiment = "roads"
registered_model = "road"
""")
    assert main(["run", "bumps.toml", "--quiet"]) == 0
    result = json.loads(Path("out/metrics.json").read_text())
    found = {run.info.run_name: run for run in runs()}
    assert set(found) == {"bumps", "drive0", "drive1"}
    parent = found["bumps"]
    card = json.loads(Path("out/model/card.json").read_text())
    assert history_of(parent.info.run_id) == list(zip(card["history"]["epoch"], card["history"]["loss"], strict=True))
    assert parent.data.metrics["auroc"] == result["mean"]["auroc"]
    assert parent.data.metrics["baselines.knn.auroc"] == result["baselines"]["knn"]["mean"]["auroc"]
    assert parent.data.params["windowing.rate_hz"] == str(card["windowing"]["rate_hz"])
    files = {file.path for file in mlflow.artifacts.list_artifacts(run_id=parent.info.run_id)}
    assert {"report.html", "metrics.json", "flags.parquet", "scores.parquet"} <= files
    assert json.loads(parent.inputs.dataset_inputs[0].dataset.source)["uri"] == str(store)
    for recording in ("drive0", "drive1"):
        assert found[recording].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found[recording].data.metrics["auroc"] == result["folds"][recording]["auroc"]
        assert found[recording].info.status == "FINISHED"
    version = mlflow.MlflowClient().get_model_version_by_alias("road", "champion")
    assert version.tags["anomalyvae.model_id"] == result["model_id"]


def test_fit_with_track(store, rows, runs, capsys):
    rows.to_csv("rows.csv", index=False)
    command = ["fit", "rows.csv", "--model", "pump", "--set", "max_epochs=3", "--experiment", "pumps"]
    assert main([*command, "--register", "pump"]) == 0
    assert f"Tracked: run {runs()[0].info.run_id} in sqlite" in capsys.readouterr().out
    assert json.loads(runs()[0].inputs.dataset_inputs[0].dataset.source)["uri"] == str(store / "rows.csv")


def drift_of_ten():
    start = pd.date_range("2026-03-01", periods=10, freq="D", tz="UTC")
    evidence = np.linspace(0, 3, 10)
    found = pd.DataFrame({"recording": [f"d{i}" for i in range(10)], "start": start, "evidence": evidence})
    by = {"brief": 1.0, "lasting": 3.5, "oil temp (°C)": 0.25}
    return found, {"recordings": 10, "evidence": 3.0, "by": by, "alarm": True, "said": "Retrain."}


def test_drift_is_a_metric_with_a_step_per_recording_at_its_time(store, runs):
    found, summary = drift_of_ten()
    assert track_drift(found, summary, "abc123", experiment="fleet", run_name="march") is not None
    [run] = runs()
    assert (run.info.run_name, run.info.status) == ("march", "FINISHED")
    assert run.data.tags["anomalyvae.model_id"] == "abc123"
    assert history_of(run.info.run_id, "drift.evidence") == list(enumerate(found["evidence"]))
    first = mlflow.MlflowClient().get_metric_history(run.info.run_id, "drift.evidence")[0]
    assert pd.Timestamp(first.timestamp, unit="ms", tz="UTC") == found["start"][0]
    assert run.data.metrics | {"drift.evidence": 3.0} == {
        "drift.evidence": 3.0, "drift.alarm": 1.0, "drift.recordings": 10.0,
        "drift.by.brief": 1.0, "drift.by.lasting": 3.5, "drift.by.oil temp __C_": 0.25,
    }  # fmt: skip


def test_drift_that_no_server_takes_is_a_warning(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning, match=r"lacks everything of these scores .* Run the same command again"):
        assert track_drift(*drift_of_ten(), "abc123", uri=f"http://127.0.0.1:{free_port()}") is None
