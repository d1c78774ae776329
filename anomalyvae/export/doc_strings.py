"""What an ONNX file says about itself, to a client that has nothing else.

Each input and output has a ``doc_string``. Runtimes show only the description of the model, so that this has all of it.
"""

import json
from typing import TYPE_CHECKING, Any

from anomalyvae.export.columns import Input
from anomalyvae.scoring.columns import MISSING
from anomalyvae.scoring.onnx_file import MATRIX
from anomalyvae.untrusted import listed

if TYPE_CHECKING:
    import onnx

_SHOWN = 20  # levels or columns in a description; the metadata have all columns


def add_doc_strings(proto: "onnx.ModelProto", metadata: dict[str, Any], columns: list[Input]) -> None:
    """Describe a model's inputs and outputs, in it and in its metadata, under ``about``.

    Parameters
    ----------
    proto : ModelProto
    metadata : dict
        As the file will have them.
    columns : list of Input
    """
    inputs = {MATRIX: _matrix(metadata)}
    if metadata["inputs"] == "columns":
        inputs = {str(column.name): _column(column, metadata) for column in columns if column.used}
    outputs = {value.name: _OUTPUTS[value.name](metadata) for value in proto.graph.output}
    for value in proto.graph.input:
        value.doc_string = inputs[value.name]
    for value in proto.graph.output:
        value.doc_string = outputs[value.name]
    metadata["about"] = {"inputs": inputs, "outputs": outputs}
    lines = [f"input {name!r}: {text}" for name, text in inputs.items()]
    lines += [f"output {name!r}: {text}" for name, text in outputs.items()]
    proto.doc_string = "\n".join([_summary(metadata), *lines])
    proto.graph.doc_string = _summary(metadata)


def _summary(metadata: dict[str, Any]) -> str:
    what = "windows of recordings" if metadata["windowing"] else "rows of a table"
    return (
        f"Anomaly detector {metadata['model_id']} of anomalyvae for {what}. All inputs have the same number n of rows, "
        "from 1 on; a row gets the same scores in any batch. Scaling, encoding, threshold and p-values are inside. The "
        "metadata under the key 'anomalyvae' are JSON."
    )


def _matrix(metadata: dict[str, Any]) -> str:
    names, units, width = metadata["columns"], metadata["units"], metadata["n_features"]
    shape = f"float64 of shape (n, {width}), NaN where a cell is missing."
    if metadata["windowing"] is None:
        order = "those of the training rows"
        if names is not None:
            order = listed((_with_unit(name, units) for name in names), _SHOWN)
        return f"{shape} Columns, in this order: {order}." + _gaps(metadata, None)
    recipe = metadata["windowing"]
    if "signals" not in recipe:  # not one of ours
        return f"{shape} A row is a window; the recipe: {json.dumps(recipe)}." + _gaps(metadata, None)
    signals = ", ".join(_with_unit(name, units) for name in recipe["signals"])
    part = "samples" if recipe.get("coefficients") is None else "cosine coefficients (DCT-II)"
    return (
        f"{shape} A row is a window of {recipe['length_s']:g} s at {recipe['rate_hz']:g} Hz, a new one every "
        f"{recipe['stride_s']:g} s: signal by signal, {width // len(recipe['signals'])} {part} each, of {signals}. "
        f"The recipe: {json.dumps(recipe)}." + _gaps(metadata, None)
    )


def _column(column: Input, metadata: dict[str, Any]) -> str:
    name = str(column.name)
    if column.kind == "text":
        levels = listed((json.dumps(level, ensure_ascii=False) for level in column.levels), _SHOWN)
        missing = f'"{MISSING}"; "" is a text of its own' if column.keeps_empty else f'"" or "{MISSING}"'
        text = (
            f"Text of shape (n, 1){f': {levels}' if levels else ''}. Any other text is an unknown one, not an error. "
            f"Where a cell is missing: {missing}."
        )
    elif column.kind == "bool":
        text = "float64 of shape (n, 1): 1 for true, 0 for false, NaN where a cell is missing."
    else:
        unit = metadata["units"].get(name)
        text = f"float64 of shape (n, 1){f', in {unit}' if unit else ''}, NaN where a cell is missing."
    if name in metadata["required"]:
        return f"{text} The training Pipeline refuses a missing cell here, and its score has no meaning."
    return text + _gaps(metadata, name)


def _gaps(metadata: dict[str, Any], name: str | None) -> str:
    """What is said of missing cells in columns that had none in training."""
    complete = metadata["complete"]
    if name is not None:
        complete = [index for index in complete if metadata["columns"][index] == name]
    if not complete:
        return ""
    where = "here" if name is not None or len(complete) == metadata["n_features"] else f"in {len(complete)} columns"
    return f" Training had no missing cell {where}: with one, p_value and is_outlier are not calibrated."


def _score(metadata: dict[str, Any]) -> str:
    unit = "without a unit" if metadata["criterion"] == "memory" else "in nats"
    return f"float64 of shape (n,): the score {metadata['criterion']!r}, {unit}; high = anomalous. It may be negative."


def _p_value(metadata: dict[str, Any]) -> str:
    evidence = float(metadata["calibration"]["evidence"])
    return (
        "float64 of shape (n,), in (0, 1]: the probability that a normal row has at least this score (conformal, from "
        f"{evidence:g} rows or groups that were not learned). None is below {1 / (1 + evidence):.2g}."
    )


def _is_outlier(metadata: dict[str, Any]) -> str:
    return f"bool of shape (n,): whether anomaly_score is above the threshold {-metadata['offset']:.9g}."


def _feature_scores(metadata: dict[str, Any]) -> str:
    names = metadata["features"]
    return (
        "float64 of shape (n, d): the part of each column in the reconstruction error, in nats, in this order: "
        f"{listed(names, _SHOWN) if names else 'those of the training rows'}."
    )


_OUTPUTS = {
    "anomaly_score": _score, "p_value": _p_value, "is_outlier": _is_outlier, "feature_scores": _feature_scores
}  # fmt: skip


def _with_unit(name: Any, units: dict[str, str]) -> str:
    return f"{name} [{units[name]}]" if name in units else str(name)
