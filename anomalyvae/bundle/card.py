"""The card of a bundle: what a fitted model is, as JSON.

A bundle is a folder with ``card.json`` and the files that it lists, each with its sha256. The card has a format number,
which rises when an older version of the package can no longer read the folder. Formats from 3 on are upgraded when they
are read. Reading a card needs Python alone, so a scoring worker can do it.

``model_id`` and ``digest`` bind the card to the files: both are computed again when a bundle is read. They reveal
damage and edits. They are no signature: who writes a bundle can compute them, too.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from anomalyvae.folders import read_whole, refuse_unwritable
from anomalyvae.untrusted import read_json

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

FORMAT = 4
CARD = "card.json"
ARRAYS = "model.safetensors"
GRAPH = "model.onnx"
PREPROCESSING = "preprocessing.skops"
PARTS = {ARRAYS, GRAPH, PREPROCESSING}

# The keys that are read, and their types. Format 3 and early cards of format 4 lack others.
_KEYS: dict[str, tuple[type, ...]] = {
    "model_id": (str,),
    "parameters": (dict,),
    "architecture": (dict,),
    "n_features": (int,),
    "columns": (list, NoneType),
    "units": (dict,),
    "categories": (dict,),
    "category_dtypes": (dict,),
    "preprocessing": (dict, NoneType),
    "windowing": (dict, NoneType),
    "offset": (float, int),
    "calibration": (dict,),
    "training": (dict,),
    "stop_reason": (str,),
    "history": (dict,),
    "figures": (dict, NoneType),
    "health": (dict, NoneType),
}
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
    return read_bundle(folder)[0]


def read_bundle(folder: str | os.PathLike[str], *names: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read the card of a bundle, and the content of some of its files, all of one model; errors as for `read_card`."""
    return read_whole(Path(folder), lambda path: _read(path, names))


def _read(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, bytes]]:
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a bundle: it has no {CARD}. Pass the folder of a fitted model.")
    try:
        card = read_json(path.read_bytes())
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
    if not {ARRAYS} <= set(parts) <= PARTS:
        raise ValueError(
            f"{path} lists the files {sorted(parts)}, expected some of {sorted(PARTS)}: it was changed. Save the model "
            "again."
        )
    content = {}
    for name, digest in parts.items():
        part = folder / name
        if name in names and part.is_file():
            content[name] = part.read_bytes()
            found = hashlib.sha256(content[name]).hexdigest()
        else:
            found = sha256_of(part) if part.is_file() else ""
        if found != digest:
            raise ValueError(f"{part} is missing or not the file that the card describes. Save the model again.")
    wrong = _difference(card)
    if wrong:
        raise inconsistent(folder, wrong)
    return (_from_3(card) if number == 3 else card), content


def _difference(card: dict[str, Any]) -> str | None:
    """What in a card was changed after it was written, or cannot have been written; None if nothing."""
    for name, kinds in _KEYS.items():
        if type(card.get(name, ...)) not in kinds:
            return f"{name!r} is missing or of another type"
    if card.get("fleet") is not None:
        from anomalyvae.fleet import Fleet

        try:
            Fleet.from_dict(card["fleet"])
        except ValueError as error:
            return str(error)
    if not all(isinstance(unit, str) for unit in card["units"].values()):
        return "a unit is not text"
    if card.get("digest", _digest(card)) != _digest(card):
        return "the card was changed"
    if card["model_id"] != model_id_of(card, card["parts"][ARRAYS]):
        return "model_id is of another model"
    return None


def inconsistent(folder: str | os.PathLike[str], why: str) -> ValueError:
    """The error for a bundle whose card and other files contradict each other, or themselves."""
    return ValueError(
        f"The bundle {folder} is inconsistent: its card and arrays do not fit together ({why}). Save it again."
    )


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
    card = card | {"parts": parts}
    text = json.dumps(card | {"digest": _digest(card)}, indent=2, allow_nan=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def _digest(card: dict[str, Any]) -> str:
    """The sha256 of all other keys of a card, so that an edited card is noticed."""
    rest = {name: value for name, value in card.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def model_id_of(card: dict[str, Any], digest: str) -> str:
    """The ``model_id`` of a card: a hash of the arrays' sha256 and of all else that decides scores."""
    parts = [digest, card["architecture"], card["offset"], card["columns"] is not None, card["windowing"]]
    parts += [card["categories"], *filter(None, [card.get("preprocessing")])]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]


def describe(
    model: "VAEOutlierDetector",
    arrays: bytes,
    recipe: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    figures: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    health: dict[str, Any] | None = None,
    fleet: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a fitted detector, without the checksums of files.

    ``arrays`` are the model's, as they are stored: they are part of ``model_id``, a hash of all that decides scores.
    ``preprocessing`` is of `anomalyvae.bundle.preprocessing.description`, the others are those of `anomalyvae.save`.
    """
    parameters = model.get_params(deep=False)
    if not isinstance(parameters["random_state"], int):
        parameters["random_state"] = None  # the state of a generator is not part of a trained model
    columns = getattr(model, "feature_names_in_", None)
    calibration = model.calibration_
    card = {
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
        "fleet": fleet,
    }
    return {"model_id": model_id_of(card, hashlib.sha256(arrays).hexdigest()), **card}


def refuse_foreign(folder: Path) -> None:
    """Refuse, before any work, to replace a folder that is not a bundle, or where nothing can be written."""
    refuse_unwritable(folder)
    if folder.exists() and not (folder / CARD).exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} has other files than a bundle. Choose another folder.")


def model_in(folder: str | os.PathLike[str]) -> str | None:
    """The ``model_id`` of the bundle in a folder; None if there is no bundle."""
    return read_card(folder)["model_id"] if (Path(folder) / CARD).is_file() else None


def refuse_replaced(folder: str | os.PathLike[str], *model_ids: str | None, name: str = "") -> None:
    """Refuse a bundle that another process has replaced since its model was read, None if there was none.

    Any of ``model_ids`` may be there; ``name`` is what users call the folder.
    """
    present = model_in(folder)
    if present not in model_ids:
        raise ValueError(
            f"{name or os.fspath(folder)} has the model {present} now, expected {model_ids[0]}: another process has "
            "replaced it meanwhile. Run the same command again."
        )


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
