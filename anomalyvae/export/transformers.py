"""scikit-learn's transformers as operators of an ONNX graph in double precision.

A converter library would not do: skl2onnx fails for a `SimpleImputer` on doubles or on text with missing cells, and has
no converter in double for several others. The functions here read public fitted attributes only; an encoder is asked
what it makes of each level. A transformer that is not here is refused by name, and `remedy` says what to use.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto
from sklearn import decomposition, impute, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

from anomalyvae.export import numeric
from anomalyvae.export.columns import Column, columns_of, joined, kind_of, level_numbers, lookup, numbers
from anomalyvae.export.nodes import Value, cast
from anomalyvae.export.numeric import FUNCTIONS, Floats, as_double
from anomalyvae.scoring.columns import MISSING

EXAMPLES = 512  # cells of each column that a transformer is asked for

_NUMERIC = {
    decomposition.IncrementalPCA: numeric.pca,
    decomposition.PCA: numeric.pca,
    preprocessing.KBinsDiscretizer: numeric.bins,
    preprocessing.MaxAbsScaler: numeric.max_abs,
    preprocessing.MinMaxScaler: numeric.min_max,
    preprocessing.PolynomialFeatures: numeric.polynomial,
    preprocessing.PowerTransformer: numeric.power,
    preprocessing.RobustScaler: numeric.robust,
    preprocessing.StandardScaler: numeric.standard,
}
_OTHERS = {FunctionTransformer, impute.SimpleImputer, impute.MissingIndicator, OneHotEncoder, OrdinalEncoder}
_INSTEAD = {
    "IterativeImputer": "Use SimpleImputer, or none: the detector takes missing cells",
    "KNNImputer": "Use SimpleImputer, or none: the detector takes missing cells",
    **dict.fromkeys(
        ("FactorAnalysis", "FastICA", "GaussianRandomProjection", "KernelPCA", "NMF", "SparseRandomProjection",
         "TruncatedSVD"), "Use PCA",
    ),
    "QuantileTransformer": "Use PowerTransformer, or leave it out and set the detector's scaling='quantile'",
    "SplineTransformer": "Use PolynomialFeatures or KBinsDiscretizer",
    "TargetEncoder": "Use OneHotEncoder or OrdinalEncoder",
}  # fmt: skip


def apply(transformer: Any, columns: list[Column]) -> list[Column]:
    """The columns that a fitted transformer makes of others. Ask `remedy` first."""
    if isinstance(transformer, SelectorMixin):
        return [columns[i] for i in transformer.get_support(indices=True)]
    if isinstance(transformer, impute.SimpleImputer):
        return _imputed(transformer, columns)
    if isinstance(transformer, impute.MissingIndicator):
        return _indicated(transformer, columns)
    if isinstance(transformer, OneHotEncoder | OrdinalEncoder):
        return _encoded(transformer, columns)
    if isinstance(transformer, FunctionTransformer):
        if transformer.func is None:
            return columns
        return columns_of(FUNCTIONS[transformer.func](numbers(columns)), len(columns))
    note_examples([transformer], columns)
    made = _NUMERIC[type(transformer)](transformer, numbers(columns))
    return columns_of(made, len(transformer.get_feature_names_out()))


def remedy(transformer: Any) -> str | None:
    """What to do about a transformer, or a setting of one, that cannot be exported; None if it can."""
    kind = type(transformer)
    selects = isinstance(transformer, SelectorMixin) and kind.__module__.startswith("sklearn.")
    if kind not in _NUMERIC and kind not in _OTHERS and not selects:
        return _INSTEAD.get(kind.__name__, "Apply it to the rows before, and export the rest")
    if kind in (OneHotEncoder, OrdinalEncoder) and transformer.handle_unknown == "error":
        ignore = "'ignore'" if kind is OneHotEncoder else "'use_encoded_value', unknown_value=-1"
        return f"A graph cannot raise an error: use set_params(handle_unknown={ignore}), which needs no new fit"
    if kind in (OneHotEncoder, OrdinalEncoder):
        names = getattr(transformer, "feature_names_in_", range(transformer.n_features_in_))
        levels = zip(names, transformer.categories_, strict=True)
        empty = [str(name) for name, known in levels if known.dtype == object and pd.isna(known).all()]
        if empty:
            return f"Fit it without the column {', '.join(map(repr, empty))}, which has no value in any training row"
    func = getattr(transformer, "func", None)
    if func is not None and (func not in FUNCTIONS or transformer.kw_args):
        return f"Use func=None or one of {', '.join(f'numpy.{f.__name__}' for f in FUNCTIONS)}, without kw_args"
    if kind is preprocessing.PowerTransformer and transformer.method != "yeo-johnson":
        return "A graph cannot refuse rows that are not positive: use method='yeo-johnson'"
    if kind in (impute.SimpleImputer, impute.MissingIndicator) and transformer.missing_values is pd.NA:
        return "Use missing_values=numpy.nan"
    return None


def note_examples(transformers: list[Any], columns: list[Column]) -> None:
    """Cells that transformers in a row turn into about standard normal ones, noted at the inputs that they read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cells without an inverse
        try:
            width = len(transformers[-1].get_feature_names_out())
            normal = np.random.default_rng(0).standard_normal((EXAMPLES, width))
            cells = np.asarray(inverse_rows(transformers, normal), dtype=np.float64)
        except (AttributeError, IndexError, TypeError, ValueError):  # one has none, or none for these
            return
    for column, example in zip(columns, cells.T, strict=False):
        if column.origin is not None and column.origin.examples is None and np.isfinite(example).all():
            column.origin.examples = example


