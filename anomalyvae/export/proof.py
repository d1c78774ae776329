"""The rows on which a graph is tried beside the model that it was made of.

They are drawn from the detector and led back through the transformers, each by its inverse, so that they are such as
the pipeline was fitted to; then half of them are spoiled.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn import impute, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import FeatureUnion, Pipeline

from anomalyvae.export.columns import Input
from anomalyvae.export.transformers import ENCODERS, FUNCTIONS, tables, unseen

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_ROWS = 512
_ENOUGH = 256
_FAR = 1e30  # what an inverse puts further out than that is no cell that a pipeline was fitted to

Cells = NDArray[Any]  # of one column: float, or object where it is text or boolean


@dataclass(frozen=True)
class Trial:
    """Rows as they go in, as the detector takes them, and the columns in which no cell may be missing."""

    rows: Any
    prepared: Any
    required: list[Any]


def trial(before: Pipeline | None, detector: "VAEOutlierDetector", inputs: list[Input], sample: Any = None) -> Trial:
    """Rows as a model knows them, half of them spoiled: missing cells, unseen levels, extremes, constants.

    Parameters
    ----------
    before : Pipeline or None
    detector : VAEOutlierDetector
    inputs : list of Input
    sample : DataFrame or array, optional
        Rows to start from instead of those that the detector draws.

    Raises
    ------
    ValueError
        If the pipeline refuses most of the rows.
    """
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are strange on purpose
        cells = _undone(before, _drawn(detector, rng), rng) if sample is None else _sampled(inputs, sample, rng)
        cells = [_as(column, values) for column, values in zip(inputs, cells, strict=True)]
        required = [] if before is None else _required(before, inputs, cells)
        rows = _table(inputs, _spoiled(inputs, cells, required, rng))
        if before is None:
            return Trial(rows, rows, [])
        taken, prepared = _accepted(before, rows)
    if taken.sum() < _ENOUGH:
        raise ValueError(
            f"Got a Pipeline that takes {taken.sum()} of {_ROWS} rows made for a check, expected at least {_ENOUGH}. "
            "Pass some rows like those of training as sample."
        )
    return Trial(rows[taken], prepared, [inputs[i].name for i in required])


# Rows that the detector expects, as they were before the transformers


def _drawn(detector: "VAEOutlierDetector", rng: np.random.Generator) -> list[Cells]:
    network = detector.network_
    device = next(network.parameters()).device
    z = torch.from_numpy(rng.standard_normal((_ROWS, network.latent_dim))).to(device)
    noise = torch.from_numpy(rng.standard_normal((_ROWS, len(network.missing)))).to(device)
    with torch.no_grad():
        x = network.scaling.inverse(network.likelihood.draw(network.decode(z), noise)).cpu().numpy()
    cells: list[Cells] = list(x.T)
    for i, name in enumerate(getattr(detector, "feature_names_in_", ())):
        if name in detector.categories_:
            levels = np.array([*detector.categories_[name], None], dtype=object)  # the last where none is known
            cells[i] = levels[x[:, i].astype(np.int64)]
    return cells


def _undone(step: Any, cells: list[Cells], rng: np.random.Generator) -> list[Cells]:
    """Cells of which a fitted step makes about these; normal draws in a column of which nothing is known."""
    if step is None or isinstance(step, str):
        return cells
    if isinstance(step, Pipeline):
        for _, part in reversed(step.steps):
            cells = _undone(part, cells, rng)
        return cells
    if isinstance(step, FeatureUnion):  # its first part will do
        first = next(part for _, part in step.transformer_list if part != "drop")
        try:
            width = len(first.get_feature_names_out())
        except AttributeError:  # a function, which makes as many columns as it gets
            width = step.n_features_in_
        return _undone(first, cells[:width], rng)
    before: list[Cells] = [rng.standard_normal(_ROWS) for _ in range(step.n_features_in_)]
    if isinstance(step, ColumnTransformer):
        seen: set[int] = set()
        for name, part, _ in step.transformers_:
            places = step._transformer_to_input_indices[name]
            if len(places) and part != "drop":
                for i, column in zip(places, _undone(part, cells[step.output_indices_[name]], rng), strict=True):
                    both = i in seen  # a column that goes two ways comes back by each for half of the rows
                    before[i] = np.where(np.arange(_ROWS) % 2, before[i], column) if both else column
                    seen.add(i)
        return before
    known = _inverse(step, cells, rng)
    return [known.get(i, column) for i, column in enumerate(before)]


def _inverse(step: Any, cells: list[Cells], rng: np.random.Generator) -> dict[int, Cells]:
    """What is known of the cells that a transformer was given, by their place."""
    if isinstance(step, ENCODERS):
        return dict(enumerate(_decoded(step, cells)))
    if isinstance(step, impute.SimpleImputer):
        kept = [i for i, value in enumerate(step.statistics_) if step.keep_empty_features or not pd.isna(value)]
        return dict(zip(kept, cells, strict=False))  # indicators of missing cells come after them
    if isinstance(step, SelectorMixin):
        return dict(zip(step.get_support(indices=True), cells, strict=True))
    if isinstance(step, preprocessing.PolynomialFeatures):
        return {int(row.argmax()): column for row, column in zip(step.powers_, cells, strict=True) if row.sum() == 1}
    if isinstance(step, preprocessing.KBinsDiscretizer):
        spans = [np.clip(edges, -_FAR, _FAR) for edges in step.bin_edges_]
        return {i: rng.uniform(span[0], span[-1], _ROWS) for i, span in enumerate(spans)}
    if isinstance(step, preprocessing.FunctionTransformer):
        inverse = None if step.func is None else FUNCTIONS[step.func][1]
        return dict(enumerate(cells if inverse is None else [_ordinary(inverse(column)) for column in cells]))
    if hasattr(step, "inverse_transform"):
        made = np.asarray(step.inverse_transform(np.column_stack(cells)))
        return {i: _ordinary(column) for i, column in enumerate(made.T)}
    return dict(enumerate(cells)) if len(cells) == step.n_features_in_ else {}


def _decoded(encoder: Any, cells: list[Cells]) -> list[Cells]:
    """The level of each cell whose code is nearest."""
    decoded = []
    made = 0
    for levels, table in zip(encoder.categories_, tables(encoder), strict=True):
        codes, width = np.nan_to_num(table[:-1]), table.shape[1]
        given = np.column_stack(cells[made : made + width]) if width else np.zeros((_ROWS, 0))
        nearest = ((codes**2).sum(axis=1) - 2 * given @ codes.T).argmin(axis=1)
        decoded.append(np.array([*levels, None], dtype=object)[nearest])
        made += width
    return decoded


def _ordinary(column: Cells) -> Cells:
    """Without what an inverse has no number for."""
    fine = np.abs(column) < _FAR
    return np.where(fine, column, np.median(column[fine]) if fine.any() else 0.0)


# Rows as they go in


def _sampled(inputs: list[Input], sample: Any, rng: np.random.Generator) -> list[Cells]:
    """Rows of a sample at random, each once if there are enough."""
    if not isinstance(sample, pd.DataFrame):
        sample = pd.DataFrame(np.asarray(sample))
        if isinstance(inputs[0].name, str):
            sample.columns = pd.Index([column.name for column in inputs][: sample.shape[1]])
    absent = [column.name for column in inputs if column.used and column.name not in sample]
    if absent or not len(sample):
        raise ValueError(
            f"Got a sample of {len(sample)} rows without the columns {absent}, expected rows like those of training. "
            "Pass some of these."
        )
    chosen = rng.choice(len(sample), _ROWS, replace=len(sample) < _ROWS)
    rows = sample.iloc[chosen]
    return [np.asarray(rows[column.name], dtype=object) if column.used else np.zeros(_ROWS) for column in inputs]


def _as(column: Input, cells: Cells) -> Cells:
    """The cells as what the column holds: float, or text or booleans as objects, None where missing."""
    if column.kind not in ("text", "bool"):
        return pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    read = str if column.kind == "text" else lambda cell: bool(cell > 0.5)
    return np.array([*(None if pd.isna(cell) else read(cell) for cell in cells), None], dtype=object)[:-1]


def _spoiled(inputs: list[Input], cells: list[Cells], required: list[int], rng: np.random.Generator) -> list[Cells]:
    cells, quarter = [column.copy() for column in cells], _ROWS // 4
    numbers = [i for i, column in enumerate(inputs) if column.kind not in ("text", "bool") and column.used]
    if numbers:
        far = 10.0 ** rng.choice([1, 3, 9, 100], quarter) * rng.choice([-1, 1], quarter)
        for row, i in enumerate(rng.choice(numbers, quarter)):  # one cell far out
            cells[i][row] += far[row]
        for row, value in enumerate([0.0, 1.0, -1.0, 1e6, -1e6, 1e100, -1e100]):
            for i in numbers:
                cells[i][row] = value
    for i, column in enumerate(inputs):
        if column.kind == "text":
            cells[i][: quarter // 2 + quarter][::3] = str(unseen({*cells[i]}))
        if column.used and i not in required:
            holes = np.arange(quarter // 2, 2 * quarter)[rng.random(2 * quarter - quarter // 2) < 0.3]
            cells[i][[quarter // 2, *holes]] = None if cells[i].dtype == object else np.nan
    return cells


def _table(inputs: list[Input], cells: list[Cells]) -> Any:
    """The rows as a DataFrame, or as an array where the model has no names."""
    if not isinstance(inputs[0].name, str):
        return np.column_stack([values.astype(np.float64) for values in cells])
    columns = {}
    for column, values in zip(inputs, cells, strict=True):
        whole = not pd.isna(values).any()
        if column.kind == "bool" and whole:
            values = values.astype(bool)
        elif (column.missing is None or values.dtype == object) and not whole:
            values = np.where(pd.isna(values), np.array(column.missing, dtype=object), values.astype(object))
        columns[column.name] = pd.Series(values, dtype=values.dtype)
    return pd.DataFrame(columns)


# What a pipeline takes


def _required(before: Pipeline, inputs: list[Input], cells: list[Cells]) -> list[int]:
    """The columns in which a missing cell is refused: they are tried, since any step may refuse."""
    few = [column[:16] for column in cells]
    taken = _accepted(before, _table(inputs, few))[0]
    if not taken.any():
        return []
    row = int(taken.argmax())

    def takes(holes: list[int]) -> bool:
        one = [column[row : row + 1].copy() for column in few]
        for i in holes:
            one[i][0] = None if one[i].dtype == object else np.nan
        return bool(_accepted(before, _table(inputs, one))[0].all())

    used = [i for i, column in enumerate(inputs) if column.used]
    return [] if takes(used) else [i for i in used if not takes([i])]


def _accepted(before: Pipeline, rows: Any) -> tuple[NDArray[np.bool_], Any]:
    """Which rows the transformers take and make finite numbers of, and these numbers."""
    taken, made = np.zeros(len(rows), dtype=bool), []

    def attempt(first: int, last: int) -> None:
        try:
            prepared = before.transform(getattr(rows, "iloc", rows)[first:last])
        except (ArithmeticError, TypeError, ValueError):
            if last - first > 1:
                attempt(first, (first + last) // 2)
                attempt((first + last) // 2, last)
            return
        plain = prepared.select_dtypes("number") if isinstance(prepared, pd.DataFrame) else prepared
        taken[first:last] = ~np.isinf(np.asarray(plain, dtype=np.float64)).any(axis=1)
        made.append(prepared[taken[first:last]])

    attempt(0, len(rows))
    if not made:
        return taken, None
    return taken, pd.concat(made) if isinstance(made[0], pd.DataFrame) else np.concatenate(made)
