"""Write an ONNX file, once it agrees with its model on rows made for that check."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from anomalyvae.bundle.preprocessing import feature_names, split
from anomalyvae.detector.categories import as_pandas
from anomalyvae.export.check_rows import CheckRows, check_rows
from anomalyvae.export.culprits import culprit, learned_rounding
from anomalyvae.export.doc_strings import add_doc_strings
from anomalyvae.export.graph import COARSE, FINE, model_proto, ties_up_to, typical
from anomalyvae.export.pipelines import add_inputs, inputs_of, layout
from anomalyvae.nets.memory import squared_distances
from anomalyvae.nets.views import BLOCK, COUNTED, Views
from anomalyvae.scoring import Scorer
from anomalyvae.scoring.onnx_file import FORMAT, METADATA, seal

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from anomalyvae.detector import VAEOutlierDetector

_TOLERANCE = 1e-4  # relative
_TRIED = 512  # stored rows
_ABOVE_ROUNDING = 30  # times the rounding error: larger squared distances can be sorted in single precision
_BY_ROUNDING = 4  # times the relative rounding of a number: so near, differences are not sorted in single precision
_CROSSED = 4096  # mixtures of stored rows
_EPS = float(np.finfo(np.float32).eps)
_ATTEMPTS = {  # whether in single precision, and the rounding within which scores are equal
    "auto": ((True, COARSE), (False, FINE), (False, COARSE)),
    "double": ((False, FINE), (False, COARSE)),
    "single": ((True, COARSE),),
}
_FROM_CARD = ("model_id", "kind", "units", "windowing", "offset", "calibration", "training", "versions")

Floats = NDArray[np.float64]


def write_onnx(
    model: "VAEOutlierDetector | Pipeline",
    file: Path,
    card: dict[str, Any],
    inputs: str = "auto",
    feature_scores: bool = False,
    precision: str = "auto",
    sample: Any = None,
) -> str:
    """`export_onnx` for a model that has a card; returns the precision.

    After an ArithmeticError, a wrong file may be left at ``file``.
    """
    if precision not in ("auto", "double", "single"):
        raise ValueError(f"Got precision={precision!r}, expected 'auto', 'double' or 'single'. Pass one of them.")
    before, detector = split(model)
    sample = None if sample is None else as_pandas(sample)
    columns = inputs_of(before, detector, sample)
    placed = layout(columns, inputs, before is None)
    rows = check_rows(before, detector, columns, sample)
    # Without a sample, the types of a Pipeline's columns are unknown, and with them the last digits of its numbers.
    untyped = before is not None and sample is None
    if before is not None and untyped:
        precision = _check_alone(before, detector, rows, file, card, precision)
    metadata = _metadata(card, placed, before, detector, rows)
    with_inputs = partial(add_inputs, before=before, detector=detector, inputs=columns, arrangement=placed["inputs"])
    if precision == "auto" and (_may_be_at_zero(detector) or _neighbours_may_swap(detector, rows.prepared)):
        precision = "double"  # distances near 0, or near each other, are not sorted in single precision
    for single, rounding in (attempt for attempt in _ATTEMPTS[precision] if not untyped or attempt[1] == COARSE):
        metadata["precision"] = "single" if single else "double"
        proto = model_proto(detector, with_inputs, feature_scores, single, rounding)
        add_doc_strings(proto, metadata, columns)
        _store(proto, metadata, file)
        parity = _compare(detector, rows, Scorer(file, providers=["CPUExecutionProvider"]), rounding)
        if _agrees(parity, COARSE if single else _TOLERANCE):
            break
    else:
        reason = culprit(before, detector, rows.rows)
        instead = ", or pass precision='double' (--precision)" if single else "" if reason else ", and report this"
        raise ArithmeticError(
            f"The ONNX graph does not agree with the detector: {parity}. Differences may reach "
            f"{COARSE if single else _TOLERANCE:g}, and labels and p-values must be the same. No file was written. "
            f"{reason}Score with the detector itself{instead}."
        )
    _store(proto, metadata | {"parity": parity}, file)
    return str(metadata["precision"])


def _check_alone(
    before: "Pipeline",
    detector: "VAEOutlierDetector",
    rows: CheckRows,
    file: Path,
    card: dict[str, Any],
    precision: str,
) -> str:
    """Refuse a Pipeline that magnifies rounding errors, and check its detector alone; returns the precision to try.

    Rows that are made up for a Pipeline may miss the places of training rows, which the detector knows.
    """
    known = check_rows(None, detector, inputs_of(None, detector)).prepared
    reason = culprit(before, detector, rows.rows) or learned_rounding(known)
    if reason:
        raise ArithmeticError(
            f"The ONNX graph may not agree with the detector for rows of training. No file was written. {reason}Or "
            "pass sample= (--sample), some of those rows, with which the file is checked."
        )
    own = write_onnx(detector, file, card, precision=precision)
    return own if precision == "auto" and own == "double" else precision


def _metadata(
    card: dict[str, Any],
    placed: dict[str, Any],
    before: "Pipeline | None",
    detector: "VAEOutlierDetector",
    rows: CheckRows,
) -> dict[str, Any]:
    """What the file says about its model, but for the precision and the result of the check."""
    return {
        **{name: card[name] for name in _FROM_CARD},
        **({} if card.get("fleet") is None else {"fleet": card["fleet"]}),  # older cards lack it
        **placed,
        "format": FORMAT,
        "features": feature_names(before, detector),
        "required": rows.required,
        # Of a pipeline, only what it passes to the detector is known.
        "complete": card["training"].get("complete", []) if before is None else [],
        "objective": detector.architecture_["objective"],
        "criterion": detector.architecture_["criterion"],
        "preprocessing": "inside",
        "pipeline": before is not None,
        "sealed": True,
    }


def _may_be_at_zero(detector: "VAEOutlierDetector") -> bool:
    """Whether rows at no distance from the stored ones, as single precision sees it, are to be expected."""
    stored, scores = detector.network_.memorised, np.abs(detector.calibration_.scores)
    if isinstance(stored, Views):
        some = stored.rows[:: min(-(-len(stored.rows) // _TRIED), COUNTED)]  # copies of a row follow each other
        counted = min(COUNTED, len(stored.rows))  # of which the geometric mean counts
        last = squared_distances(some, stored.rows).topk(counted, largest=False).values[:, -1]
        rounding = _EPS * some.square().sum(1)
        return bool((last <= _ABOVE_ROUNDING * rounding).any())
    return stored is not None and scores.min() < 1e-3 * scores.max()


def _neighbours_may_swap(detector: "VAEOutlierDetector", prepared: Any) -> bool:
    """Whether scores differ with other neighbours, where single precision cannot tell which are the nearest.

    Columns with few values put many rows at one distance. Of those that tie for the last place among the neighbours,
    rounding chooses some. Looks at the rows of the check, at the stored ones, and at mixtures of these.
    """
    network, least = detector.network_, _least_size(detector)
    views = network.memorised
    if not isinstance(views, Views):
        return False

    def otherwise(x: torch.Tensor) -> torch.Tensor:
        u = network.compared(x)
        distances = views.distances(u)
        others = distances.clone()
        others[:, 0] = views.near_otherwise(u[:, : views.rows.shape[1]], _BY_ROUNDING * _EPS)
        others[:, 1] = views.crowd_otherwise(u[:, : views.crowd.shape[1]], _BY_ROUNDING * _EPS)
        score, other = network.score_of_distances(distances), network.score_of_distances(others)
        return (score - other).abs() / score.abs().clamp(min=least)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)  # about rows without a value, which are there on purpose
        made = torch.from_numpy(detector._rows(prepared)).to(views.rows.device)
        known = made[:0] if network.learned_rows is None else network.scaling.inverse(network.learned_rows)
        rows = torch.cat([made, known, _crossed(known)])
        return any(bool((otherwise(x) > _TOLERANCE).any()) for x in rows.split(BLOCK))


def _crossed(rows: torch.Tensor) -> torch.Tensor:
    """Rows ``(n, d)``, each with some cells of another of these: new rows have known values in other company."""
    rng, n = np.random.default_rng(0), len(rows)
    if not n:
        return rows
    source = np.where(rng.random((_CROSSED, rows.shape[1])) < 1 / 3, *rng.integers(0, n, (2, _CROSSED, 1)))
    return rows.gather(0, torch.from_numpy(source).to(rows.device))


def _store(proto: "onnx.ModelProto", metadata: dict[str, Any], file: Path) -> None:
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(metadata, allow_nan=False)})
    file.write_bytes(seal(proto.SerializeToString()))


def _compare(model: "VAEOutlierDetector", check: CheckRows, scorer: Scorer, ties: float) -> dict[str, Any]:
    """How far graph and detector differ on the same rows; ``ties`` is the rounding within which the graph's tie."""
    rows = check.prepared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about rows without a value, which are there on purpose
        expected, label = model.anomaly_score(rows), model.predict(rows)
        features = np.asarray(model.feature_scores(rows)) if "feature_scores" in scorer.outputs else None
    got = scorer.score(check.rows, [*scorer.outputs, "new_gaps"])  # so that no warning is given of them
    size = np.maximum(np.abs(expected), _least_size(model))
    near = _TOLERANCE * size
    wrong = (got["is_outlier"] != (label < 0)) & (np.abs(expected + model.offset_) > near)
    least, most = (model.calibration_.p_values(expected + sign * near) for sign in (1, -1))
    calibration, noise = model.calibration_, model.network_.rounding_error
    rounding = 1e-9 * np.maximum(np.abs(expected), typical(model)) + noise
    next_up = np.append(calibration.scores, np.inf)[np.searchsorted(calibration.scores, expected)]
    least = np.where(next_up - expected <= 2 * rounding, calibration.p_values(expected), least)  # equal scores tie
    differs = ~((got["p_value"] > least - 1e-9) & (got["p_value"] < most + 1e-9))
    # Any of these rows may be like a calibration row, with which the detector lets it tie.
    tied = got["anomaly_score"] <= ties_up_to(model, expected + rounding, ties)
    differs |= ~tied & (expected <= calibration.scores[-1])
    parity = {
        "rows": len(expected),
        "rows_from": check.origin,
        "score_difference": _largest(np.abs(got["anomaly_score"] - expected) / size),
        "labels_that_differ": int(wrong.sum()),
        "p_values_that_differ": int(differs.sum()),
    }
    if features is not None:
        relative = np.abs(got["feature_scores"] - features) / np.maximum(np.abs(features), 1)
        parity["feature_score_difference"] = _largest(relative)
    return parity


def _least_size(model: "VAEOutlierDetector") -> float:
    """The score below which differences are measured in absolute terms: the rounding error of distances is absolute."""
    noise = model.network_.rounding_error
    spread = float(np.quantile(np.abs(model.calibration_.scores), 0.9))
    if spread <= 10 * noise:  # all rows are equal
        return noise / _TOLERANCE
    return max(typical(model), min(noise / _TOLERANCE, spread)) or 1.0


def _agrees(parity: dict[str, Any], tolerance: float) -> bool:
    difference = max(parity["score_difference"], parity.get("feature_score_difference", 0.0))
    return difference <= tolerance and not parity["labels_that_differ"] and not parity["p_values_that_differ"]


def _largest(differences: Floats) -> float:
    return float(np.where(np.isfinite(differences), differences, 1e300).max())  # NaN is not agreement