_INVERSES: dict[Any, Callable[[Any], Any]] = {  # of functions that a `FunctionTransformer` has without an inverse
    np.absolute: np.positive,
    np.cos: np.arccos,
    np.exp: np.log,
    np.expm1: np.log1p,
    np.log: np.exp,
    np.log10: lambda x: 10.0**x,
    np.log1p: np.expm1,
    np.log2: np.exp2,
    np.negative: np.negative,
    np.reciprocal: np.reciprocal,
    np.sin: np.arcsin,
    np.sqrt: np.square,
    np.square: np.sqrt,
    np.tanh: np.arctanh,
}


def inverse_rows(transformers: list[Any], made: Any) -> Any:
    """Rows of which transformers in a row make these; AttributeError if one of them has no inverse."""
    for t in reversed(transformers):
        if type(t) is Pipeline:
            made = inverse_rows([step for _, step in t.steps], made)
        elif isinstance(t, impute.SimpleImputer) and not t.add_indicator and made.shape[1] == t.n_features_in_:
            pass  # the cells that it fills are a few of many
        elif isinstance(t, preprocessing.PolynomialFeatures):
            made = np.asarray(made)[:, [int(np.flatnonzero(row == 1)[0]) for row in _alone(t)]]
        elif isinstance(t, FunctionTransformer) and t.func is not None and t.inverse_func is None:
            if t.func not in _INVERSES:
                raise AttributeError(f"{t} has no inverse.")
            made = _INVERSES[t.func](made)
        elif t is not None and t != "passthrough":
            made = t.inverse_transform(made)
            for i, rare in enumerate(getattr(t, "infrequent_categories_", ())):
                if rare is not None:  # scikit-learn has one name for all of them, which is no level
                    made[:, i] = np.where(made[:, i] == "infrequent_sklearn", rare[0], made[:, i])
    return made


def inverse_columns(step: Any, made: list[Any], width: int) -> list[Any]:
    """The columns of which a fitted step makes these; None for one that cannot be known."""
    if type(step) is Pipeline:
        for _, part in reversed(step.steps):
            if any(column is None for column in made):
                return [None] * width
            made = inverse_columns(part, made, getattr(part, "n_features_in_", len(made)))
        return made
    if type(step) is ColumnTransformer:
        found: list[Any] = [None] * width
        for name, indices in step._transformer_to_input_indices.items():
            part = step.named_transformers_.get(name, "drop")
            if isinstance(part, str) and part == "drop":
                continue
            new = inverse_columns(part, made[step.output_indices_[name]], len(indices))
            for index, column in zip(indices, new, strict=True):
                found[index] = column if found[index] is None else found[index]
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cells without an inverse
        try:
            text = any(np.asarray(column).dtype == object for column in made)
            cells = inverse_rows([step], np.column_stack(made).astype(object if text else np.float64))
        except (AttributeError, IndexError, TypeError, ValueError):
            return [None] * width
    columns = list(np.asarray(cells).T)
    return [_finite(column) for column in columns] if len(columns) == width else [None] * width


def _finite(cells: NDArray[Any]) -> NDArray[Any] | None:
    """The cells of a column, others in place of those that are not finite; None if too few are."""
    finite = np.isfinite(cells) if cells.dtype != object else np.ones(len(cells), dtype=bool)
    return np.where(finite, cells, np.resize(cells[finite], len(cells))) if finite.mean() > 0.1 else None


def _alone(t: Any) -> Iterator[NDArray[np.bool_]]:
    """For each input of `PolynomialFeatures`, which output is the input itself."""
    for unit in np.eye(t.n_features_in_, dtype=int):
        yield (t.powers_ == unit).all(axis=1)


# Missing cells


def _imputed(t: Any, columns: list[Column]) -> list[Column]:
    statistics = list(t.statistics_)
    kept = [i for i, value in enumerate(statistics) if t.keep_empty_features or not pd.isna(value)]
    for i in kept:
        columns[i].require(kind_of([statistics[i]]))
        _note_missing(columns[i], t.missing_values)
    made = {i: _text_imputed(columns[i], t, str(statistics[i])) for i in kept if columns[i].is_text}
    plain = [i for i in kept if i not in made]
    if plain:
        x = numbers([columns[i] for i in plain])
        filled = _is_missing(x, t.missing_values).op("Where", as_double([statistics[i] for i in plain]), x)
        new = columns_of(filled, len(plain))
        made |= {i: replace(column, origin=columns[i].origin) for i, column in zip(plain, new, strict=True)}
    indicated = _indicated(t.indicator_, columns) if t.add_indicator else []
    return [made[i] for i in kept] + indicated


