"""What a bundle, or the folder of a job's result, has to tell MLflow: each function sends one part of it to a run.

Everything is read from disk, so that it can be sent at any time, and sent again: what has arrived is left as it is.
"""

import json
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anomalyvae
from anomalyvae.bundle.card import CARD, GRAPH, read_card

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_ID = "anomalyvae.model_id"  # the tag by which runs, models and versions name their bundle
PARENT = "mlflow.parentRunId"

_PARAMETERS, _METRICS = 100, 1000  # that MLflow takes at once
_DIGEST = 36  # characters that it keeps of a data set's fingerprint
_EXAMPLE_ROWS = 3
_COMPANIONS = ("manifest.json", "gate.json", "holdout.json")  # what the review loop keeps beside a model
# What scoring takes of us.
_WORKER = (
    "__init__.py", "bundle/__init__.py", "bundle/card.py", "scoring/__init__.py", "scoring/columns.py",
    "scoring/scorer.py",
)  # fmt: skip

Record = Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """A folder to be tracked: a bundle, or what a job has written.

    Parameters
    ----------
    folder, bundle : Path
        The same, if it is a bundle.
    card : dict
    source : str or None
        Where the rows came from.
    """

    folder: Path
    bundle: Path
    card: dict[str, Any]
    source: str | None = None

    @classmethod
    def read(cls, folder: Path, source: str | None = None) -> "Result":
        """Read and check a folder.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no bundle in it, or if it is damaged.
        """
        bundle = folder / "model" if (folder / "model" / CARD).is_file() else folder
        return cls(folder, bundle, read_card(bundle), source)

    @property
    def is_job(self) -> bool:
        """Whether there is more than a bundle."""
        return self.folder != self.bundle

    @property
    def folds(self) -> dict[str, Path]:
        """The bundles that a job has scored with, by the recording that each left out."""
        return {card.parent.name: card.parent for card in sorted(self.folder.glob(f"folds/*/{CARD}")) if self.is_job}

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every number that was measured, by its name."""
        card, found = self.card, {"threshold": -self.card["offset"], "training.rows": self.card["training"]["rows"]}
        found |= _flat(card["calibration"], "calibration.") | _flat(card["figures"] or {})
        if self.is_job:
            metrics = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
            found |= _flat({name: entry["mean"] for name, entry in metrics["baselines"].items()}, "baselines.")
            found["seconds"] = metrics["seconds"]
        return found

    @property
    def history(self) -> list[dict[str, float]]:
        """The record of each epoch."""
        columns = self.card["history"]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    @property
    def saved_ms(self) -> int:
        """When the bundle was written: the time stamp of what it tells, so that telling it twice changes nothing."""
        return int(datetime.fromisoformat(self.card["saved_at"]).timestamp() * 1000)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dicts, by their path."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[re.sub(r"[^\w.\- /]", "_", f"{prefix}{name}")] = float(value)
    return found


# --- what was asked for and what came of it ---------------------------------------------------------------


def send_values(client: "MlflowClient", run_id: str, result: Result) -> None:
    """Parameters, figures and versions."""
    from mlflow.entities import Metric, Param, RunTag

    card = result.card
    asked = card["parameters"] | {f"windowing.{name}": value for name, value in (card["windowing"] or {}).items()}
    if card["preprocessing"] is not None:
        asked["preprocessing"] = ", ".join(card["preprocessing"]["steps"])
    versions = card["versions"] | {"mlflow": version("mlflow"), "python": platform.python_version()}
    tags = {f"version.{name}": text for name, text in versions.items()} | {
        MODEL_ID: card["model_id"],
        "stop_reason": card["stop_reason"],
        "training.sha256": card["training"]["sha256"],
    }
    parameters = [Param(name, str(value)) for name, value in asked.items()]
    for few in _few(parameters, _PARAMETERS):
        client.log_batch(run_id, params=few, synchronous=True)
    metrics = [Metric(name, value, result.saved_ms, 0) for name, value in result.figures.items()]
    client.log_batch(
        run_id, metrics=metrics, tags=[RunTag(name, text) for name, text in tags.items()], synchronous=True
    )


def send_losses(client: "MlflowClient", run_id: str, records: list[Any], began_ms: float, prefix: str = "") -> None:
    """The losses of epochs, each at the time at which it came.

    Parameters
    ----------
    client : MlflowClient
    run_id : str
    records : list of dict
        As in ``history_``: ``epoch``, ``seconds`` since training began, and the losses.
    began_ms : float
        When that was, in milliseconds since 1970.
    prefix : str
        Before the names of the losses.
    """
    from mlflow.entities import Metric

    metrics = [
        Metric(prefix + name, value, int(began_ms + 1000 * record["seconds"]), int(record["epoch"]))
        for record in records
        for name, value in record.items()
        if name not in ("epoch", "seconds")
    ]
    for few in _few(metrics, _METRICS):
        client.log_batch(run_id, metrics=few, synchronous=True)


def send_missing_losses(
    client: "MlflowClient", run_id: str, result: Result, began_ms: float | None = None, prefix: str = ""
) -> None:
    """The losses that a run has not got yet."""
    history = result.history
    arrived = {metric.step for metric in client.get_metric_history(run_id, f"{prefix}loss")}
    missing = [record for record in history if record["epoch"] not in arrived]
    if missing:
        began = result.saved_ms - 1000 * history[-1]["seconds"] if began_ms is None else began_ms
        send_losses(client, run_id, missing, began, prefix)


def _few(things: list[Any], count: int) -> Iterator[list[Any]]:
    return (things[i : i + count] for i in range(0, len(things), count))


# --- the rows, the files and the folds --------------------------------------------------------------------


def send_dataset(client: "MlflowClient", run_id: str, result: Result) -> None:
    """What was learned from: its source, its fingerprint and its columns; no row of it."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Dataset, DatasetInput, InputTag

    run = client.get_run(run_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow finds two names for a local file, which mean the same
        source = CodeDatasetSource(run.data.tags) if result.source is None else resolve_dataset_source(result.source)
    digest = result.card["training"]["sha256"][:_DIGEST]
    if any(known.dataset.digest == digest for known in (run.inputs.dataset_inputs if run.inputs else ())):
        return
    schema = _signature(result).inputs if GRAPH in result.card["parts"] else None
    described = MetaDataset(source, name="training", digest=digest, schema=schema).to_dict()  # type: ignore[abstract]
    described["profile"] = json.dumps({"num_rows": result.card["training"]["rows"]})
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(Dataset(**described), [context])])


