"""MLflow's registry of models: a name, its versions, and the aliases ``champion`` and ``challenger``.

The champion is the version that is in use, the challenger the newest that is not. A model of the registry is scored
from its bundle: no code that lies beside it is run.
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

from anomalyvae.bundle.card import CARD, read_card
from anomalyvae.tracking.entries import MODEL_ID, send_companions
from anomalyvae.tracking.reach import attempt, import_mlflow, reaching_mlflow, reason, without_password

CHAMPION, CHALLENGER = "champion", "challenger"

_PATIENCE_S = 120.0  # for a decision of the gate, with the models that it was about
_UNTIL = "champion_until"  # tag of a version that is champion no more
_DESCRIPTION = 5000  # characters that a version's description may have


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
    _move(client, name, str(number))
    return int(number)


def _aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def roll_back(name: str) -> int:
    """Make the champion before this one the champion again; returns the number of its version.

    Raises
    ------
    LookupError
        If the name has no champion, or that one took the place of no other.
    """
    client = import_mlflow().MlflowClient()
    present = _aliases(client, name).get(CHAMPION)
    former = None if present is None else client.get_model_version(name, present).tags.get("champion_before")
    if present is None or former is None:
        raise LookupError(
            f"Got {name!r}, whose champion took the place of no other version. There is none to go back to."
        )
    _move(client, name, former)
    return int(former)


def champion_name(model: str | os.PathLike[str]) -> str | None:
    """The registered model whose champion an address means; None for a path.

    Raises
    ------
    ValueError
        If it is an address of the registry, but not ``models:/NAME@champion``: promotion moves no other alias.
    """
    text = str(model)
    if not text.startswith(("models:", "runs:")):
        return None
    name, _, alias = text.removeprefix("models:").lstrip("/").partition("@")
    if alias != CHAMPION or not name or text.startswith("runs:"):
        raise ValueError(f"Got {model} as champion, expected models:/NAME@{CHAMPION}, the alias that promotion moves.")
    return name


def record(
    name: str,
    bundle: str | os.PathLike[str],
    decision: Mapping[str, Any] | None,
    rival: str | os.PathLike[str] | None = None,
    *,
    remedy: str,
) -> bool:
    """Say in the registry what became of a bundle; a registry that does not take it costs a line and a bounded time.

    A promoted bundle becomes the ``champion`` of the name, a refused one its ``challenger``. Reasons and figures are
    the description of the version, and the outcome its tag ``gate``. What is not registered yet is logged first, as
    `anomalyvae.track` does. To record the same twice changes nothing.

    Parameters
    ----------
    name : str
        Of the registered model.
    bundle : path
        Which the decision was about, or which is to be the champion without one.
    decision : mapping, optional
        What the gate has written: ``promoted``, ``reasons``, ``champion`` (a model id) and ``decided_at``.
    rival : path, optional
        The bundle that was champion when it was decided; registered too, so that there is one to go back to.
    remedy : str
        What to do if this fails.

    Returns
    -------
    bool
        Whether all was recorded.

    Warns
    -----
    UserWarning
        If not: what, why, and the remedy.
    """
    with reaching_mlflow() as mlflow:
        work = partial(_record, name, Path(bundle), decision, None if rival is None else Path(rival))
        failure = attempt(work, _PATIENCE_S)
        if failure is not None:
            where, model = without_password(mlflow.get_tracking_uri()), read_card(bundle)["model_id"]
            role = CHAMPION if decision is None or decision["promoted"] else CHALLENGER
            warnings.warn(
                f"MLflow at {where} does not know that {model} is the {role} of {name!r} ({reason(failure)}); what is "
                f"on disk is done. {remedy}",
                stacklevel=2,
            )
        return failure is None


def _record(name: str, bundle: Path, decision: Mapping[str, Any] | None, rival: Path | None) -> None:
    client = import_mlflow().MlflowClient()
    before = None if rival is None else _registered(client, name, rival)
    number = _registered(client, name, bundle)
    promoted = decision is None or decision["promoted"]
    if not promoted and number == _aliases(client, name).get(CHAMPION):
        return  # it is no challenger of itself
    if promoted and before not in (None, number):
        client.set_model_version_tag(name, number, "champion_before", before)
    if promoted:
        _move(client, name, number)
    else:
        client.set_registered_model_alias(name, CHALLENGER, number)
    if decision is not None:
        outcome, lines = "promoted" if decision["promoted"] else "refused", "\n".join(decision["reasons"])
        text = f"{outcome.capitalize()} {decision['decided_at']}, against {decision['champion'] or 'nobody'}\n\n{lines}"
        client.set_model_version_tag(name, number, "gate", outcome)
        client.set_model_version_tag(name, number, f"{outcome}_because", decision["reasons"][0])
        client.update_model_version(name, number, description=text[:_DESCRIPTION])


def _registered(client: Any, name: str, bundle: Path) -> str:
    """The number of a bundle's version, which is made if there is none; what the loop has added to it is sent."""
    from anomalyvae.tracking.runs import track  # which in turn registers

    model_id = read_card(bundle)["model_id"]
    known = _versions(client, name, model_id)
    if not known:
        track(bundle, registered_model=name)
        known = _versions(client, name, model_id)
    if not known:
        raise LookupError(f"Got {bundle}, whose model is not of a kind that MLflow can run: it has no ONNX file.")
    newest = max(known, key=lambda version: int(version.version))
    send_companions(client, newest.source.removeprefix("models:/"), bundle)
    return str(newest.version)


def _versions(client: Any, name: str, model_id: str) -> list[Any]:
    found = client.search_model_versions(f"name = '{name}'")
    return [version for version in found if version.tags.get(MODEL_ID) == model_id]


def _move(client: Any, name: str, number: str) -> None:
    """Make a version the champion, and no challenger any more."""
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
