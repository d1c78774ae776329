"""The rows on which an exported graph is compared with its model.

They are a sample that the user gives, or else rows that the model makes up and, a quarter of them, the training rows in
its memory. All but the last quarter are then disturbed: missing cells, extremes, constants, unknown levels, and numbers
next to their own. Of the last, a Pipeline gets some in the types of the sample's columns or, without a sample, as
integers: what a transformer makes of a number can depend on its type.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from anomalyvae.detector.categories import as_pandas
from anomalyvae.export.columns import Input
from anomalyvae.export.culprits import first_apart
from anomalyvae.export.transformers import EXAMPLES, inverse_columns, unseen

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_ROWS = EXAMPLES
_ENOUGH = _ROWS // 2
_TYPED = _ROWS // 16  # of them, as integers or in the types of the sample
_LARGE = 2.0**32 + 1
_NEAR = 20  # standard deviations
_SHIFTS = (1e-18, 1e-15, 1e-12, 1e-9, 1e-7)  # relative; the first is the next number

Array = NDArray[Any]  # of one column: float, or object where it is text or boolean


@dataclass(frozen=True)
class CheckRows:
    """Rows as they go in, as the detector takes them, the columns that must not miss a cell, and the rows' origin."""

    rows: Any
    prepared: Any
    required: list[Any]
    origin: str


def check_rows(
    before: Pipeline | None, detector: "VAEOutlierDetector", inputs: list[Input], sample: Any = None
) -> CheckRows:
    """Rows like those of a model, half of them disturbed.

    Without a sample, the detector generates rows; for a Pipeline, its ``inverse_transform`` leads them back. If it has
    none, each column is made up on its own, from what its transformers know.

    Raises
    ------
    ValueError
        If the pipeline refuses most of the rows, or makes other numbers of integers.
    """
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rows that are odd on purpose
        if sample is not None:
            sample = _as_frame(inputs, sample)
            cells, origin = _sampled(inputs, sample, rng), "sample"
        else:
            cells, origin = _made_up(before, detector, inputs, rng)
        cells = [_typed(column, values) for column, values in zip(inputs, cells, strict=True)]
        if before is not None and sample is None:
            cells = [_rounded(column, values) for column, values in zip(inputs, cells, strict=True)]
        required = [] if before is None else _required(before, inputs, cells)
        rows = _table(inputs, _disturbed(inputs, cells, required, rng))
        if before is None:
            return CheckRows(rows, rows, [], origin)
        last = getattr(rows, "iloc", rows)[-_TYPED:]
        typed = _typed_like(sample, last)
        _refuse_types(before, typed, last, sample is not None)
        if sample is None:
            large = last.apply(_large) if isinstance(last, pd.DataFrame) else _large(last)
            integers = _typed_like(None, large)
            if _differ_in_reach(before, detector, large, integers):
                _refuse_types(before, integers, large, False)
        parts = [_accepted(before, part) for part in (getattr(rows, "iloc", rows)[:-_TYPED], typed)]
    taken, made = np.concatenate([part for part, _ in parts]), [rows for _, part in parts for rows in part]
    if taken.sum() < _ENOUGH:
        raise ValueError(
            f"The Pipeline takes only {taken.sum()} of the {_ROWS} rows made up for the check, which needs {_ENOUGH}. "
            "Pass some rows like those of training as sample= (--sample)."
        )
    prepared = pd.concat(made) if isinstance(made[0], pd.DataFrame) else np.concatenate(made)
    return CheckRows(rows[taken], prepared, [inputs[i].name for i in required], origin)


# Cells to begin with


def _as_frame(inputs: list[Input], sample: Any) -> pd.DataFrame:
    if not isinstance(sample, pd.DataFrame):
        sample = pd.DataFrame(np.asarray(sample))
        if isinstance(inputs[0].name, str):
            sample.columns = pd.Index([column.name for column in inputs][: sample.shape[1]])
    return sample


