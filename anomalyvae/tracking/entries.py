"""What a run of MLflow gets from a bundle, or from the folder of a job: each function sends one part.

Everything is read from disk, so it can be sent at any time. Sending twice changes nothing.
"""

import json
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.bundle import read_card
from anomalyvae.bundle.card import CARD, GRAPH
from anomalyvae.calibration import caution_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_ID = "anomalyvae.model_id"  # tag of runs, models and versions
PARENT = "mlflow.parentRunId"
CHAMPION, CHALLENGER = "champion", "challenger"  # aliases of registered versions

_DIGEST = 36  # characters of a fingerprint that MLflow keeps
_COMPANIONS = ("manifest.json", "gate.json", "holdout.json")  # files of the review loop beside a model
# Folders of the package that scoring needs; it needs all modules beside them, too.
_WORKER = ("scoring", "bundle", "tables")


@dataclass(frozen=True)
class Result:
    """A folder to track: a bundle, or the output of a job."""

    folder: Path
    bundle: Path  # the folder itself, if it is a bundle
    card: dict[str, Any]
    source: str | None = None  # where the rows came from

    @classmethod
    def read(cls, folder: Path, source: str | None = None) -> "Result":
        """Read and check a folder; FileNotFoundError or ValueError if it has no bundle, or a damaged one."""
        bundle = folder / "model" if (folder / "model" / CARD).is_file() else folder
        return cls(folder, bundle, read_card(bundle), source)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its run, model and version: the model's id, and what its p-values cannot show."""
        caution = caution_of(self.card)
        return {MODEL_ID: self.card["model_id"]} | ({} if caution is None else {"caution": caution})

    @property
    def is_job(self) -> bool:
        """Whether the folder is the output of a job."""
        return self.folder != self.bundle

    @cached_property
    def figures(self) -> dict[str, float]:
        """All measured numbers, by name."""
        card = self.card
        found = {"threshold": -card["offset"], "training.rows": card["training"]["rows"]}
        found |= flat(card["calibration"], "calibration.") | flat(card["figures"] or {})
        if self.is_job:
            metrics = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
            found |= flat({name: entry["mean"] for name, entry in metrics["baselines"].items()}, "baselines.")
            found["seconds"] = metrics["seconds"]
            found |= flat(drift_figures(metrics.get("drift") or {}), "drift.")
        return found

    @property
    def history(self) -> list[dict[str, float]]:
        """The record of each epoch."""
        columns = self.card["history"]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    @property
    def saved_ms(self) -> int:
        """When the bundle was written: the time stamp of its figures, the same each time they are sent."""
        return int(datetime.fromisoformat(self.card["saved_at"]).timestamp() * 1000)


def drift_figures(drift: Mapping[str, Any]) -> dict[str, Any]:
    """What `anomalyvae.scoring.drift.summary_of` gave as numbers; nothing if nothing was said."""
    figures = {name: float(drift[name]) for name in ("recordings", "evidence", "alarm") if name in drift}
    return figures | {"by": drift.get("by", {})}


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dicts, by their path."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[re.sub(r"[^\w.\- /]", "_", f"{prefix}{name}")] = float(value)
    return found


# --- parameters, metrics, data set, files -----------------------------------------------------------------


def send_values(
    client: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    at_ms: int | None = None,
) -> None:
    """Send parameters, metrics and tags by name."""
    from mlflow.entities import Metric, Param, RunTag

    stamp = int(1000 * time.time()) if at_ms is None else at_ms
    client.log_batch(
        run_id,
        params=[Param(name, str(value)) for name, value in (params or {}).items()],
        metrics=[Metric(name, float(value), stamp, 0) for name, value in (metrics or {}).items()],
        tags=[RunTag(name, text) for name, text in (tags or {}).items()],
        synchronous=True,
    )


