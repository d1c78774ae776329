"""The card of a bundle: what a fitted model is, as JSON.

A bundle is a folder with ``card.json`` and the files that it lists, each with its sha256. The card has a format number,
which rises when an older version of the package can no longer read the folder. Formats from 3 on are upgraded when they
are read. Reading a card needs Python alone, so a scoring worker can do it.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

FORMAT = 4
CARD = "card.json"
ARRAYS = "model.safetensors"
GRAPH = "model.onnx"
PREPROCESSING = "preprocessing.skops"
PARTS = {ARRAYS, GRAPH, PREPROCESSING}

_REMOVED = {"batch_size", "learning_rate", "max_time", "memory_size", "patience", "warm_start"}  # of format 3
_VERSIONS = ("anomalyvae", "numpy", "onnx", "onnxruntime", "scikit-learn", "torch")


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the card of a bundle, and check the files that it lists.

    Raises
    ------
    FileNotFoundError
        If there is no bundle.
    ValueError
        If the card is damaged, of another format, or does not fit the files beside it.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a bundle: it has no {CARD}. Pass the folder of a fitted model.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        number, parts = card["format"], card["parts"]
        if not (isinstance(number, int) and isinstance(parts, dict)):
            raise TypeError("format or parts")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the card of a bundle ({error}). Save the model again.") from error
    if number not in (3, FORMAT):
        remedy = "Update anomalyvae, or save" if number > FORMAT else "Fit the model again and save"
        raise ValueError(
            f"{folder} is a bundle of format {number}, expected {FORMAT}. {remedy} it with the installed version "
            f"({version('anomalyvae')})."
        )
    if number == 3:
        card = _from_3(card)
    if not {ARRAYS} <= set(parts) <= PARTS:
        raise ValueError(
            f"{path} lists the files {sorted(parts)}, expected some of {sorted(PARTS)}: it was changed. Save the model "
            "again."
        )
    for name, digest in parts.items():
        part = Path(folder) / name
        if not part.is_file() or sha256_of(part) != digest:
            raise ValueError(f"{part} is missing or not the file that the card describes. Save the model again.")
    return card


def _from_3(card: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a card of format 3: ``criterion`` was called ``score``, and there were more parameters."""
    renamed = {
        part: {"criterion" if name == "score" else name: v for name, v in card[part].items() if name not in _REMOVED}
        for part in ("parameters", "architecture")
    }
    return {**card, **renamed}


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Write the card of a finished folder, with the checksums of its files."""
    parts = {name: sha256_of(folder / name) for name in sorted(PARTS) if (folder / name).exists()}
    text = json.dumps(card | {"parts": parts}, indent=2, allow_nan=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def describe(
    model: "VAEOutlierDetector",
    arrays: bytes,
    recipe: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    figures: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    health: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a fitted detector, without the checksums of files.

    Parameters
    ----------
    model : VAEOutlierDetector
    arrays : bytes
        The model's arrays as they are stored. They are part of ``model_id``, a hash of all that decides scores.
    recipe, units, figures, health : dict, optional
        As `anomalyvae.save` takes them.
    preprocessing : dict, optional
        As `anomalyvae.bundle.preprocessing.description` gives it.
    """
    parameters = model.get_params(deep=False)
    if not isinstance(parameters["random_state"], int):
        parameters["random_state"] = None  # the state of a generator is not part of a trained model
    columns = getattr(model, "feature_names_in_", None)
    calibration = model.calibration_
    digest = hashlib.sha256(arrays).hexdigest()
    identity = json.dumps(
        [digest, model.architecture_, model.offset_, columns is not None, recipe, model.categories_]
        + ([preprocessing] if preprocessing else []),
        default=str,
    )
    return {
        "model_id": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "format": FORMAT,
        "kind": "VAEOutlierDetector",
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _VERSIONS},
        "parameters": parameters,
        "architecture": model.architecture_,
        "n_features": model.n_features_in_,
        "columns": None if columns is None else [str(name) for name in columns],
        "units": units or {},
        "categories": model.categories_,
        "category_dtypes": model.category_dtypes_,
        "preprocessing": preprocessing,
        "windowing": recipe,
        "offset": model.offset_,
        "calibration": {"rows": len(calibration.scores), "evidence": calibration.evidence},
        "training": model.training_,
        "stop_reason": model.stop_reason_,
        "history": model.history_.to_dict(orient="list"),
        "figures": figures,
        "health": health,
    }


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that is not a bundle."""
    if folder.exists() and not (folder / CARD).exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} has other files than a bundle. Choose another folder.")


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
