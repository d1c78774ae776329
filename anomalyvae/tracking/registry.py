"""MLflow's registry of models: a name, its versions, and the aliases ``champion`` and ``challenger``.

The champion is the version in use, the challenger the newest that is not. A registered model is scored from its bundle;
none of the code beside it is run.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from anomalyvae.bundle import read_card
from anomalyvae.bundle.card import CARD
from anomalyvae.tracking import server
from anomalyvae.tracking.entries import CHALLENGER, CHAMPION, MODEL_ID, send_companions
from anomalyvae.tracking.runs import track
from anomalyvae.tracking.server import import_mlflow, mlflow_session

_TIMEOUT_S = 120.0  # to record a decision, with its models
_BEFORE, _UNTIL = "champion_before", "champion_until"  # tags of a champion, and of a former one
_DESCRIPTION = 5000  # characters of a version's description


def roll_back(name: str) -> int:
    """Make the previous champion the champion again; return the number of its version.

    Raises LookupError if there is no earlier champion.
    """
    client = import_mlflow().MlflowClient()
    present = _aliases(client, name).get(CHAMPION)
    former = None if present is None else client.get_model_version(name, present).tags.get(_BEFORE)
    if former is None:
        raise LookupError(f"The registered model {name!r} has no earlier champion to roll back to.")
    _make_champion(client, name, former)
    return int(former)


def champion_name(model: str | os.PathLike[str]) -> str | None:
    """The registered name in an address ``models:/NAME@champion``; None for a path.

    Raises ValueError for any other address of MLflow: promotion moves no other alias.
    """
    text = str(model)
    if not text.startswith(("models:", "runs:")):
        return None
    name, _, alias = text.removeprefix("models:").lstrip("/").partition("@")
    if alias != CHAMPION or not name or text.startswith("runs:"):
        raise ValueError(
            f"Got {model} as champion, expected models:/NAME@{CHAMPION}: promotion moves that alias. Pass such a name."
        )
    return name


def record(
    name: str,
    bundle: str | os.PathLike[str],
    decision: Mapping[str, Any] | None,
    rival: str | os.PathLike[str] | None = None,
    *,
    remedy: str,
) -> bool:
    """Record in the registry what the gate decided about a bundle; return whether all was recorded.

    A promoted bundle becomes the ``champion`` of the name, a refused one its ``challenger``; without a decision, it is
    the new champion. Reasons and figures become the description of the version, and the outcome its tag ``gate``. A
    bundle that is not registered yet is tracked first, and so is its ``rival``, the previous champion, so that it can
    be rolled back to. Recording twice changes nothing.

    A failing registry costs a bounded time and a warning, which ends with the ``remedy``.
    """
    with mlflow_session():
        work = partial(_record, name, Path(bundle), decision, None if rival is None else Path(rival))
        failure = server.run_with_timeout(work, _TIMEOUT_S)
        if failure is not None:
            where, model = server.where(), read_card(bundle)["model_id"]
            role = CHAMPION if decision is None or decision["promoted"] else CHALLENGER
            warnings.warn(
                f"MLflow at {where} did not record {model} as the {role} of {name!r} ({server.reason(failure)}). The "
                f"folders on disk are up to date. {remedy}",
                stacklevel=2,
            )
        return failure is None


def _record(name: str, bundle: Path, decision: Mapping[str, Any] | None, rival: Path | None) -> None:
    client = import_mlflow().MlflowClient()
    before = None if rival is None else _registered(client, name, rival)
    number = _registered(client, name, bundle)
    if decision is None or decision["promoted"]:
        if before not in (None, number):
            client.set_model_version_tag(name, number, _BEFORE, before)
        _make_champion(client, name, number)
    elif number == _aliases(client, name).get(CHAMPION):
        return  # a model is no challenger of itself
    else:
        client.set_registered_model_alias(name, CHALLENGER, number)
    if decision is not None:
        outcome, lines = "promoted" if decision["promoted"] else "refused", "\n".join(decision["reasons"])
        rival_id = decision["champion"] or "no champion"
        text = f"{outcome.capitalize()} {decision['decided_at']}, against {rival_id}\n\n{lines}"
        client.set_model_version_tag(name, number, "gate", outcome)
        client.set_model_version_tag(name, number, f"{outcome}_because", decision["reasons"][0])
        client.update_model_version(name, number, description=text[:_DESCRIPTION])


def _registered(client: Any, name: str, bundle: Path) -> str:
    """The number of a bundle's version, tracked first if need be, with the present files of the review loop."""
    model_id = read_card(bundle)["model_id"]

    def versions() -> list[Any]:
        found = client.search_model_versions(f"name = '{name}'")
        return [version for version in found if version.tags.get(MODEL_ID) == model_id]

    known = versions()
    if not known:
        track(bundle, registered_model=name)
        known = versions()
    if not known:
        raise LookupError(f"{bundle} has no ONNX file, so MLflow cannot run its model. Save the model with one.")
    newest = max(known, key=lambda version: int(version.version))
    send_companions(client, newest.source.removeprefix("models:/"), bundle)
    return str(newest.version)


def _aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _make_champion(client: Any, name: str, number: str) -> None:
    """Move the alias; tag the former champion with the time."""
    aliases = _aliases(client, name)
    present = aliases.get(CHAMPION)
    if present == number:
        return
    client.set_registered_model_alias(name, CHAMPION, number)
    if aliases.get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
    if _UNTIL in client.get_model_version(name, number).tags:
        client.delete_model_version_tag(name, number, _UNTIL)
    if present is not None:
        client.set_model_version_tag(name, present, _UNTIL, datetime.now(UTC).isoformat(timespec="seconds"))


@contextmanager
def fetched(model: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a model: itself, or a copy of the bundle behind an address of MLflow, deleted after the block.

    Addresses are ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` and ``runs:/RUN/model``.

    Raises FileNotFoundError if MLflow has no such model, does not answer, or has a model of another kind.
    """
    if not str(model).startswith(("models:", "runs:")):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="anomalyvae-") as scratch, mlflow_session() as mlflow:
        try:
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=str(model), dst_path=scratch))
        except Exception as error:
            raise FileNotFoundError(
                f"MLflow at {server.where()} has no model {model}: {error} Set MLFLOW_TRACKING_URI, or check the name."
            ) from error
        bundle = local / "artifacts" / "bundle"
        if not (bundle / CARD).is_file():
            raise FileNotFoundError(
                f"{model} was not logged by anomalyvae: it holds no bundle. Log one with: anomalyvae track FOLDER."
            )
        yield bundle