def send_card(client: "MlflowClient", run_id: str, result: Result) -> None:
    """Settings, figures and versions."""
    card = result.card
    params = card["parameters"] | {f"windowing.{name}": value for name, value in (card["windowing"] or {}).items()}
    if card["preprocessing"] is not None:
        params["preprocessing"] = ", ".join(card["preprocessing"]["steps"])
    versions = card["versions"] | {"mlflow": version("mlflow"), "python": platform.python_version()}
    tags = {f"version.{name}": text for name, text in versions.items()} | result.tags
    tags |= {"stop_reason": card["stop_reason"], "training.sha256": card["training"]["sha256"]}
    send_values(client, run_id, params=params, metrics=result.figures, tags=tags, at_ms=result.saved_ms)


def send_losses(client: "MlflowClient", run_id: str, records: list[dict[str, float]], start_ms: float) -> None:
    """Send the losses of epochs, as in ``history_``, with their time stamps.

    ``start_ms`` is the start of training, in milliseconds since 1970.
    """
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(start_ms + 1000 * record["seconds"]), int(record["epoch"]))
        for record in records
        for name, value in record.items()
        if name not in ("epoch", "seconds")
    ]
    client.log_batch(run_id, metrics=metrics, synchronous=True)


def send_missing_losses(client: "MlflowClient", run_id: str, result: Result) -> None:
    """Send the losses that the run does not have yet."""
    history = result.history
    sent = {(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")}
    missing = [record for record in history if (record["epoch"], record["loss"]) not in sent]
    if missing:
        send_losses(client, run_id, missing, result.saved_ms - 1000 * history[-1]["seconds"])


def send_dataset(client: "MlflowClient", run_id: str, result: Result) -> None:
    """Describe the training rows: source, fingerprint and columns; none of the rows."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Dataset, DatasetInput, InputTag

    run = client.get_run(run_id)
    digest = result.card["training"]["sha256"][:_DIGEST]
    if any(known.dataset.digest == digest for known in (run.inputs.dataset_inputs if run.inputs else ())):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow has two names for a local file, which mean the same
        source = CodeDatasetSource(run.data.tags) if result.source is None else resolve_dataset_source(result.source)
    schema = _signature(result).inputs if GRAPH in result.card["parts"] else None
    described = MetaDataset(source, name="training", digest=digest, schema=schema).to_dict()  # type: ignore[abstract]
    described["profile"] = json.dumps({"num_rows": result.card["training"]["rows"]})
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(Dataset(**described), [context])])


def send_files(client: "MlflowClient", run_id: str, result: Result) -> None:
    """Report, scores, flags and metrics of a job."""
    for file in sorted(path for path in result.folder.iterdir() if path.is_file()):
        client.log_artifact(run_id, str(file))


def send_folds(client: "MlflowClient", run_id: str, result: Result) -> None:
    """A child run per recording that a job has left out."""
    experiment = client.get_run(run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=10_000)
    known = {child.info.run_name: child for child in children}
    for card in sorted(result.folder.glob(f"folds/*/{CARD}")):
        name, fold = card.parent.name, Result.read(card.parent)
        child = known.get(name) or client.create_run(experiment, tags={PARENT: run_id}, run_name=name)
        if child.info.status != "FINISHED":
            send_card(client, child.info.run_id, fold)
            send_missing_losses(client, child.info.run_id, fold)
            client.set_terminated(child.info.run_id)


# --- the model --------------------------------------------------------------------------------------------


def send_model(client: "MlflowClient", run_id: str, result: Result) -> str | None:
    """Log the bundle as a model that MLflow can run; returns MLflow's id of it, None for a bundle without ONNX file."""
    from mlflow.entities import LoggedModelOutput, Metric

    if GRAPH not in result.card["parts"]:
        return None
    run = client.get_run(run_id)
    for output in run.outputs.model_outputs if run.outputs else ():
        known = client.get_logged_model(output.model_id)
        if known.tags.get(MODEL_ID) == result.card["model_id"] and known.status == "READY":
            return str(known.model_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        name="model",
        source_run_id=run_id,
        tags=result.tags,
        params=run.data.params,
        model_type="outlier detector",
    )
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory() as scratch:
        _write_model(result, Path(scratch), run_id, model)
        client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
    at: dict[str, Any] = {"timestamp": result.saved_ms, "step": 0, "model_id": model.model_id, "run_id": run_id}
    metrics = [Metric(name, value, **at) for name, value in result.figures.items()]
    client.log_batch(run_id, metrics=metrics, synchronous=True)
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def send_version(client: "MlflowClient", run_id: str, result: Result, name: str) -> None:
    """Register the model under a name; the first version becomes the champion, each later one the challenger."""
    import mlflow

    model = send_model(client, run_id, result)
    source, known = f"models:/{model}", client.search_model_versions(f"name = '{name}'")
    if model is None or any(version.source == source or version.model_id == model for version in known):
        return
    made = mlflow.register_model(source, name, await_registration_for=None, tags=result.tags)
    alias = CHALLENGER if CHAMPION in client.get_registered_model(name).aliases else CHAMPION
    client.set_registered_model_alias(name, alias, made.version)


def send_companions(client: "MlflowClient", logged_model: str, bundle: Path) -> None:
    """Send the files that the review loop has put beside a model since it was logged."""
    from anomalyvae.tracking import pyfunc_model

    with tempfile.TemporaryDirectory() as scratch:
        _copy_files(bundle, _companions(bundle), Path(scratch, "artifacts", pyfunc_model.BUNDLE))
        client.log_model_artifacts(logged_model, scratch)


def _write_model(result: Result, scratch: Path, run_id: str, model: Any) -> None:
    """Write MLflow's folder of a model: the bundle, the code that scores it, and its requirements."""
    import mlflow

    from anomalyvae.tracking import pyfunc_model

    bundle, package = scratch / pyfunc_model.BUNDLE, scratch / pyfunc_model.PACKAGE
    _copy_files(result.bundle, [CARD, *result.card["parts"], *_companions(result.bundle)], bundle)
    ours = Path(str(files("anomalyvae")))
    _copy_files(ours, [path.name for path in ours.glob("*.py")], package / "anomalyvae")
    for name in _WORKER:
        shutil.copytree(ours / name, package / "anomalyvae" / name, ignore=shutil.ignore_patterns("__pycache__"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that an input example is missing; the signature describes it
        mlflow.pyfunc.save_model(
            scratch / "model",
            python_model=pyfunc_model.__file__,
            artifacts={path.name: str(path) for path in (bundle, package)},
            signature=_signature(result),
            pip_requirements=[f"{name}=={version(name)}" for name in pyfunc_model.NEEDED],
            metadata={"model_id": result.card["model_id"], "windowing": result.card["windowing"]},
            mlflow_model=mlflow.models.Model(
                artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
            ),
        )


def _companions(bundle: Path) -> list[str]:
    return [name for name in _COMPANIONS if (bundle / name).is_file()]


def _copy_files(folder: Path, names: list[str], to: Path) -> None:
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)


def _signature(result: Result) -> "ModelSignature":
    """The columns of input and output, with their types."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    from anomalyvae.scoring import Scorer

    known = Scorer(result.bundle, providers=["CPUExecutionProvider"]).metadata
    # JSON's null in a boolean column would become False, and in an integer column an error.
    types: dict[str, Any] = {"text": "string", "bool": AnyType()}
    if known["columns"] is None:
        inputs = Schema([TensorSpec(np.dtype(np.float64), (-1, known["n_features"]))])
    else:
        inputs = Schema([ColSpec(types.get(known["kinds"].get(name, ""), "double"), name) for name in known["columns"]])
    scores = {"anomaly_score": "double", "p_value": "double", "is_outlier": "boolean", "model_id": "string"}
    return ModelSignature(inputs, Schema([ColSpec(kind, name) for name, kind in scores.items()]))
