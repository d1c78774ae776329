"""A fitted model as a folder: ``model.safetensors`` (every array), ``model.onnx`` and ``card.json`` (everything else).

Of a Pipeline, ``preprocessing.skops`` holds the transformers; see `anomalyvae.deploy.preprocessing`.

Nothing is pickled, so nothing that is loaded can run code. `anomalyvae.deploy.card` says what the card holds.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyvae.calibration import Calibration
from anomalyvae.deploy.card import ARRAYS, CARD, GRAPH, PREPROCESSING, describe, read_card, write_card
from anomalyvae.folders import replacing

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from anomalyvae.detector import VAEOutlierDetector


def save(
    model: "VAEOutlierDetector | Pipeline",
    folder: str | os.PathLike[str],
    *,
    recipe: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    figures: dict[str, Any] | None = None,
    health: dict[str, Any] | None = None,
    precision: str = "auto",
    sample: Any = None,
) -> Path:
    """Write a fitted detector, or a Pipeline that ends in one, to a folder, its ONNX file included.

    Parameters
    ----------
    model : VAEOutlierDetector or Pipeline
        Fitted, with a body that has a name (a callable has no form that could be stored without pickling).
        Transformers are stored by skops, and only if they are scikit-learn's own.
    folder : path
        Made, or replaced as a whole if it already holds a bundle.
    recipe : dict, optional
        How recordings become rows (`WindowRecipe.to_dict`), so that scoring cannot disagree with training.
    units : dict of str to str, optional
        The unit of columns or, with a recipe, of signals. Recordings in another unit are then refused.
    figures : dict, optional
        Measured figures to keep with the model.
    health : dict, optional
        What healthy signals look like (`anomalyvae.logs.health.Profile.to_dict`), so that sensors can be graded.
    precision : {"auto", "double", "single"}, default="auto"
    sample : DataFrame or array-like, optional
        For the ONNX file; see `export_onnx`.

    Returns
    -------
    Path

    Raises
    ------
    TypeError
        For what could not be loaded without running foreign code: a callable body, another's transformer, a
        `FunctionTransformer` with a function of Python.

    Warns
    -----
    UserWarning
        If the model has no ONNX file, with the reason; the bundle is written without it, and scores by `load`.
    """
    from sklearn.utils.validation import check_is_fitted

    from anomalyvae.deploy import preprocessing
    from anomalyvae.deploy.export import write_onnx

    before, detector = preprocessing.split(model)
    check_is_fitted(detector, "network_")
    if not isinstance(detector.body, str):
        raise TypeError(
            f"Got a detector whose body is {detector.body!r}, expected the name of a body. A callable cannot be stored "
            "without pickling: save network_.state_dict() yourself, or use a named body."
        )
    target = Path(folder)
    refuse_foreign(target)
    with replacing(target) as fresh:
        arrays = arrays_of(detector)
        (fresh / ARRAYS).write_bytes(arrays)
        if before is not None:
            (fresh / PREPROCESSING).write_bytes(preprocessing.dumps(before))
        card = describe(detector, arrays, recipe, units, figures, preprocessing.description(before), health)
        try:
            write_onnx(model, fresh / GRAPH, card, feature_scores=True, precision=precision, sample=sample)
        except (ArithmeticError, TypeError, ValueError) as error:
            warnings.warn(f"The bundle {target} has no ONNX file. {error}", stacklevel=2)
        write_card(card, fresh)
    return target


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that holds other files than a bundle."""
    if folder.exists() and not (folder / CARD).exists() and any(folder.iterdir()):
        raise FileExistsError(f"Got {folder}, which holds other files than a bundle. Choose another folder.")


def arrays_of(model: "VAEOutlierDetector") -> bytes:
    """Every array of a fitted detector, as safetensors stores them."""
    from safetensors.numpy import save as as_bytes

    state = model.__getstate__()
    arrays = {f"network.{name}": np.ascontiguousarray(a) for name, a in state["network_"].items()}
    return as_bytes(arrays | {f"calibration.{name}": a for name, a in state["calibration_"].items()})


def read_calibration(folder: str | os.PathLike[str]) -> Calibration:
    """What the p-values of a bundle's model rest on, without its network.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, or if it is damaged.
    """
    from safetensors.numpy import load_file

    read_card(folder)
    arrays = load_file(Path(folder) / ARRAYS)
    return Calibration(arrays["calibration.scores"], arrays["calibration.weight"])


def load(folder: str | os.PathLike[str]) -> "VAEOutlierDetector | Pipeline":
    """Read what `save` wrote, a detector or a Pipeline; its scores are bit-equal to the saved one's.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, if it is damaged or of another format, if its arrays are not those that the card's
        architecture has, and if its transformers are made of anything but scikit-learn's, numpy's and scipy's types.
    """
    card = read_card(folder)
    detector = _detector(folder, card)
    if (card.get("preprocessing") is None) != (PREPROCESSING not in card["parts"]):
        raise ValueError(f"Got a bundle in {folder} whose card and parts do not fit together. Save the model again.")
    if PREPROCESSING not in card["parts"]:
        return detector
    from anomalyvae.deploy import preprocessing

    return preprocessing.join(preprocessing.loads((Path(folder) / PREPROCESSING).read_bytes()), detector)


def _detector(folder: str | os.PathLike[str], card: dict[str, Any]) -> "VAEOutlierDetector":
    import pandas as pd
    from safetensors.numpy import load_file

    from anomalyvae.detector import VAEOutlierDetector

    arrays = load_file(Path(folder) / ARRAYS)
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
            "training_": dict(card["training"]),
        }
        if card["columns"] is not None:
            state["feature_names_in_"] = np.array(card["columns"], dtype=object)
        model.__setstate__(model.__getstate__() | state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Got a bundle in {folder} whose card and arrays do not fit together: {error}") from error
    return model
