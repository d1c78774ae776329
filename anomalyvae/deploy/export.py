"""``export_onnx``: a fitted detector or Pipeline as one ONNX file, checked against it before it is written.

Nothing is taken on trust: the file is run beside the model on rows made for that purpose, and is not written if the
two differ. `anomalyvae.deploy.graph` and `anomalyvae.deploy.graph.pipelines` say what is in it.
"""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from anomalyvae.deploy.bundle import arrays_of, load
from anomalyvae.deploy.card import describe, read_card
from anomalyvae.deploy.graph import model_proto, typical
from anomalyvae.deploy.graph.pipelines import enter, inputs_of, layout
from anomalyvae.deploy.graph.proof import Trial, trial
from anomalyvae.deploy.preprocessing import description, feature_names, split
from anomalyvae.deploy.scorer import FORMAT, METADATA, Scorer
from anomalyvae.folders import replacing_file
from anomalyvae.nets.bodies import BODIES

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from anomalyvae.detector import VAEOutlierDetector

_TOLERANCE = 1e-4  # relative
_SINGLE_TOLERANCE = 1e-5  # what single precision has to keep to be taken without being asked for

Floats = NDArray[np.float64]


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
        needed (`anomalyvae.deploy.graph.transformers` lists them).
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
        The file. Its outputs are ``label`` (int64: +1, -1), ``scores`` (`decision_function`), ``anomaly_score`` and
        ``p_value`` (conformal), each of shape ``(n,)`` and, but for the label, double. Its metadata, under the key
        ``anomalyvae``, say which model it is, its columns, and how close graph and detector came.

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

    card = None
    if isinstance(model, str | os.PathLike):
        model, card = load(model), read_card(model)
    before, detector = split(model)
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
        card = card or describe(detector, arrays_of(detector), preprocessing=description(before))
        write_onnx(model, file, card, inputs, feature_scores, precision, sample)
    return target


def write_onnx(
    model: "VAEOutlierDetector | Pipeline",
    file: Path,
    card: dict[str, Any],
    inputs: str = "auto",
    feature_scores: bool = False,
    precision: str = "auto",
    sample: Any = None,
) -> None:
    """`export_onnx` for a model that has a card already; a file that does not agree with the detector may stay."""
    if precision not in ("auto", "double", "single"):
        raise ValueError(f"Got precision={precision!r}, expected 'auto', 'double' or 'single'. Pass one of them.")
    before, detector = split(model)
    columns = inputs_of(before, detector, sample)
    placed = layout(columns, inputs, before is None)
    rows = trial(before, detector, columns, sample)
    metadata = (
        {name: card[name] for name in _FROM_CARD}
        | placed
        | {
            "format": FORMAT,
            "features": feature_names(before, detector),
            "required": rows.required,
            "objective": detector.objective,
            "score": detector.architecture_["score"],
            "preprocessing": "inside",
        }
    )
    for single in {"auto": (True, False), "single": (True,), "double": (False,)}[precision]:
        metadata["precision"] = "single" if single else "double"
        proto = model_proto(
            detector, lambda graph: enter(graph, before, detector, columns, placed["inputs"]), feature_scores, single
        )
        _store(proto, metadata, file)
        parity = _compare(detector, rows, Scorer(file, providers=["CPUExecutionProvider"]))
        if not single or precision == "single" or _agrees(parity, _SINGLE_TOLERANCE):
            break
    if not _agrees(parity, _TOLERANCE):
        raise ArithmeticError(
            f"Got a graph that does not agree with the detector: {parity}, expected differences of at most "
            f"{_TOLERANCE:g} and none of labels and p-values. No file was written. Score with the detector itself"
            + (", or pass precision='double'." if single else ", and report this.")
        )
    _store(proto, metadata | {"parity": parity}, file)


_FROM_CARD = (
    "model_id", "kind", "units", "windowing", "offset", "calibration", "training", "versions",
)  # fmt: skip


def _store(proto: "onnx.ModelProto", metadata: dict[str, Any], file: Path) -> None:
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(metadata, allow_nan=False)})
    onnx.save(proto, file)


# The proof


def _compare(model: "VAEOutlierDetector", trial: Trial, scorer: Scorer) -> dict[str, Any]:
    """How far graph and detector differ on the same rows."""
    rows = trial.prepared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rows without a value, which are there on purpose
        expected, label = model.anomaly_score(rows), model.predict(rows)
        features = np.asarray(model.feature_scores(rows)) if "feature_scores" in scorer.outputs else None
    got = scorer.score(trial.rows)
    calibration = model.calibration_
    size = np.maximum(np.abs(expected), max(typical(model), float(np.median(np.abs(expected)))) or 1.0)
    near = _TOLERANCE * size
    difference = _largest(np.abs(got["anomaly_score"] - expected) / size)
    decision = _largest(np.abs(got["scores"] + expected + model.offset_) / size)
    wrong = int(np.sum((got["label"] != label) & (np.abs(expected + model.offset_) > near)))
    least, most = (calibration.p_values(expected + sign * near) for sign in (1, -1))
    off = int(np.sum(~((got["p_value"] > least - 1e-9) & (got["p_value"] < most + 1e-9))))
    parity = {
        "rows": len(expected),
        "score_difference": max(difference, decision),
        "labels_that_differ": wrong,
        "p_values_that_differ": off,
    }
    if features is not None:
        parity["feature_score_difference"] = _largest(
            np.abs(got["feature_scores"] - features) / np.maximum(np.abs(features), 1)
        )
    return parity


def _agrees(parity: dict[str, Any], tolerance: float) -> bool:
    furthest = max(parity["score_difference"], parity.get("feature_score_difference", 0.0))
    return furthest <= tolerance and not parity["labels_that_differ"] and not parity["p_values_that_differ"]


def _largest(differences: Floats) -> float:
    return float(np.where(np.isfinite(differences), differences, 1e300).max())  # NaN is no agreement