def send_files(client: "MlflowClient", run_id: str, result: Result) -> None:
    """The report, scores, flags and figures of a job."""
    for file in sorted(path for path in result.folder.iterdir() if result.is_job and path.is_file()):
        client.log_artifact(run_id, str(file))


def send_folds(client: "MlflowClient", run_id: str, result: Result) -> None:
    """A child run for each recording that a job has left out: how its model learned, and how it did."""
    if not result.folds:
        return
    experiment = client.get_run(run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=10_000)
    known = {child.info.run_name: child for child in children}
    for name, bundle in result.folds.items():
        child = known.get(name) or client.create_run(experiment, tags={PARENT: run_id}, run_name=name)
        if child.info.status != "FINISHED":
            fold = Result.read(bundle)
            send_values(client, child.info.run_id, fold)
            send_missing_losses(client, child.info.run_id, fold)
            client.set_terminated(child.info.run_id)


# --- the model --------------------------------------------------------------------------------------------


def send_model(client: "MlflowClient", run_id: str, result: Result) -> str | None:
    """The bundle as a model that MLflow can run; returns its identity there, None if the bundle has no ONNX file."""
    from mlflow.entities import LoggedModelOutput, Metric

    if GRAPH not in result.card["parts"]:
        return None
    run = client.get_run(run_id)
    for output in run.outputs.model_outputs if run.outputs else ():
        known = client.get_logged_model(output.model_id)
        if known.tags.get(MODEL_ID) == result.card["model_id"] and known.status == "READY":
            return str(known.model_id)
    with tempfile.TemporaryDirectory() as scratch:
        model = client.create_logged_model(
            run.info.experiment_id,
            name="model",
            source_run_id=run_id,
            tags={MODEL_ID: result.card["model_id"]},
            params=run.data.params,
            model_type="outlier detector",
        )
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        _write_model(result, Path(scratch), run_id, model)
        client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
    measured = [
        Metric(name, value, result.saved_ms, 0, model_id=model.model_id, run_id=run_id)
        for name, value in result.figures.items()
    ]
    client.log_batch(run_id, metrics=measured, synchronous=True)
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _write_model(result: Result, scratch: Path, run_id: str, model: Any) -> None:
    """Write MLflow's folder of a model: the bundle, the files that score it, and what they need."""
    import mlflow

    from anomalyvae.tracking import pyfunc_model

    bundle, package = scratch / pyfunc_model.BUNDLE, scratch / pyfunc_model.PACKAGE
    for file in (CARD, *result.card["parts"], *_companions(result.bundle)):  # whatever else lies there stays there
        _copy(result.bundle / file, bundle / file)
    for file in _WORKER:
        _copy(Path(anomalyvae.__file__).parent / file, package / "anomalyvae" / file)
    mlflow.pyfunc.save_model(
        scratch / "model",
        python_model=pyfunc_model.__file__,
        artifacts={path.name: str(path) for path in (bundle, package)},
        signature=_signature(result),
        input_example=_example(result),
        pip_requirements=[f"{name}=={version(name)}" for name in pyfunc_model.NEEDED],
        metadata={"model_id": result.card["model_id"], "windowing": result.card["windowing"]},
        mlflow_model=mlflow.models.Model(
            artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
        ),
    )


