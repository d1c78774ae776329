"""Columns on their way through a graph: numbers as matrices that are joined when needed, text as it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.detector.categories import read_as
from anomalyvae.export.nodes import Value, concat
from anomalyvae.scoring.columns import EMPTY, MISSING


@dataclass(eq=False)
class Input:
    """A column of the rows that go in, and what the transformers reveal about it."""

    name: str | int  # a number where the rows had no names
    kind: str | None = None  # "number", "text" or "bool", once a transformer reveals it
    missing: Any = np.nan  # how the pipeline marks a missing cell
    used: bool = False
    levels: list[str] = field(default_factory=list)  # of text, where a step knows them
    keeps_empty: bool = False  # whether an empty text is one of these, or is what an imputer replaces
    examples: NDArray[Any] | None = None  # cells like those of training, where a transformer knows some

    def require(self, kind: str) -> None:
        """Record the kind of the column; refuse a second, different kind."""
        kinds = {kind} | ({self.kind} if self.kind else set())
        if len(kinds) > 1 and kinds != {"number", "bool"}:
            raise ValueError(
                f"Column {self.name!r} is used as {self.kind} and as {kind}; a graph input has one kind. Convert the "
                "column before fitting, or pass sample= (--sample), some rows as they are."
            )
        self.kind = "bool" if "bool" in kinds else kind
        self.used = True


@dataclass(frozen=True)
class Column:
    """A column inside the graph; text stays as it came in, and ``read_as`` says which text replaces which."""

    source: Value  # (n, width): a matrix that has the column at ``index``
    index: int
    width: int
    origin: Input | None = None  # the input whose cells these still are; None for computed numbers
    read_as: Mapping[str, str] = field(default_factory=dict)  # such as an imputer's filling for missing cells

    def require(self, kind: str) -> None:
        """As `Input.require`."""
        if self.origin is not None:
            self.origin.require(kind)
        elif kind == "text":
            raise ValueError("A transformer needs text but gets computed numbers. Encode the column as it comes in.")

    @property
    def is_text(self) -> bool:
        """Whether it is known to be text."""
        return self.origin is not None and self.origin.kind == "text"


def columns_of(value: Value, width: int) -> list[Column]:
    """The columns of a matrix of computed numbers."""
    return [Column(value, index, width) for index in range(width)]


def numbers(columns: list[Column]) -> Value:
    """Columns of numbers as one matrix, shape ``(n, d)``."""
    for column in columns:
        column.require("number")
    return joined(columns)


def joined(columns: list[Column]) -> Value:
    """Columns of one kind as one matrix, with as few operators as possible."""
    runs: list[list[Column]] = []
    for column in columns:
        if runs and runs[-1][0].source.name == column.source.name:
            runs[-1].append(column)
        else:
            runs.append([column])
    return concat([_selected(run) for run in runs]) if len(runs) > 1 else _selected(runs[0])


def _selected(run: list[Column]) -> Value:
    indices = [column.index for column in run]
    return run[0].source if indices == list(range(run[0].width)) else run[0].source.op("Gather", indices, axis=1)


def kind_of(cells: Any) -> str:
    """The kind of some cells: "text", "bool" or "number"."""
    present = [cell for cell in cells if not pd.isna(cell)]
    if present and all(isinstance(cell, str) for cell in present):
        return "text"
    if present and all(isinstance(cell, bool | np.bool_) for cell in present):
        return "bool"
    if all(isinstance(cell, Number) for cell in present):
        return "number"
    raise ValueError(
        f"A column has cells of several kinds, or of one that ONNX lacks: {present[:5]}. Its cells must be all text, "
        "all numbers or all booleans. Convert the column before fitting, for example by .astype(str)."
    )


def level_numbers(column: Column, levels: list[Any], missing: float, other: float, empty: float | None = None) -> Value:
    """The number of each cell's level in a column of text, shape ``(n, 1)``, of the type of ``other``.

    A missing cell is ``missing``, also where None or NaN is among the levels; an unknown one is ``other``. Columns of
    the detector pass ``empty``: an empty text gets this number, unless it is a level. In them, ``1`` equals ``1.0``.
    """
    if MISSING in levels:
        name = column.origin.name if column.origin is not None else ""
        raise ValueError(
            f"Column {name!r} has the level {MISSING!r}, which marks a missing cell in the ONNX file. Replace it by "
            "None before fitting."
        )
    if column.origin is not None:
        column.origin.levels = [str(text) for text in levels if not pd.isna(text)]
        column.origin.keeps_empty |= "" in column.origin.levels
    as_number = type(other)
    codes = {str(text): as_number(i) for i, text in enumerate(levels) if not pd.isna(text)}
    if empty is not None:  # the detector's own levels
        codes = ({} if "" in codes else {EMPTY: empty, "": empty}) | read_as(codes)
    return lookup(column, codes | {MISSING: missing}, other)


def lookup(column: Column, codes: dict[str, Any], other: float) -> Value:
    """The table's entry for each cell of a column of text, ``other`` where it has none, shape ``(n, 1)``."""
    every = codes | {text: codes.get(read, other) for text, read in column.read_as.items()}
    kind = "int64" if isinstance(other, int) else "float"
    table = {"keys_strings": list(every), f"values_{kind}s": list(every.values()), f"default_{kind}": other}
    return joined([column]).op("LabelEncoder", domain="ai.onnx.ml", **table)
