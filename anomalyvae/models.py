"""Save, load and export a fitted model.

A bundle is a folder with ``card.json`` (`anomalyvae.bundle.card`), ``model.safetensors`` (all arrays), ``model.onnx``
and, for a Pipeline, ``preprocessing.skops`` (`anomalyvae.bundle.preprocessing`). Nothing is pickled, so loading
cannot run foreign code.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyvae.bundle import preprocessing
from anomalyvae.bundle.arrays import arrays_of, read_arrays
from anomalyvae.bundle.card import (
    ARRAYS,
    GRAPH,
    PREPROCESSING,
    describe,
    inconsistent,
    read_bundle,
    refuse_foreign,
    write_card,
)
from anomalyvae.folders import replacing, replacing_file

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from anomalyvae.detector import VAEOutlierDetector

_SHOWN = 500  # characters of torch's message


def save(
    model: "VAEOutlierDetector | Pipeline",
    folder: str | os.PathLike[str],
    *,
    recipe: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    figures: dict[str, Any] | None = None,
    health: dict[str, Any] | None = None,
    fleet: dict[str, Any] | None = None,
    precision: str = "auto",
    sample: Any = None,
) -> Path:
    """Write a fitted detector, or a Pipeline that ends in one, to a folder, its ONNX file included.

    Parameters
    ----------
    model : VAEOutlierDetector or Pipeline
        Fitted. Its body must have a name, since a callable cannot be stored without pickling; its transformers must be
        scikit-learn's own.
    folder : path
        Created, or replaced as a whole if it is a bundle already.
    recipe : dict, optional
        How recordings become rows (`WindowRecipe.to_dict`); scoring then cuts them as training did.
    units : dict of str to str, optional
        The units of columns or, with a recipe, of signals. Scoring refuses recordings in other units.
    figures : dict, optional
        Measured figures to store with the model.
    health : dict, optional
        A profile of healthy signals (`anomalyvae.health.profile.Profile.to_dict`), for grading sensors.
    fleet : dict, optional
        How unlike each other the training recordings are (`anomalyvae.fleet.Fleet.to_dict`), for ranking new ones.
    precision : {"auto", "double", "single"}, default="auto"
    sample : DataFrame or array-like, optional
        Rows like those of training, for the ONNX file of a Pipeline; see `export_onnx`.

    Returns
    -------
    Path

    Raises
    ------
    TypeError
        For parts that could not be loaded without running foreign code: a callable body, a transformer of another
        package, a `FunctionTransformer` with a Python function.

    Warns
    -----
    UserWarning
        If the model cannot be exported, with the reason; the bundle then has no ONNX file, and scores by `load`.
    """
    from sklearn.utils.validation import check_is_fitted

    from anomalyvae.detector import check_parameters
    from anomalyvae.export import write_onnx

    before, detector = preprocessing.split(model)
    check_is_fitted(detector, "network_")
    check_parameters(detector)  # they may have been set after the fit, and `load` refuses them
    if not isinstance(detector.body, str):
        raise TypeError(
            f"The detector's body is {detector.body!r}, expected the name of a body: a callable cannot be stored "
            "without pickling. Use a named body, or save network_.state_dict() yourself."
        )
    target = Path(folder)
    refuse_foreign(target)
    with replacing(target) as fresh:
        arrays = arrays_of(detector)
        (fresh / ARRAYS).write_bytes(arrays)
        if before is not None:
            (fresh / PREPROCESSING).write_bytes(preprocessing.dumps(before))
        card = describe(detector, arrays, recipe, units, figures, preprocessing.description(before), health, fleet)
        try:
            write_onnx(model, fresh / GRAPH, card, feature_scores=True, precision=precision, sample=sample)
        except (ArithmeticError, TypeError, ValueError) as error:
            warnings.warn(f"The model has no ONNX file. {error}", stacklevel=2)
        write_card(card, fresh)
    return target


def load(folder: str | os.PathLike[str]) -> "VAEOutlierDetector | Pipeline":
    """Read a detector or a Pipeline that `save` wrote; it scores bit for bit as the saved one.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, if it is damaged or of another format, if its arrays do not fit the architecture on its
        card, and if its transformers contain types other than scikit-learn's, numpy's and scipy's.
    """
    return load_with_card(folder)[0]


def load_with_card(folder: str | os.PathLike[str]) -> "tuple[VAEOutlierDetector | Pipeline, dict[str, Any]]":
    """`load`, and the card of the same model, also if the bundle is being replaced."""
    card, parts = read_bundle(folder, ARRAYS, PREPROCESSING)
    detector = _detector(folder, card, parts[ARRAYS])
    if (card.get("preprocessing") is None) != (PREPROCESSING not in card["parts"]):
        raise inconsistent(folder, "its transformers are listed in one place only")
    if PREPROCESSING not in card["parts"]:
        return detector, card
    before = preprocessing.loads(parts[PREPROCESSING])
    described = preprocessing.description(before) or {}
    if any(described[name] != card["preprocessing"].get(name) for name in ("steps", "fingerprint")):
        raise inconsistent(folder, "its transformers are not those on its card")
    return preprocessing.join(before, detector), card


def _detector(folder: str | os.PathLike[str], card: dict[str, Any], data: bytes) -> "VAEOutlierDetector":
    from anomalyvae.detector import VAEOutlierDetector, check_parameters
    from anomalyvae.nets.bodies import BODIES

    arrays = read_arrays(folder, data)
    body = card["parameters"].get("body")
    if isinstance(body, str) and body not in BODIES:
        raise ValueError(
            f"The bundle {folder} has body={body!r}, expected one of {', '.join(BODIES)}: this version has no other. "
            "Fit again with one of these; Scorer still scores its ONNX file. Update anomalyvae if a later version "
            "wrote it."
        )
    try:
        # JSON has no tuples, and the constructor no lists
        parameters: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in card["parameters"].items()
        }
        model = VAEOutlierDetector(**parameters)
        check_parameters(model)
        model.__setstate__(model.__getstate__() | _fitted_state(card, arrays))
        _refuse_nonsense(model, arrays)
    except Exception as error:  # torch has many ways to refuse what does not fit
        raise inconsistent(folder, " ".join(str(error).split())[:_SHOWN]) from error
    return model


def _fitted_state(card: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a fitted detector, as its ``__setstate__`` takes them."""
    import pandas as pd

    from anomalyvae.detector.categories import one_hot_cells

    categories = {name: list(levels) for name, levels in card.get("categories", {}).items()}
    cells = one_hot_cells(card["columns"] or (), categories)
    if arrays.get("network.scaling.cells", np.zeros(len(cells))).tolist() != cells:
        raise ValueError("the categories differ")
    of_network = dict(arrays)
    calibration = {name: of_network.pop(f"calibration.{name}") for name in ("scores", "weight")}
    names = {} if card["columns"] is None else {"feature_names_in_": np.array(card["columns"], dtype=object)}
    return names | {
        "architecture_": card["architecture"],
        "categories_": categories,
        "category_dtypes_": {name: str(card["category_dtypes"][name]) for name in categories},
        "calibration_": calibration,
        "history_": pd.DataFrame(card["history"]),
        "n_features_in_": int(card["n_features"]),
        "network_": {name.removeprefix("network."): a for name, a in of_network.items()},
        "offset_": float(card["offset"]),
        "stop_reason_": str(card["stop_reason"]),
        "training_": dict(card["training"]),
    }


