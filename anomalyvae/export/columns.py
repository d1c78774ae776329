"""Columns on their way through a graph: numbers as matrices that are put together when needed, text as it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto

from anomalyvae.export.nodes import Value, cast, concat
from anomalyvae.scoring.columns import MISSING

Floats = NDArray[np.float64]


@dataclass(eq=False)
class Input:
    """A column of the rows that go in: what the transformers, one after the other, show of it."""

    name: str | int  # a number where the rows had no names
    kind: str | None = None  # "number", "text" or "bool"; None as long as none has said
    missing: Any = np.nan  # what stands for a missing cell in the pipeline
    used: bool = False

    def be(self, kind: str) -> None:
        """Take note of what the column holds, or refuse what it cannot be."""
        kinds = {kind} | ({self.kind} if self.kind else set())
        if len(kinds) > 1 and kinds != {"number", "bool"}:
            raise ValueError(
                f"Got column {self.name!r} as {self.kind} and as {kind}, expected one of them. Convert it before "
                "fitting, or pass a sample of the rows as they are."
            )
        self.kind = "bool" if "bool" in kinds else kind
        self.used = True


@dataclass(frozen=True)
class Column:
    """A column on its way through the graph; text stays what came in, and notes what is to be read for what.

    Parameters
    ----------
    source : Value of shape (n, width)
        It holds the column at ``place``.
    place, width : int
    origin : Input, optional
        The input whose cells these still are; a new column of numbers has none.
    read_as : mapping of str to str
        Text that is to be taken for another: what is missing for what an imputer puts there.
    """

    source: Value
    place: int
    width: int
    origin: Input | None = None
    read_as: Mapping[str, str] = field(default_factory=dict)

    def be(self, kind: str) -> None:
        """As `Input.be`."""
        if self.origin is not None:
            self.origin.be(kind)
        elif kind == "text":
            raise ValueError("Got a computed number where text is expected. Encode the column as it came in.")

    @property
    def is_text(self) -> bool:
        """Whether it is known to hold text."""
        return self.origin is not None and self.origin.kind == "text"


def columns_of(value: Value, width: int) -> list[Column]:
    """The columns of a matrix of new numbers."""
    return [Column(value, place, width) for place in range(width)]


def numbers(columns: list[Column]) -> Value:
    """The matrix of some columns of numbers, shape ``(n, d)``."""
    for column in columns:
        column.be("number")
    return joined(columns)


def joined(columns: list[Column]) -> Value:
    """The matrix of some columns of one kind, which takes as few operators as it can."""
    runs: list[list[Column]] = []
    for column in columns:
        if runs and runs[-1][0].source.name == column.source.name:
            runs[-1].append(column)
        else:
            runs.append([column])
    return concat([_taken(run) for run in runs]) if len(runs) > 1 else _taken(runs[0])


def _taken(run: list[Column]) -> Value:
    places = [column.place for column in run]
    return run[0].source if places == list(range(run[0].width)) else run[0].source.op("Gather", places, axis=1)


def kind_of(levels: Any) -> str:
    """What some cells are: "text", "bool" or "number"."""
    given = [level for level in levels if not pd.isna(level)]
    if any(isinstance(level, str) for level in given):
        kind, right = "text", all(isinstance(level, str) for level in given)
    elif given and all(isinstance(level, bool | np.bool_) for level in given):
        kind, right = "bool", True
    else:
        kind, right = "number", all(isinstance(level, Number) for level in given)
    if not right:
        raise ValueError(
            f"Got cells of several kinds, or of one without a form in ONNX, in one column: {given[:5]}. Expected text, "
            "numbers or booleans. Convert the column before fitting, for example by .astype(str)."
        )
    return kind


def level(column: Column, levels: list[Any], missing: float, other: float) -> Value:
    """The number of each cell's level in a column of text, shape ``(n, 1)``.

    Parameters
    ----------
    column : Column
    levels : list of str
        None or NaN has a number, but is what ``missing`` stands for.
    missing, other : int or float
        The numbers of a missing cell and of a level that is not known; they say whether to give int64 or float.
    """
    if MISSING in levels:
        name = column.origin.name if column.origin is not None else ""
        raise ValueError(
            f"Got the level {MISSING!r} in column {name!r}, expected it to be free: it stands for a missing cell. "
            "Replace it by None before fitting."
        )
    as_number = type(other)
    codes = {str(text): as_number(i) for i, text in enumerate(levels) if not pd.isna(text)}
    return lookup(column, codes | {MISSING: missing}, other)


def lookup(column: Column, codes: dict[str, Any], other: float) -> Value:
    """What a table has for each cell of a column of text, ``other`` for what is not in it, shape ``(n, 1)``."""
    every = codes | {text: codes.get(read, other) for text, read in column.read_as.items()}
    kind = "int64" if isinstance(other, int) else "float"
    table = {"keys_strings": list(every), f"values_{kind}s": list(every.values()), f"default_{kind}": other}
    return joined([column]).op("LabelEncoder", domain="ai.onnx.ml", **table)


def reached(x: Value, knots: list[Floats]) -> Value:
    """How many of its column's knots, which rise, each cell reaches, shape ``(n, d)``: a search by halving."""
    halvings = max(len(k) for k in knots).bit_length() or 1
    table = np.full((len(knots), 2**halvings), np.inf)  # table[:, i] is the i-th knot, from 1
    for row, knot in zip(table, knots, strict=True):
        row[1 : len(knot) + 1] = knot
    flat = x.graph.value(table.ravel())
    begin = np.arange(len(knots), dtype=np.int64) * 2**halvings
    place = x.graph.value(np.int64(0))
    for step in (2**i for i in reversed(range(halvings))):
        passes = flat.op("Gather", place + (begin + step)).op("LessOrEqual", x)
        place = cast(passes, TensorProto.INT64) * step + place
    return place
