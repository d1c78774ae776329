"""A scikit-learn Pipeline as a graph: from the input columns to the rows that the detector takes.

`anomalyvae.export.transformers` exports each transformer; this file joins them and defines the graph's inputs. A bare
detector is a Pipeline without transformers.
"""

from typing import TYPE_CHECKING, Any

import pandas as pd
from onnx import TensorProto, ValueInfoProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from anomalyvae.bundle.preprocessing import entry
from anomalyvae.export.columns import Column, Input, columns_of, kind_of, level_numbers, numbers
from anomalyvae.export.graph import OUTPUTS
from anomalyvae.export.nodes import Graph, Value, cast
from anomalyvae.export.transformers import apply, note_examples, remedy
from anomalyvae.scoring.columns import MISSING
from anomalyvae.scoring.onnx_file import MATRIX

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector


def inputs_of(before: Pipeline | None, detector: "VAEOutlierDetector", sample: Any = None) -> list[Input]:
    """The columns that a model was fitted to, and what its steps, and a sample of rows, reveal about them.

    Raises
    ------
    TypeError
        For a transformer that cannot be exported, by its name.
    ValueError
        Without a sample, for one that bins computed numbers.
    """
    first = entry([before, detector])
    inputs = [Input(name) for name in getattr(first, "feature_names_in_", range(first.n_features_in_))]
    graph = Graph()  # a trial run that reveals which step reads which column
    _detector_rows(before, detector, [Column(Value(graph, str(i)), 0, 1, column) for i, column in enumerate(inputs)])
    if graph.undecided and sample is None:
        raise ValueError(
            f"{' and '.join(sorted(graph.undecided))} gets numbers that a step before it has computed, so rounding "
            "decides on which side of an edge a cell lies. Put it before that step, or pass sample= (--sample), rows "
            "of training, with which the file is checked."
        )
    if isinstance(sample, pd.DataFrame):
        for column in inputs:
            if column.used and column.name in sample:
                _inspect(column, sample[column.name])
    return inputs


def _inspect(column: Input, cells: "pd.Series[Any]") -> None:
    if isinstance(cells.dtype, pd.CategoricalDtype) and column.kind == "text":
        return  # the detector takes its levels by their text
    if cells.notna().any():
        column.require(kind_of(cells.dropna().unique()))


def layout(inputs: list[Input], arrangement: str, bare: bool) -> dict[str, Any]:
    """The inputs in the metadata: ``columns``, ``n_features``, ``kinds``, ``missing_text``, ``inputs``, ``ignored``."""
    named = isinstance(inputs[0].name, str)
    if not named and any(column.kind == "text" for column in inputs):
        raise ValueError("The rows have text but no column names. Fit the pipeline to a DataFrame.")
    kinds = {str(column.name): column.kind for column in inputs if column.used and column.kind in ("text", "bool")}
    kinds = kinds if named else {}  # in an array a boolean is 0 or 1
    if arrangement == "auto":
        arrangement = "columns" if kinds or (named and not bare) else "matrix"
    if arrangement == "matrix" and kinds:
        raise ValueError(
            f"Got inputs='matrix' for a model with the categories {', '.join(map(repr, kinds))}; a matrix holds "
            "numbers only. Pass inputs='columns' (--inputs)."
        )
    if arrangement == "columns" and not named:
        raise ValueError(
            "Got inputs='columns' for a model that was fitted to rows without column names. Fit it to a DataFrame, or "
            "pass inputs='matrix' (--inputs)."
        )
    taken = [column for column in inputs if column.used or arrangement == "matrix"]
    return {
        "inputs": arrangement,
        "n_features": len(taken),
        "columns": [column.name for column in taken] if named else None,
        "kinds": kinds,
        "missing_text": {
            str(column.name): [MISSING] if column.keeps_empty else [MISSING, ""]
            for column in taken
            if kinds.get(str(column.name)) == "text"
        },
        "ignored": [column.name for column in inputs if column not in taken],
    }


