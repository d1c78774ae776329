"""A fitted model as a folder: ``model.safetensors`` (every array), ``model.onnx`` and ``card.json`` (everything else).

Of a Pipeline, ``preprocessing.skops`` holds the transformers; see `anomalyvae.bundle.preprocessing`.

Nothing is pickled, so nothing that is loaded can run code. `anomalyvae.bundle.card` says what the card holds.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyvae.bundle import preprocessing
from anomalyvae.bundle.arrays import arrays_of
from anomalyvae.bundle.card import ARRAYS, GRAPH, PREPROCESSING, describe, read_card, refuse_foreign, write_card
from anomalyvae.folders import replacing, replacing_file

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
        What healthy signals look like (`anomalyvae.health.grades.Profile.to_dict`), so that sensors can be graded.
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

    from anomalyvae.export.check import write_onnx

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


def export_onnx(
    model: "VAEOutlierDetector | Pipeline | str | os.PathLike[str]",
    path: str | os.PathLike[str],
    *,
    inputs: str = "auto",
    feature_scores: bool = False,
    precision: str = "auto",
    sample: Any = None,
) -> Path:
    """Write a fitted model as one ONNX file that needs nothing else: from transformers to threshold and p-values.

    Parameters
    ----------
    model : VAEOutlierDetector, Pipeline or path
        A bundle by its folder: the file is then of that model, with its windowing recipe and units. Or a fitted model,
        with any body that has a name; of a Pipeline, the last step. Its transformers are scikit-learn's:
        `ColumnTransformer`, `FeatureUnion`, `SimpleImputer`, encoders, scalers, projections, selectors, nested as
        needed (`anomalyvae.export.transformers` lists them).
    path : path
        Of the file; its folder is made. What was there stays until the new file has been checked.
    inputs : {"auto", "matrix", "columns"}, default="auto"
        One input ``rows`` of shape ``(n, d)``, or one of shape ``(n, 1)`` by the name of each column. ``"auto"`` takes
        the matrix for a detector without categories and for rows without names. Of a Pipeline, a column that no step
        uses is no input. Numbers and booleans are double, NaN where missing; text is string, ``"<missing>"`` where
        missing. A level that was not in training is no error, as in the detector. A number too large for a transformer
        is an error in Python and none here.
    feature_scores : bool, default=False
        Whether to give `VAEOutlierDetector.feature_scores` as well, of shape ``(n, d)``, of the columns that
        the detector takes.
    precision : {"auto", "double", "single"}, default="auto"
        In which the network computes; rows, their scaling and the scores are double in any case. Single is twice as
        fast. ``"auto"`` takes it where scores stay within 1e-5 relative of the detector's on the rows of the check
        below, and double otherwise, which agrees to the last few digits.
    sample : DataFrame or array-like, optional
        Rows like those of training, for a Pipeline. They make the rows of the check below, in place of those that the
        detector draws and the inverse transformers lead back; and they say which columns are boolean.

    Returns
    -------
    Path
        The file. Its outputs are ``anomaly_score`` and ``p_value`` (conformal), double, and ``is_outlier``, bool,
        each of shape ``(n,)``. Its metadata, under the key ``anomalyvae``, say which model it is, its columns, and how
        close graph and detector came.

    Raises
    ------
    TypeError
        For a transformer, a body, or another part of the network, that has no form in ONNX, by its name.
    ValueError
        For column names that the graph cannot have, and for a Pipeline that refuses most rows of the check.
    ArithmeticError
        If the graph does not agree with the detector: then no file is written. They are compared on rows that the
        model draws, and on rows with missing cells, unseen levels, extremes and constants: scores within 1e-4
        relative, equal labels but for rows at the threshold, p-values of scores that close.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from anomalyvae import Scorer, VAEOutlierDetector, export_onnx
    >>> normal = np.random.default_rng(0).normal(size=(500, 4))
    >>> detector = VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = export_onnx(detector, f"{folder}/detector.onnx")
    ...     Scorer(file).predict([[0, 0, 0, 0], [9, -9, 9, -9]]).tolist()
    [1, -1]
    """
    from sklearn.utils.validation import check_is_fitted

    from anomalyvae.export.check import write_onnx
    from anomalyvae.nets.bodies import BODIES

    card = None
    if isinstance(model, str | os.PathLike):
        model, card = load(model), read_card(model)
    before, detector = preprocessing.split(model)
    check_is_fitted(detector, "network_")
    if inputs not in ("auto", "matrix", "columns"):
        raise ValueError(f"Got inputs={inputs!r}, expected 'auto', 'matrix' or 'columns'. Pass one of them.")
    if not isinstance(detector.body, str):
        raise TypeError(
            f"Got a detector whose body is {detector.body!r}, expected the name of a body. What a callable computes is "
            f"not known here: fit with one of body={', '.join(map(repr, BODIES))}, or score with the detector itself."
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as file:
        card = card or describe(detector, arrays_of(detector), preprocessing=preprocessing.description(before))
        write_onnx(model, file, card, inputs, feature_scores, precision, sample)
    return target
