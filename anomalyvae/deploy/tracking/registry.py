"""MLflow's registry of models: a name, its versions, and the aliases ``champion`` and ``challenger``.

The champion is the version that is in use, the challenger the newest that is not. A model of the registry is scored
from its bundle: no code that lies beside it is run.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyvae.deploy.card import CARD
from anomalyvae.deploy.tracking.entries import MODEL_ID
from anomalyvae.deploy.tracking.reach import import_mlflow, reaching_mlflow

CHAMPION, CHALLENGER = "champion", "challenger"


def register(logged_model: str, name: str, model_id: str) -> int:
    """Make a logged model a version of a registered one, unless it is; returns the number of the version.

    The first version of a name becomes its champion, each later one its challenger.

    Parameters
    ----------
    logged_model : str
        MLflow's identity of the model.
    name : str
    model_id : str
        The identity of its bundle.
    """
    mlflow = import_mlflow()
    client = mlflow.MlflowClient()
    source = f"models:/{logged_model}"
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source or version.model_id == logged_model:
            return int(version.version)
    made = mlflow.register_model(source, name, await_registration_for=None, tags={MODEL_ID: model_id})
    aliases = client.get_registered_model(name).aliases
    client.set_registered_model_alias(name, CHALLENGER if CHAMPION in aliases else CHAMPION, made.version)
    return int(made.version)


def promote(name: str, version: int | str = CHALLENGER, *, reason: str) -> int:
    """Make a version the champion of its name; returns its number.

    Parameters
    ----------
    name : str
        Of the registered model.
    version : int or str, default="challenger"
        A number, or an alias.
    reason : str
        Why; it is kept with the version, beside the number of the champion before it.

    Raises
    ------
    LookupError
        If there is no such version.
    """
    mlflow = import_mlflow()
    client = mlflow.MlflowClient()
    aliases = _aliases(client, name)
    number = aliases.get(version, version) if isinstance(version, str) else version
    try:
        client.get_model_version(name, str(number))
    except mlflow.MlflowException as error:
        raise LookupError(
            f"Got version {version!r} of {name!r}, expected a number or one of the aliases {sorted(aliases)}. "
            "Register the model first."
        ) from error
    client.set_model_version_tag(name, str(number), "promoted_because", reason)
    if CHAMPION in aliases:
        client.set_model_version_tag(name, str(number), "champion_before", aliases[CHAMPION])
    client.set_registered_model_alias(name, CHAMPION, str(number))
    if aliases.get(CHALLENGER) == str(number):
        client.delete_registered_model_alias(name, CHALLENGER)
    return int(number)


def _aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


@contextmanager
def fetched(model: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a model: itself, or for ``models:/NAME@champion`` and its like a copy of that bundle.

    Parameters
    ----------
    model : path or str
        A path, or what MLflow takes: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/RUN/model``.

    Yields
    ------
    Path
        Of the bundle, or of the ONNX file; a copy is there for as long as the block runs.

    Raises
    ------
    FileNotFoundError
        If MLflow has no such model, does not answer, or has a model of another kind.
    """
    if not str(model).startswith(("models:", "runs:")):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="anomalyvae-") as scratch, reaching_mlflow() as mlflow:
        try:
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=str(model), dst_path=scratch))
        except Exception as error:
            where = mlflow.get_tracking_uri()
            raise FileNotFoundError(
                f"Got {model}, expected a model that MLflow has at {where}: {error} Set MLFLOW_TRACKING_URI, or check "
                "the name."
            ) from error
        bundle = local / "artifacts" / "bundle"
        if not (bundle / CARD).is_file():
            raise FileNotFoundError(
                f"Got {model}, which holds no bundle, expected a model that anomalyvae has logged. Track it by "
                "anomalyvae track FOLDER."
            )
        yield bundle