def send_companions(client: "MlflowClient", logged_model: str, bundle: Path) -> None:
    """What the review loop has put beside a model since it was logged: the gate's decision, and its hold-out."""
    from anomalyvae.tracking import pyfunc_model

    with tempfile.TemporaryDirectory() as scratch:
        for file in _companions(bundle):
            _copy(bundle / file, Path(scratch, "artifacts", pyfunc_model.BUNDLE, file))
        client.log_model_artifacts(logged_model, scratch)


def _companions(bundle: Path) -> list[str]:
    return [name for name in _COMPANIONS if (bundle / name).is_file()]


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def _signature(result: Result) -> "ModelSignature":
    """The columns that go in and come out, with their types."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from anomalyvae.scoring.scorer import Scorer

    known = Scorer(result.bundle, providers=["CPUExecutionProvider"]).metadata
    types = {"text": "string", "bool": "boolean"}
    if known["columns"] is None:
        inputs = Schema([TensorSpec(np.dtype(np.float64), (-1, known["n_features"]))])
    else:
        inputs = Schema([ColSpec(types.get(known["kinds"].get(name, ""), "double"), name) for name in known["columns"]])
    scores = {"anomaly_score": "double", "p_value": "double", "is_outlier": "boolean", "model_id": "string"}
    return ModelSignature(inputs, Schema([ColSpec(kind, name) for name, kind in scores.items()]))


def _example(result: Result) -> Any:
    """Some rows such as the model expects, drawn from it, so that no row of training leaves the house."""
    import numpy as np
    import pandas as pd

    from anomalyvae.bundle import preprocessing
    from anomalyvae.export.check_rows import check_rows
    from anomalyvae.export.pipelines import inputs_of
    from anomalyvae.models import load

    before, detector = preprocessing.split(load(result.bundle))
    try:
        rows = check_rows(before, detector, inputs_of(before, detector)).rows
    except (TypeError, ValueError):  # a pipeline for which no rows can be made up
        return None
    whole = rows[~np.asarray(pd.isna(rows)).any(axis=1)][-_EXAMPLE_ROWS:]
    if not len(whole):
        return None
    return whole.reset_index(drop=True) if isinstance(whole, pd.DataFrame) else whole
