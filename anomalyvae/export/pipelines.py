"""A whole scikit-learn Pipeline as a graph: from the columns that go in to the rows that the detector takes.

`anomalyvae.export.transformers` has the operators of each transformer; here is how they are put together, and
which columns go in. A bare detector is a Pipeline without transformers.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
from onnx import TensorProto, ValueInfoProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from anomalyvae.bundle.preprocessing import said_first
from anomalyvae.export.columns import Column, Input, columns_of, kind_of, level, numbers
from anomalyvae.export.graph import OUTPUTS
from anomalyvae.export.nodes import Graph, Value, cast
from anomalyvae.export.transformers import form, remedy
from anomalyvae.scoring.scorer import MATRIX

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector


def inputs_of(before: Pipeline | None, detector: "VAEOutlierDetector", sample: Any = None) -> list[Input]:
    """The columns that a model was fitted to, and what its steps, and a sample of rows, show of them.

    Parameters
    ----------
    before : Pipeline or None
        The transformers, as `anomalyvae.bundle.preprocessing.split` gives them.
    detector : VAEOutlierDetector
    sample : DataFrame, optional

    Returns
    -------
    list of Input
        By the names that were fitted, or by number where there are none.

    Raises
    ------
    TypeError
        For a transformer that has no form in ONNX, by its name.
    """
    names, width = (said_first([before, detector], name) for name in ("feature_names_in_", "n_features_in_"))
    inputs = [Input(name) for name in (range(width) if names is None else map(str, names))]
    graph = Graph()  # only to see who takes what
    _rows(before, detector, [Column(Value(graph, str(i)), 0, 1, column) for i, column in enumerate(inputs)])
    if isinstance(sample, pd.DataFrame):
        for column in inputs:
            if column.used and column.name in sample:
                _look_at(column, sample[column.name])
    return inputs


def _look_at(column: Input, cells: "pd.Series[Any]") -> None:
    if isinstance(cells.dtype, pd.CategoricalDtype) and column.kind == "text":
        return  # the detector takes its levels by their text
    if cells.notna().any():
        column.be(kind_of(cells.dropna().unique()))


def layout(inputs: list[Input], arrangement: str, fitted_alone: bool) -> dict[str, Any]:
    """What the metadata say of the inputs: ``columns``, ``n_features``, ``kinds``, ``inputs``, ``ignored``."""
    named = isinstance(inputs[0].name, str)
    if not named and any(column.kind == "text" for column in inputs):
        raise ValueError("Got text in rows without names, expected a DataFrame. Fit the pipeline to one.")
    kinds = {str(column.name): column.kind for column in inputs if column.used and column.kind in ("text", "bool")}
    kinds = kinds if named else {}  # in an array a boolean is 0 or 1
    if arrangement == "auto":
        arrangement = "columns" if kinds or (named and not fitted_alone) else "matrix"
    if arrangement == "matrix" and kinds:
        raise ValueError(
            f"Got inputs='matrix' for a detector with the categories {', '.join(map(repr, kinds))}, expected "
            "'columns': text and numbers do not go into one matrix. Pass inputs='columns'."
        )
    if arrangement == "columns" and not named:
        raise ValueError(
            "Got inputs='columns' for a detector that was fitted to rows without names, expected 'matrix'. Fit it to a "
            "DataFrame, or pass inputs='matrix'."
        )
    taken = [column for column in inputs if column.used or arrangement == "matrix"]
    return {
        "inputs": arrangement,
        "n_features": len(taken),
        "columns": [column.name for column in taken] if named else None,
        "kinds": kinds,
        "ignored": [column.name for column in inputs if column not in taken],
    }


def enter(
    graph: Graph, before: Pipeline | None, detector: "VAEOutlierDetector", inputs: list[Input], arrangement: str
) -> tuple[list[ValueInfoProto], Value]:
    """The inputs of a graph, and the rows ``(n, d)`` of the detector that come of them."""
    if arrangement == "matrix":
        infos = [helper.make_tensor_value_info(MATRIX, TensorProto.DOUBLE, ["n", len(inputs)])]
        cells = Value(graph, MATRIX)
        return infos, _rows(before, detector, [Column(cells, i, len(inputs), c) for i, c in enumerate(inputs)])
    taken = [c.name for c in inputs if c.used and (c.name in OUTPUTS or str(c.name).startswith("~") or not c.name)]
    if taken:
        text = any(column.kind in ("text", "bool") for column in inputs)
        raise ValueError(
            f"Got the column names {', '.join(map(repr, taken))}, expected none that is empty, begins with '~' or is "
            "an output's. Rename them" + (" before fitting." if text else " before fitting, or pass inputs='matrix'.")
        )
    kinds = {"text": TensorProto.STRING}
    infos = [
        helper.make_tensor_value_info(str(column.name), kinds.get(column.kind or "", TensorProto.DOUBLE), ["n", 1])
        for column in inputs
        if column.used
    ]
    return infos, _rows(before, detector, [Column(Value(graph, str(c.name)), 0, 1, c) for c in inputs])


def _rows(before: Pipeline | None, detector: "VAEOutlierDetector", columns: list[Column]) -> Value:
    """The rows of the detector: numbers, and of each category the number of its level, as the detector has it."""
    made = columns if before is None else converted(before, columns)
    if not detector.categories_:
        return numbers(made)
    levels = map(detector.categories_.get, detector.feature_names_in_)
    return numbers([_category(column, known) for column, known in zip(made, levels, strict=True)])


def _category(column: Column, levels: list[str | bool] | None) -> Column:
    if levels is None or levels == [False, True]:
        column.be("number" if levels is None else "bool")
        return column
    column.be("text")
    return columns_of(cast(level(column, levels, float("nan"), -1.0)), 1)[0]


def converted(step: Any, columns: list[Column], path: str = "") -> list[Column]:
    """The columns that a fitted step makes of others."""
    if step is None or step == "passthrough":
        return columns
    if step == "drop":
        return []
    if type(step) is Pipeline:
        for name, part in step.steps:
            columns = converted(part, columns, f"{path}{name}__")
        return columns
    if type(step) is FeatureUnion:
        return [
            made
            for name, part in step.transformer_list
            for made in _weighted(converted(part, columns, f"{path}{name}__"), name, step)
        ]
    if type(step) is ColumnTransformer:
        return [
            made
            for name, part, _ in step.transformers_
            for made in _weighted(converted(part, _chosen(step, name, columns), f"{path}{name}__"), name, step)
        ]
    instead = remedy(step)
    if instead is not None:
        raise TypeError(
            f"Got a Pipeline with {type(step).__name__} ({path.removesuffix('__')!r}), expected transformers that have "
            f"a form in ONNX here. {instead}."
        )
    return form(step, columns) if columns else []


def _chosen(step: ColumnTransformer, name: str, columns: list[Column]) -> list[Column]:
    return [columns[i] for i in step._transformer_to_input_indices[name]]


def _weighted(columns: list[Column], name: str, step: Any) -> list[Column]:
    weight = (step.transformer_weights or {}).get(name)
    if weight is None or not columns:
        return columns
    return columns_of(numbers(columns) * float(weight), len(columns))
