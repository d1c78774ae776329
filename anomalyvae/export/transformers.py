"""What scikit-learn's transformers compute, as operators of an ONNX graph in double precision.

One table, class -> function, and no converter library: skl2onnx fails for a `SimpleImputer` on doubles or on text with
missing cells, has no converter in double for several others, and each of these is a few operators of those that the
detector is made of already. The functions read public fitted attributes only; the encoders are not mirrored but asked
what they make of each level. A transformer that is not in the table is refused by name: `remedy` says what to use.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn import decomposition, impute, preprocessing, random_projection
from sklearn.feature_selection import SelectorMixin

from anomalyvae.export import scalers
from anomalyvae.export.columns import Column, Floats, columns_of, joined, kind_of, level, lookup, numbers, reached
from anomalyvae.export.nodes import Value, cast, concat
from anomalyvae.export.scalers import double
from anomalyvae.scoring.columns import MISSING

Form = Callable[[Any, Value], Value]


def form(transformer: Any, columns: list[Column]) -> list[Column]:
    """The columns that a fitted transformer makes of others; `remedy` has been asked before."""
    if isinstance(transformer, SelectorMixin):
        return [columns[i] for i in transformer.get_support(indices=True)]
    if isinstance(transformer, impute.SimpleImputer):
        return _imputed(transformer, columns)
    if isinstance(transformer, impute.MissingIndicator):
        return _indicated(transformer, columns)
    if isinstance(transformer, ENCODERS):
        return _encoded(transformer, columns)
    if isinstance(transformer, preprocessing.FunctionTransformer):
        if transformer.func is None:
            return columns
        return columns_of(FUNCTIONS[transformer.func][0](numbers(columns)), len(columns))
    made = _FORMS[type(transformer)](transformer, numbers(columns))
    return columns_of(made, len(transformer.get_feature_names_out()))


def remedy(transformer: Any) -> str | None:
    """What to do about a transformer, or a setting of one, that has no form here; None if it has one."""
    kind = type(transformer)
    if kind not in _FORMS and kind not in _OTHERS and not _is_selector(transformer):
        return _INSTEAD.get(kind.__name__, "Apply it to the rows before, and export the rest")
    if isinstance(transformer, ENCODERS) and transformer.handle_unknown == "error":
        ignore = "'ignore'" if kind is preprocessing.OneHotEncoder else "'use_encoded_value', unknown_value=-1"
        return f"A graph cannot raise an error: use set_params(handle_unknown={ignore}), which needs no other fit"
    func = getattr(transformer, "func", None)
    if func is not None and (func not in FUNCTIONS or transformer.kw_args):
        return f"Use func=None or one of {', '.join(f'numpy.{f.__name__}' for f in FUNCTIONS)}, without kw_args"
    if isinstance(transformer, preprocessing.PowerTransformer) and transformer.method != "yeo-johnson":
        return "A graph cannot refuse rows that are not positive: use method='yeo-johnson'"
    if isinstance(transformer, impute.SimpleImputer | impute.MissingIndicator) and transformer.missing_values is pd.NA:
        return "Use missing_values=numpy.nan"
    return None


def _is_selector(transformer: Any) -> bool:
    return isinstance(transformer, SelectorMixin) and type(transformer).__module__.startswith("sklearn.")


_INSTEAD = {
    "IterativeImputer": "Use SimpleImputer, or none: the detector takes missing cells",
    "KNNImputer": "Use SimpleImputer, or none: the detector takes missing cells",
    "KernelPCA": "Use PCA",
    "NMF": "Use TruncatedSVD",
    "SplineTransformer": "Use PolynomialFeatures or KBinsDiscretizer",
    "TargetEncoder": "Use OneHotEncoder or OrdinalEncoder",
}


# Numbers that become other columns


def _bins(t: Any, x: Value) -> Value:
    knots = [double(edges)[1:-1] for edges in t.bin_edges_]
    place = reached(x, [knot - room for knot, room in zip(knots, scalers.rounding(knots), strict=True)])
    if t.encode == "ordinal":
        return cast(place)
    source = np.repeat(np.arange(len(t.n_bins_)), t.n_bins_)
    bins = np.concatenate([np.arange(count) for count in t.n_bins_])
    return cast(place.op("Gather", source, axis=1).op("Equal", bins))


def _polynomial(t: Any, x: Value) -> Value:
    powers = t.powers_
    factors = [np.repeat(np.arange(len(row)), row) for row in powers]
    degree = max(1, *(len(factor) for factor in factors))
    one = powers.shape[1]  # the place of a column of ones
    places = np.array([[*factor, *[one] * (degree - len(factor))] for factor in factors])
    ones = x.op("Gather", [0], axis=1).op("IsNaN").op("Where", 1.0, 1.0)
    cells = concat([x, ones])
    product = cells.op("Gather", places[:, 0], axis=1)
    for place in places.T[1:]:
        product = product * cells.op("Gather", place, axis=1)
    return product


def _pca(t: Any, x: Value) -> Value:
    axes = double(t.components_).T
    y = x @ axes - double(t.mean_) @ axes
    scale = np.sqrt(double(t.explained_variance_))
    return y / np.maximum(scale, np.finfo(np.asarray(t.explained_variance_).dtype).eps) if t.whiten else y


def _projection(t: Any, x: Value) -> Value:
    components = t.components_
    return x @ double(components.toarray() if hasattr(components, "toarray") else components).T


def _ica(t: Any, x: Value) -> Value:
    return (x - double(t.mean_) if t.whiten else x) @ double(t.components_).T


def _factors(t: Any, x: Value) -> Value:
    """The posterior mean of the factors: C. M. Bishop (2006), Pattern Recognition and Machine Learning, 12.66."""
    weighted = double(t.components_ / t.noise_variance_)
    covariance = np.linalg.inv(np.eye(len(weighted)) + weighted @ double(t.components_).T)
    return (x - double(t.mean_)) @ weighted.T @ covariance


# Missing cells


def _imputed(t: Any, columns: list[Column]) -> list[Column]:
    statistics = list(t.statistics_)
    kept = [i for i, value in enumerate(statistics) if t.keep_empty_features or not pd.isna(value)]
    for i in kept:
        columns[i].be(kind_of([statistics[i]]))
        _note_missing(columns[i], t.missing_values)
    made = {i: _text_imputed(columns[i], t, str(statistics[i])) for i in kept if columns[i].is_text}
    plain = [i for i in kept if i not in made]
    if plain:
        x = numbers([columns[i] for i in plain])
        filling = double([statistics[i] for i in plain])
        filled = _is_missing(x, t.missing_values).op("Where", filling, x)
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
            code = lookup(column, {_marker(t.missing_values): 1}, 0)
            made += columns_of(cast(code), 1)
        else:
            made += columns_of(cast(_is_missing(joined([column]), t.missing_values)), 1)
    return made


def _is_missing(x: Value, missing: Any) -> Value:
    if isinstance(missing, str):  # that no number is
        return x.op("IsNaN").op("And", False)
    return x.op("IsNaN") if pd.isna(missing) else x.op("Equal", float(missing))


def _marker(missing: Any) -> str:
    return MISSING if pd.isna(missing) else str(missing)


def _note_missing(column: Column, missing: Any) -> None:
    if column.origin is not None:
        column.origin.used = True
        if missing is None:
            column.origin.missing = None


# Levels

ENCODERS = (preprocessing.OneHotEncoder, preprocessing.OrdinalEncoder)


def _encoded(t: Any, columns: list[Column]) -> list[Column]:
    made = []
    for column, levels, table in zip(columns, t.categories_, tables(t), strict=True):
        column.be(kind_of(levels))
        if any(level is None for level in levels):
            _note_missing(column, None)
        width, code = table.shape[1], _code(column, list(levels))
        if isinstance(t, preprocessing.OrdinalEncoder):
            made += columns_of(code.graph.value(table[:, 0]).op("Gather", code), 1)
        elif width:
            place = np.where(table.any(axis=1), table.argmax(axis=1), -1)
            hot = code.graph.value(place).op("Gather", code).op("Equal", np.arange(width))
            made += columns_of(cast(hot), width)
    return made


def _code(column: Column, levels: list[Any]) -> Value:
    """The number of each cell's level, of a level that is not known their count, int64 of shape ``(n, 1)``."""
    missing = [i for i, level in enumerate(levels) if pd.isna(level)]
    if len(missing) > 1:
        raise ValueError(
            "Got None and NaN in one column, expected one of them to stand for missing. Replace the other."
        )
    if column.is_text:
        return level(column, levels, missing[0] if missing else len(levels), len(levels))
    x = numbers([column])
    known = double([np.nan if pd.isna(level) else level for level in levels])
    order = np.argsort(known, kind="stable")[: len(levels) - len(missing)]  # NaN comes last
    place = reached(x, [known[order]])
    found = x.graph.value(np.append(np.nan, known[order])).op("Gather", place).op("Equal", x)
    code = found.op("Where", x.graph.value(np.append(0, order)).op("Gather", place), len(levels))
    return x.op("IsNaN").op("Where", missing[0], code) if missing else code