def _text_imputed(column: Column, t: Any, filling: str) -> Column:
    marker = _marker(t.missing_values)
    read_as = {text: filling if other == marker else other for text, other in column.read_as.items()}
    return replace(column, read_as={marker: filling} | read_as)


def _indicated(t: Any, columns: list[Column]) -> list[Column]:
    made = []
    for column in (columns[i] for i in t.features_):
        _note_missing(column, t.missing_values)
        if column.is_text:
            found = lookup(column, {_marker(t.missing_values): 1}, 0)
        else:
            found = _is_missing(joined([column]), t.missing_values)
        made += columns_of(cast(found), 1)
    return made


def _is_missing(x: Value, missing: Any) -> Value:
    if isinstance(missing, str):  # no number is text
        return x.op("IsNaN").op("And", False)
    return x.op("IsNaN") if pd.isna(missing) else x.op("Equal", float(missing))


def _marker(missing: Any) -> str:
    return MISSING if pd.isna(missing) else str(missing)


def _note_missing(column: Column, missing: Any) -> None:
    if column.origin is not None:
        column.origin.used = True
        if missing is None:
            column.origin.missing = None
        column.origin.keeps_empty |= isinstance(missing, str) and missing == ""


# Levels


def _encoded(t: Any, columns: list[Column]) -> list[Column]:
    made = []
    for column, levels, table in zip(columns, t.categories_, _tables(t), strict=True):
        column.require(kind_of(levels))
        if any(level is None for level in levels):
            _note_missing(column, None)
        if column.origin is not None and column.origin.examples is None:
            column.origin.examples = np.resize(np.array([*levels], dtype=object), EXAMPLES)
        width, code = table.shape[1], _code(column, list(levels))
        if isinstance(t, OrdinalEncoder):
            made += columns_of(code.graph.value(table[:, 0]).op("Gather", code), 1)
        elif width:
            column_of = np.where(table.any(axis=1), table.argmax(axis=1), -1)
            hot = code.graph.value(column_of).op("Gather", code).op("Equal", np.arange(width))
            made += columns_of(cast(hot), width)
    return made


def _code(column: Column, levels: list[Any]) -> Value:
    """The number of each cell's level, and how many there are for an unknown one; int64 of shape ``(n, 1)``."""
    count, missing = len(levels), [i for i, level in enumerate(levels) if pd.isna(level)]
    if len(missing) > 1:
        raise ValueError("A column has None and NaN as levels; only one can mark a missing cell. Replace the other.")
    if missing and MISSING in column.read_as:
        name, cell = column.origin.name if column.origin is not None else "", levels[missing[0]]
        raise ValueError(
            f"Column {name!r} has {cell} where a cell is missing. SimpleImputer did not replace it, and a graph cannot "
            f"tell None from NaN. Fit with SimpleImputer(missing_values={cell})."
        )
    if column.is_text:
        return level_numbers(column, levels, missing[0] if missing else count, count)
    x = numbers([column])
    equal = cast(x.op("Equal", as_double([np.nan if pd.isna(level) else level for level in levels])))  # (n, levels)
    code = cast(equal @ (np.arange(count) - float(count))[:, None] + float(count), TensorProto.INT64)
    return x.op("IsNaN").op("Where", missing[0], code) if missing else code


def _tables(t: Any) -> list[Floats]:
    """An encoder's output for each level of each column and, last, for an unknown one, ``(levels + 1, width)`` each."""
    counts = [len(levels) for levels in t.categories_]
    cells = {}
    for i, levels in enumerate(t.categories_):
        asked = [*levels, unseen(levels), *[levels[0]] * (max(counts) - len(levels))]
        cells[i] = pd.Series(asked, dtype=np.float64 if kind_of(levels) == "number" else object)  # None stays None
    rows: Any = pd.DataFrame(cells)
    named = hasattr(t, "feature_names_in_")
    rows = rows.set_axis(t.feature_names_in_, axis=1) if named else rows.to_numpy(object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the unknown level
        made = t.transform(rows)
    made = made.toarray() if hasattr(made, "toarray") else made
    blocks = np.split(as_double(made), np.cumsum(list(_widths(t)))[:-1], axis=1)
    return [block[: count + 1] for block, count in zip(blocks, counts, strict=True)]


def _widths(t: Any) -> Iterator[int]:
    """How many columns an encoder makes of each."""
    dropped = getattr(t, "drop_idx_", None)
    rare = getattr(t, "infrequent_categories_", None)
    for i, levels in enumerate(t.categories_):
        if isinstance(t, OrdinalEncoder):
            yield 1
        else:
            together = 0 if rare is None or rare[i] is None else len(rare[i]) - 1
            yield len(levels) - together - (dropped is not None and dropped[i] is not None)


def unseen(levels: Any) -> Any:
    """A cell of the levels' kind that is none of them."""
    present = [level for level in levels if not pd.isna(level)]
    if kind_of(levels) == "number":
        return 2.0 * max((abs(float(level)) for level in present), default=0.0) + 1.0
    return max((level for level in present if isinstance(level, str)), key=len, default="") + "?"