def _sampled(inputs: list[Input], sample: pd.DataFrame, rng: np.random.Generator) -> list[Array]:
    """Rows of a sample at random, each once if there are enough."""
    absent = [column.name for column in inputs if column.used and column.name not in sample]
    if absent or not len(sample):
        raise ValueError(
            f"The sample has {len(sample)} rows and lacks the columns {absent}. Pass some rows like those of training."
        )
    rows = sample.iloc[rng.choice(len(sample), _ROWS, replace=len(sample) < _ROWS)]
    return [np.asarray(rows[column.name], dtype=object) if column.used else np.zeros(_ROWS) for column in inputs]


def _made_up(
    before: Pipeline | None, detector: "VAEOutlierDetector", inputs: list[Input], rng: np.random.Generator
) -> tuple[list[Array], str]:
    generated = _generated(detector, rng)
    if before is None:
        return generated, "detector"
    cells = inverse_columns(before, generated, len(inputs))
    origin = "columns" if any(column is None for column in cells) else "inverse_transform"
    for i, (column, found) in enumerate(zip(inputs, cells, strict=True)):
        if found is None and column.examples is not None:
            cells[i] = rng.permutation(column.examples)
    return [rng.standard_normal(_ROWS) if found is None else found for found in cells], origin


def _generated(detector: "VAEOutlierDetector", rng: np.random.Generator) -> list[Array]:
    """The columns of rows that the network samples and, for the last quarter, stores, in the units of training."""
    network = detector.network_
    device = network.device
    z = torch.from_numpy(rng.standard_normal((_ROWS, network.latent_dim))).to(device)
    noise = torch.from_numpy(rng.standard_normal((_ROWS, network.cells))).to(device)
    with torch.no_grad():
        s = network.likelihood.sample(network.decode(z), noise)
        rows = network.learned_rows
        if rows is not None:  # a stored row is at distance 0 of itself, and may tie with others
            s[-_ROWS // 4 :] = rows[torch.from_numpy(rng.integers(0, len(rows), _ROWS // 4)).to(device)]
        x = network.scaling.inverse(s).cpu().numpy()
    cells: list[Array] = list(x.T)
    for i, name in enumerate(getattr(detector, "feature_names_in_", ())):
        if name in detector.categories_:
            levels = np.array([*detector.categories_[name], None], dtype=object)  # number -1 is an unknown level
            cells[i] = levels[x[:, i].astype(np.int64)]
    return cells


# Rows as they go in


def _typed(column: Input, cells: Array) -> Array:
    """The cells as floats, or as text or booleans in an array of objects, None where missing."""
    if column.kind not in ("text", "bool"):
        return pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    read = str if column.kind == "text" else lambda cell: bool(cell > 0.5)
    return np.array([*(None if pd.isna(cell) else read(cell) for cell in cells), None], dtype=object)[:-1]


def _rounded(column: Input, cells: Array) -> Array:
    """The cells, the last of them whole numbers."""
    if column.kind in ("text", "bool"):
        return cells
    return np.concatenate([cells[:-_TYPED], np.rint(cells[-_TYPED:])])


def _disturbed(inputs: list[Input], cells: list[Array], required: list[int], rng: np.random.Generator) -> list[Array]:
    """The first quarter gets extremes and constants, the next unknown levels, and both missing cells.

    The third quarter gets numbers next to its own: a step that magnifies rounding errors shows itself there.
    The last stays as it is.
    """
    cells, quarter = [column.copy() for column in cells], _ROWS // 4
    numbers = [i for i, column in enumerate(inputs) if column.kind not in ("text", "bool") and column.used]
    if numbers:
        far = 10.0 ** rng.choice([1, 3, 9, 100], quarter) * rng.choice([-1, 1], quarter)
        for row, i in enumerate(rng.choice(numbers, quarter)):  # one extreme cell a row
            cells[i][row] += far[row]
        for row, value in enumerate([0.0, 1.0, -1.0, 1e6, -1e6, 1e100, -1e100]):
            for i in numbers:
                cells[i][row] = value
        for row in range(2 * quarter, 3 * quarter):
            shift = _SHIFTS[row % len(_SHIFTS)] * rng.choice([-1, 1])
            for i in rng.choice(numbers, rng.integers(1, 3)):
                cells[i][row] = np.nextafter(cells[i][row] * (1 + shift), shift * np.inf)
    for i, column in enumerate(inputs):
        if column.kind == "text":
            cells[i][: quarter // 2 + quarter][::3] = str(unseen({*cells[i]}))
            cells[i][: quarter // 2 + quarter][1::9] = ""
        if column.used and i not in required:
            holes = np.arange(quarter // 2, 2 * quarter)[rng.random(2 * quarter - quarter // 2) < 0.3]
            cells[i][[quarter // 2, *holes]] = None if cells[i].dtype == object else np.nan
    return cells


def _table(inputs: list[Input], cells: list[Array]) -> Any:
    """The rows as a DataFrame, or as an array where the model has no column names."""
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


def _typed_like(sample: pd.DataFrame | None, rows: Any) -> Any:
    """The rows in the types of the sample's columns or, without one, as integers, where that keeps the cells."""
    if not isinstance(rows, pd.DataFrame):
        return _cast(rows, np.dtype(np.int64) if sample is None else np.asarray(sample).dtype)
    return rows.apply(lambda cells: _cast(cells, np.dtype(np.int64) if sample is None else sample.dtypes[cells.name]))


def _cast(cells: Any, kind: Any) -> Any:
    if getattr(kind, "kind", "") not in "iuf" or cells.dtype != np.float64 or not np.isfinite(cells).all():
        return cells
    cast = cells.astype(kind)
    return cast if (cast == cells).all() else cells


def _large(cells: Any) -> Any:
    """Replace each number by one whose square overflows 64 bits."""
    return cells * 0 + _LARGE if cells.dtype == np.float64 else cells


def _differ_in_reach(before: Pipeline, detector: "VAEOutlierDetector", floats: Any, integers: Any) -> bool:
    """Whether a Pipeline makes other numbers of integers, where training rows may have been like these rows."""
    with torch.no_grad():
        x, y = (
            torch.cat([detector.network_.scaling(torch.from_numpy(detector._rows(part))) for part in parts])
            if (parts := _accepted(before, rows)[1])
            else torch.empty(0)
            for rows in (floats, integers)
        )
    return x.shape != y.shape or bool(((x != y) & (x.abs() < _NEAR)).any())


def _refuse_types(before: Pipeline, typed: Any, rows: Any, sampled: bool) -> None:
    """Refuse a step that makes other numbers of rows in their types than of the same rows as a graph takes them."""
    apart = first_apart(before, rows, typed)
    if apart is None:
        return
    every = typed.dtypes if isinstance(typed, pd.DataFrame) else [typed.dtype]
    kinds = sorted({str(kind) for kind in every if kind.kind in "iuf"} - {"float64"})
    raise ValueError(
        f"{apart} makes other numbers of the type {', '.join(kinds)} than of float64, which a graph takes. Convert the "
        "columns before fitting, by .astype(float)"
        + ("." if sampled else ", or pass sample= (--sample), some rows as they are.")
    )


# What a pipeline takes


def _required(before: Pipeline, inputs: list[Input], cells: list[Array]) -> list[int]:
    """The columns in which the pipeline refuses a missing cell, found by trying: any step may refuse."""
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


def _accepted(before: Pipeline, rows: Any) -> tuple[NDArray[np.bool_], list[Any]]:
    """Which rows the transformers turn into finite numbers, and these numbers, in parts."""
    taken, made = np.zeros(len(rows), dtype=bool), []

    def attempt(first: int, last: int) -> None:
        try:
            prepared = as_pandas(before.transform(getattr(rows, "iloc", rows)[first:last]))
        except (ArithmeticError, TypeError, ValueError):
            if last - first > 1:
                attempt(first, (first + last) // 2)
                attempt((first + last) // 2, last)
            return
        plain = prepared.select_dtypes("number") if isinstance(prepared, pd.DataFrame) else prepared
        taken[first:last] = ~np.isinf(np.asarray(plain, dtype=np.float64)).any(axis=1)
        made.append(prepared[taken[first:last]])

    attempt(0, len(rows))
    return taken, made
