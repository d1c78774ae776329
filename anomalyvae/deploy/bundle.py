"""A fitted model as a folder: ``model.safetensors`` (every array) and ``card.json`` (everything else).

Nothing is pickled, so nothing that is loaded can run code. The card carries a format number: it rises when an older
version of the package could no longer read the folder, and a folder with another number than ours is refused.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyvae.folders import replacing

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

FORMAT = 2
_ARRAYS = "model.safetensors"
_CARD = "card.json"
_VERSIONS = ("anomalyvae", "numpy", "scikit-learn", "torch")


def save(
    model: "VAEOutlierDetector",
    folder: str | os.PathLike[str],
    *,
    recipe: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
) -> Path:
    """Write a fitted detector to a folder.

    Parameters
    ----------
    model : VAEOutlierDetector
        Fitted, with a body that has a name (a callable has no form that could be stored without pickling).
    folder : path
        Made, or replaced as a whole if it already holds a bundle.
    recipe : dict, optional
        How recordings become rows (`WindowRecipe.to_dict`), so that scoring cannot disagree with training.
    figures : dict, optional
        Measured figures to keep with the model.

    Returns
    -------
    Path
    """
    from safetensors.numpy import save_file
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model, "network_")
    if not isinstance(model.body, str):
        raise TypeError(
            f"Got a detector whose body is {model.body!r}, expected the name of a body. A callable cannot be stored "
            "without pickling: save network_.state_dict() yourself, or use a named body."
        )
    target = Path(folder)
    if target.exists() and not (target / _CARD).exists() and any(target.iterdir()):
        raise FileExistsError(f"Got {target}, which holds other files than a bundle. Choose another folder.")
    with replacing(target) as fresh:
        state = model.__getstate__()
        arrays = {f"network.{name}": np.ascontiguousarray(a) for name, a in state["network_"].items()}
        arrays |= {f"calibration.{name}": a for name, a in state["calibration_"].items()}
        save_file(arrays, fresh / _ARRAYS)
        card = _card_of(model, recipe, figures, _sha256(fresh / _ARRAYS))
        (fresh / _CARD).write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return target


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check the card of a bundle.

    Raises
    ------
    FileNotFoundError
        If there is no bundle.
    ValueError
        If the card is damaged, of a newer format, or does not fit the files beside it.
    """
    path = Path(folder) / _CARD
    if not path.is_file():
        raise FileNotFoundError(f"Got {folder}, expected a folder that save() wrote: it has no {_CARD}.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        number, parts = card["format"], card["parts"]
        if not (isinstance(number, int) and isinstance(parts, dict)):
            raise TypeError("format or parts")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Got {path}, which is no card of a bundle ({error}). Save the model again.") from error
    if number != FORMAT:
        remedy = "Update anomalyvae, or save" if number > FORMAT else "Fit the model again and save"
        raise ValueError(
            f"Got a bundle of format {number} in {folder}, expected {FORMAT}. {remedy} it with the version that is "
            f"installed here ({version('anomalyvae')})."
        )
    if set(parts) != {_ARRAYS}:
        raise ValueError(f"Got a card that names the parts {sorted(parts)}, expected {[_ARRAYS]}: it was changed.")
    arrays = Path(folder) / _ARRAYS
    if not arrays.is_file() or _sha256(arrays) != parts[_ARRAYS]:
        raise ValueError(f"Got {arrays}, which is missing or not the file that the card describes. Save it again.")
    return card


def load(folder: str | os.PathLike[str]) -> "VAEOutlierDetector":
    """Read a detector that `save` wrote; its scores are bit-equal to the saved one's.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_card`, and if the arrays are not those that the card's architecture has.
    """
    import pandas as pd
    from safetensors.numpy import load_file

    from anomalyvae.detector import VAEOutlierDetector

    card = read_card(folder)
    arrays = load_file(Path(folder) / _ARRAYS)
    try:
        # JSON has no tuples, and the constructor no lists
        parameters: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in card["parameters"].items()
        }
        model = VAEOutlierDetector(**parameters)
        model._validate_params()
        if any(a.dtype != np.float64 or not np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("arrays must be finite float64")
        categories = {name: list(levels) for name, levels in card.get("categories", {}).items()}
        cells = [len(categories[name]) + 1 if name in categories else 0 for name in card["columns"] or ()]
        if arrays.get("network.scaling.cells", np.zeros(len(cells))).tolist() != cells:
            raise ValueError("the categories are others")
        state = {
            "architecture_": card["architecture"],
            "categories_": categories,
            "category_dtypes_": {name: str(card["category_dtypes"][name]) for name in categories},
            "calibration_": {name: arrays.pop(f"calibration.{name}") for name in ("scores", "weight")},
            "history_": pd.DataFrame(card["history"]),
            "n_features_in_": int(card["n_features"]),
            "network_": {name.removeprefix("network."): a for name, a in arrays.items()},
            "offset_": float(card["offset"]),
            "stop_reason_": str(card["stop_reason"]),
        }
        if card["columns"] is not None:
            state["feature_names_in_"] = np.array(card["columns"], dtype=object)
        model.__setstate__(model.__getstate__() | state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Got a bundle in {folder} whose card and arrays do not fit together: {error}") from error
    return model


def _card_of(
    model: "VAEOutlierDetector", recipe: dict[str, Any] | None, figures: dict[str, Any] | None, digest: str
) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    if not isinstance(parameters["random_state"], int):
        parameters["random_state"] = None  # a generator's state is no part of a trained model
    columns = getattr(model, "feature_names_in_", None)
    card = {
        "format": FORMAT,
        "kind": "VAEOutlierDetector",
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _VERSIONS},
        "parameters": parameters,
        "architecture": model.architecture_,
        "n_features": model.n_features_in_,
        "columns": None if columns is None else [str(name) for name in columns],
        "categories": model.categories_,
        "category_dtypes": model.category_dtypes_,
        "windowing": recipe,
        "offset": model.offset_,
        "stop_reason": model.stop_reason_,
        "history": model.history_.to_dict(orient="list"),
        "figures": figures,
        "parts": {_ARRAYS: digest},
    }
    identity = json.dumps(
        [digest, card["architecture"], card["offset"], columns is not None, recipe, model.categories_], default=str
    )
    return {"model_id": hashlib.sha256(identity.encode()).hexdigest()[:12], **card}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