def tables(t: Any) -> list[Floats]:
    """What an encoder makes of each level of each column and, last, of one that it does not know: it is asked.

    Returns
    -------
    list of ndarray of shape (levels + 1, width)
    """
    counts = [len(levels) for levels in t.categories_]
    cells = {}
    for i, levels in enumerate(t.categories_):
        known = [*levels, unseen(levels), *[levels[0]] * (max(counts) - len(levels))]
        cells[i] = pd.Series(known, dtype=np.float64 if kind_of(levels) == "number" else object)  # None stays None
    rows: Any = pd.DataFrame(cells)
    named = hasattr(t, "feature_names_in_")
    rows = rows.set_axis(t.feature_names_in_, axis=1) if named else rows.to_numpy(object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the level that is not known
        made = t.transform(rows)
    made = made.toarray() if hasattr(made, "toarray") else made
    blocks = np.split(double(made), np.cumsum(list(_widths(t)))[:-1], axis=1)
    return [block[: count + 1] for block, count in zip(blocks, counts, strict=True)]


def _widths(t: Any) -> Iterator[int]:
    """How many columns an encoder makes of each."""
    dropped = getattr(t, "drop_idx_", None)
    rare = getattr(t, "infrequent_categories_", None)
    for i, levels in enumerate(t.categories_):
        if isinstance(t, preprocessing.OrdinalEncoder):
            yield 1
        else:
            together = 0 if rare is None or rare[i] is None else len(rare[i]) - 1
            yield len(levels) - together - (dropped is not None and dropped[i] is not None)


def unseen(levels: Any) -> Any:
    """A cell like the levels that is none of them."""
    given = [level for level in levels if not pd.isna(level)]
    if kind_of(levels) == "number":
        return 2.0 * max((abs(float(level)) for level in given), default=0.0) + 1.0
    return max((level for level in given if isinstance(level, str)), key=len, default="") + "?"


# What there is

FUNCTIONS: dict[Any, tuple[Callable[[Value], Value], Any]] = {  # and their inverse, or about that
    np.absolute: (lambda x: x.op("Abs"), None),
    np.cos: (lambda x: x.op("Cos"), None),
    np.exp: (lambda x: x.op("Exp"), np.log),
    np.expm1: (scalers.expm1, np.log1p),
    np.log: (lambda x: x.op("Log"), np.exp),
    np.log10: (lambda x: x.op("Log") / np.log(10.0), lambda x: 10.0**x),
    np.log1p: (scalers.log1p, np.expm1),
    np.log2: (lambda x: x.op("Log") / np.log(2.0), np.exp2),
    np.negative: (lambda x: x.op("Neg"), np.negative),
    np.reciprocal: (lambda x: x.op("Reciprocal"), np.reciprocal),
    np.sign: (lambda x: x.op("Sign"), None),
    np.sin: (lambda x: x.op("Sin"), None),
    np.sqrt: (lambda x: x.op("Sqrt"), np.square),
    np.square: (lambda x: x * x, np.sqrt),
    np.tanh: (lambda x: x.op("Tanh"), None),
}

_FORMS: dict[type, Form] = {
    decomposition.FactorAnalysis: _factors,
    decomposition.FastICA: _ica,
    decomposition.IncrementalPCA: _pca,
    decomposition.PCA: _pca,
    decomposition.TruncatedSVD: _projection,
    preprocessing.Binarizer: scalers.binarizer,
    preprocessing.KBinsDiscretizer: _bins,
    preprocessing.MaxAbsScaler: scalers.max_abs,
    preprocessing.MinMaxScaler: scalers.min_max,
    preprocessing.Normalizer: scalers.normalizer,
    preprocessing.PolynomialFeatures: _polynomial,
    preprocessing.PowerTransformer: scalers.power,
    preprocessing.QuantileTransformer: scalers.quantile,
    preprocessing.RobustScaler: scalers.robust,
    preprocessing.StandardScaler: scalers.standard,
    random_projection.GaussianRandomProjection: _projection,
    random_projection.SparseRandomProjection: _projection,
}
_OTHERS = (preprocessing.FunctionTransformer, impute.SimpleImputer, impute.MissingIndicator, *ENCODERS)