def _refuse_nonsense(model: "VAEOutlierDetector", arrays: dict[str, Any]) -> None:
    """Refuse a model that gives no score to rows around its training rows."""
    from anomalyvae.detector.representation import probes

    names = getattr(model, "feature_names_in_", range(model.n_features_in_))
    if len(names) != model.n_features_in_:
        raise ValueError(f"{len(names)} columns and n_features {model.n_features_in_}")
    for name, array in arrays.items():
        if (
            name.startswith("network.scaling.")
            and name.endswith(("scale", "slope", "gain"))
            and not (array >= np.finfo(np.float64).tiny).all()
        ):
            raise ValueError(f"{name} is not above zero")
    rows = probes(model)
    if not np.isfinite(rows.select_dtypes("number")).all(axis=None):
        raise ValueError("its scaling has no inverse")
    if not np.isfinite(model.score_samples(rows if hasattr(model, "feature_names_in_") else rows.to_numpy())).all():
        raise ValueError("scores are not finite")


def export_onnx(
    model: "VAEOutlierDetector | Pipeline | str | os.PathLike[str]",
    path: str | os.PathLike[str],
    *,
    inputs: str = "auto",
    feature_scores: bool = False,
    precision: str = "auto",
    sample: Any = None,
) -> Path:
    """Write a fitted model as one ONNX file, from transformers to threshold and p-values.

    Parameters
    ----------
    model : VAEOutlierDetector, Pipeline or path
        Fitted, with a named body; or the folder of a bundle, whose windowing recipe and units the file then has. A
        Pipeline may have `ColumnTransformer`, `FeatureUnion`, `SimpleImputer`, `MissingIndicator`, `OneHotEncoder`,
        `OrdinalEncoder`, standard, min-max, max-abs and robust scalers, `PowerTransformer`, `KBinsDiscretizer`,
        `PolynomialFeatures`, `PCA`, selectors, and `FunctionTransformer` with functions such as `numpy.log1p`.
    path : path
        Its folder is created. An old file is replaced only after the new one has passed its check.
    inputs : {"auto", "matrix", "columns"}, default="auto"
        One input ``rows`` of shape ``(n, d)``, or one input of shape ``(n, 1)`` per column, by its name. ``"auto"``
        takes the matrix for a detector without categories and for rows without names. A column that no step of a
        Pipeline uses is not an input. Numbers and booleans are double, NaN where missing; text is string,
        ``""`` or ``"<missing>"`` where missing (only the latter, if training had ``""`` as a level). As in the
        detector, an unknown level is not an error. The file's ``doc_string`` says so of each input.
    feature_scores : bool, default=False
        Whether to add `VAEOutlierDetector.feature_scores` as an output of shape ``(n, d)``, d the detector's columns.
    precision : {"auto", "double", "single"}, default="auto"
        Of the network; rows, their scaling and the scores are always double. Single is twice as fast. ``"auto"`` takes
        single if scores stay within 3e-5 relative of the detector's in the check below, and double otherwise, which
        agrees to the last few digits.
    sample : DataFrame or array-like, optional
        Rows like those of training, for a Pipeline. They make the check below stronger: without a sample, its
        rows are made up, by the Pipeline's ``inverse_transform`` or, where it has none, each column on its own. A
        sample also shows the types of columns: which are boolean, and what steps make of integers or single precision.

    Returns
    -------
    Path
        The file. Its outputs are ``anomaly_score`` and ``p_value`` (conformal), double, and ``is_outlier``, bool, each
        of shape ``(n,)``. Its metadata, under the key ``anomalyvae``, describe the model, its columns, and the
        result of the check (``parity``, where ``rows_from`` is ``"sample"``, ``"detector"``, ``"inverse_transform"`` or
        ``"columns"``).

    Raises
    ------
    TypeError
        For a transformer, a body or a layer that cannot be exported, by its name.
    ValueError
        For column names that a graph cannot have, for a Pipeline that refuses most rows of the check, and for a step
        that makes other numbers of integers than of floats, such as `numpy.reciprocal`. Without a sample, also for
        `KBinsDiscretizer` behind a step that computes, such as `PCA`: rounding decides the bin of a row on an edge.
    ArithmeticError
        If the graph disagrees with the detector; no file is then written. Both score 512 rows, half of them with
        missing cells, unknown levels, extremes and constants. Scores must agree within 1e-4 relative (in single
        precision 3e-5), and p-values and labels accordingly: a row that is like a calibration row must tie with it.
        The error names the column or step that magnifies rounding errors, if it is found. A Pipeline with such a step
        is refused without a sample: the rows that are made up may lie where nothing is magnified.

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

    from anomalyvae.export import write_onnx
    from anomalyvae.nets.bodies import BODIES

    card = None
    if isinstance(model, str | os.PathLike):
        model, card = load_with_card(model)
    before, detector = preprocessing.split(model)
    check_is_fitted(detector, "network_")
    if inputs not in ("auto", "matrix", "columns"):
        raise ValueError(f"Got inputs={inputs!r}, expected 'auto', 'matrix' or 'columns'. Pass one of them.")
    if not isinstance(detector.body, str):
        raise TypeError(
            f"The detector's body is {detector.body!r}; only a named body can be exported. Fit with one of "
            f"body={', '.join(map(repr, BODIES))}, or score with the detector itself."
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as file:
        card = card or describe(detector, arrays_of(detector), preprocessing=preprocessing.description(before))
        write_onnx(model, file, card, inputs, feature_scores, precision, sample)
    return target