def add_inputs(
    graph: Graph, before: Pipeline | None, detector: "VAEOutlierDetector", inputs: list[Input], arrangement: str
) -> tuple[list[ValueInfoProto], Value]:
    """The inputs of a graph, and the detector's rows ``(n, d)`` that follow from them."""
    if arrangement == "matrix":
        infos = [helper.make_tensor_value_info(MATRIX, TensorProto.DOUBLE, ["n", len(inputs)])]
        cells = Value(graph, MATRIX)
        columns = [Column(cells, i, len(inputs), column) for i, column in enumerate(inputs)]
        return infos, _detector_rows(before, detector, columns)
    used = [str(column.name) for column in inputs if column.used]
    bad = [name for name in used if name in OUTPUTS or name.startswith("~") or not name]
    if bad:
        text = any(column.kind in ("text", "bool") for column in inputs)
        raise ValueError(
            f"Got the column names {', '.join(map(repr, bad))}; a name must not be empty, begin with '~', or be that "
            "of an output. Rename them before fitting" + ("." if text else ", or pass inputs='matrix' (--inputs).")
        )
    types = {str(c.name): TensorProto.STRING if c.kind == "text" else TensorProto.DOUBLE for c in inputs}
    infos = [helper.make_tensor_value_info(name, types[name], ["n", 1]) for name in used]
    return infos, _detector_rows(before, detector, [Column(_cells(graph, c), 0, 1, c) for c in inputs])


def _cells(graph: Graph, column: Input) -> Value:
    """An input. Other languages have no missing text: an empty one is missing, unless training had it as a level."""
    cells = Value(graph, str(column.name))
    if column.kind != "text" or column.keeps_empty:
        return cells
    return cells.op("Equal", "").op("Where", MISSING, cells)


def _detector_rows(before: Pipeline | None, detector: "VAEOutlierDetector", columns: list[Column]) -> Value:
    """The detector's rows as numbers: of a category, the number of its level."""
    made = columns if before is None else converted(before, columns)
    if not detector.categories_:
        return numbers(made)
    levels = map(detector.categories_.get, detector.feature_names_in_)
    return numbers([_category(column, known) for column, known in zip(made, levels, strict=True)])


def _category(column: Column, levels: list[str | bool] | None) -> Column:
    if levels is None or levels == [False, True]:
        column.require("number" if levels is None else "bool")
        return column
    column.require("text")
    missing = float("nan")
    return columns_of(cast(level_numbers(column, list(levels), missing, -1.0, empty=missing)), 1)[0]


def converted(step: Any, columns: list[Column], path: str = "") -> list[Column]:
    """The columns that a fitted step makes of others."""
    if step is None or step == "passthrough":
        return columns
    if step == "drop":
        return []
    if type(step) is Pipeline:
        parts = [part for _, part in step.steps if part not in (None, "passthrough")]
        for last in range(len(parts), 1, -1):  # later steps know most of the level and spread
            note_examples(parts[:last], columns)
        for name, part in step.steps:
            columns = converted(part, columns, f"{path}{name}__")
        return columns
    if type(step) is FeatureUnion:
        branches = [(name, part, columns) for name, part in step.transformer_list]
    elif type(step) is ColumnTransformer:
        indices = step._transformer_to_input_indices
        branches = [(name, part, [columns[i] for i in indices[name]]) for name, part, _ in step.transformers_]
    else:
        instead = remedy(step)
        if instead is not None:
            raise TypeError(
                f"{type(step).__name__} (the step {path.removesuffix('__')!r}) cannot be exported to ONNX. {instead}."
            )
        return apply(step, columns) if columns else []
    made = []
    for name, part, chosen in branches:
        new = converted(part, chosen, f"{path}{name}__")
        weight = (step.transformer_weights or {}).get(name)
        made += new if weight is None or not new else columns_of(numbers(new) * float(weight), len(new))
    return made
