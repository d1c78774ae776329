"""Whether exported files score as their models do, on generated pipelines and tables.

    python pipelines/benchmarks/parity.py                 # 300 cases, about two minutes on one core
    python pipelines/benchmarks/parity.py --only 17 42    # these cases again
    python pipelines/benchmarks/parity.py --first 1000    # 300 others

Each number is the seed of a case: a table with awkward columns, a detector of any kind and, for most, a Pipeline before
it. The case is fitted briefly and exported. Model and file then score fresh, training and mutated rows. A refusal to
export is counted by its reason. A file differs if it gives

- another label, unless the score lies within the tolerance of the threshold (and is not equal to it);
- another p-value, unless the scores of calibration rows within the tolerance explain it; equal scores are ties;
- a score that is further away than the tolerance: 1e-4 of the score or of the model's typical score, or the rounding
  error of a distance where that is larger;
- an error for rows that the model takes.

A graph cannot refuse a row whose transformed cells are infinite; such rows are counted, not compared. The exit code is
1 if a file differs.
"""

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import decomposition, impute, preprocessing
from sklearn import feature_selection as selection
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx
from anomalyvae.export.numeric import FUNCTIONS
from anomalyvae.nets.objectives import OBJECTIVES

TOLERANCE = 1e-4  # relative; what export_onnx promises
SMALLEST = 0.01  # scores are in standardised units, where smaller ones are as good as 0
FRESH = 60

Rng = np.random.Generator
Array = NDArray[Any]


# Tables


def _holed(rng: Rng, n: int) -> Array:
    return np.where(rng.random(n) < 0.2, np.nan, rng.normal(5, 2, n))


def _level(rng: Rng, n: int) -> Array:
    return 10.0 ** rng.integers(4, 10) + rng.choice([1e-3, 1.0, 50.0]) * rng.standard_normal(n)


def _jitter(rng: Rng, n: int) -> Array:
    level = rng.choice([0.1, 1.7e9, -273.15])
    return np.asarray(level * (1 + rng.integers(-1, 2, n) * np.finfo(float).eps))


NUMBERS: dict[str, Callable[[Rng, int], Array]] = {
    "normal": lambda rng, n: rng.normal(rng.normal(0, 10), 10.0 ** rng.integers(-2, 3), n),
    "level": _level,
    "constant": lambda rng, n: np.full(n, rng.choice([0.0, 0.1, 3.0, 1e9, -7e-12])),
    "jitter": _jitter,
    "counts": lambda rng, n: rng.poisson(2, n),
    "identifier": lambda rng, n: 2**53 + rng.integers(0, 2**60, n),
    "seconds": lambda rng, n: 1_700_000_000 + rng.integers(0, 10**6, n),
    "repeats": lambda rng, n: rng.choice([0.0, 1.5, 7.25], n, p=[0.8, 0.15, 0.05]),
    "tiny": lambda rng, n: 1e-12 * rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_cauchy(n),
    "skewed": lambda rng, n: np.exp(3 * rng.standard_normal(n)),
    "single": lambda rng, n: rng.standard_normal(n).astype(np.float32),
    "holed": _holed,
    "rarely_set": lambda rng, n: np.where(rng.random(n) < 0.02, 1e3, 0.0),
}


def _text(rng: Rng, n: int) -> Array:
    return np.asarray(
        rng.choice(["dry", "wet", "ice", "", " wet", "grün"], n, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05]), object
    )


def _holed_text(rng: Rng, n: int) -> Array:
    return np.where(rng.random(n) < 0.2, np.array(None, dtype=object), _text(rng, n))


LEVELS: dict[str, Callable[[Rng, int], Any]] = {
    "text": _text,
    "holed_text": _holed_text,
    "category": lambda rng, n: pd.Categorical(rng.choice(["a", "b", "c"], n), categories=["c", "a", "b"]),
    "bool": lambda rng, n: rng.random(n) < 0.3,
    "gear": lambda rng, n: rng.integers(1, 6, n),
}


def table(rng: Rng, n: int, kinds: Iterable[str]) -> pd.DataFrame:
    """Rows with a column of each kind, some of which depend on each other; in some tables most rows are equal."""
    made = {f"{kind} {i}": ({**NUMBERS, **LEVELS}[kind])(rng, n) for i, kind in enumerate(kinds)}
    frame = pd.DataFrame(made)
    share = rng.choice([0.0, 0.0, 0.0, 0.0, 0.5, 0.9, 1.0])
    idle = np.flatnonzero(rng.random(n) < share)
    place = np.arange(n)
    place[idle] = 0
    return frame.iloc[place].reset_index(drop=True)


def mutated(rng: Rng, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, each with a few cells changed: missing, far, zero, next to itself, of another row, of no level."""
    cells = rows.astype(object)
    for i in range(len(cells)):
        for j in rng.choice(cells.shape[1], rng.integers(1, 3)):
            cells.iloc[i, j] = _changed(rng, cells.iloc[i, j], rows.iloc[:, j])
    changed = {}
    for name in rows:
        try:
            changed[name] = cells[name].astype(rows[name].dtype)
        except (TypeError, ValueError):  # whole numbers or booleans with a missing or a broken cell
            changed[name] = cells[name] if rows[name].dtype == bool else pd.to_numeric(cells[name])
    return pd.DataFrame(changed)


def _changed(rng: Rng, cell: Any, column: "pd.Series[Any]") -> Any:
    other = column.iloc[rng.integers(len(column))]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return other
    if isinstance(cell, bool | np.bool_):
        return not cell
    if cell is None or isinstance(cell, str):
        return [None, "unheard of", "WET", other][rng.integers(4)]
    if column.dtype.kind in "iu":
        return [other, 0, -int(cell), int(cell) + 1, int(other) * 3][rng.integers(5)]
    far = cell + 10.0 ** rng.integers(-9, 30) * rng.choice([-1, 1])
    return [np.nan, far, 0.0, -0.0, -cell, np.nextafter(cell, np.inf), 5e-324, other][rng.integers(8)]


# Models


def detector(rng: Rng, width: int | None) -> dict[str, Any]:
    """Parameters of a detector; ``width`` is the number of columns where all are numbers and no step precedes it."""
    objective = str(rng.choice([*OBJECTIVES]))
    chosen: dict[str, Any] = {
        "objective": objective,
        "criterion": str(rng.choice(["novelty", *OBJECTIVES[objective].scores])),
        "scaling": [None, "asinh", "standard", "robust", "quantile"][rng.integers(5)],
        "validation_fraction": ["auto", 0.0, 0.4][rng.integers(3)],
        "contamination": ["auto", "auto", 0.1][rng.integers(3)],
        "latent_dim": int(rng.integers(1, 4)),
        "max_epochs": int(rng.integers(1, 3)),
        "random_state": int(rng.integers(100)),
        "hidden": (8,),
    }
    if width is not None and rng.random() < 0.5:
        chosen["likelihood"] = str(rng.choice(["gaussian", "isotropic"]))
        if width % 2 == 0:
            body = str(rng.choice(["mlp", "conv2d", "mlp"]))  # windows, images
            chosen |= {"body": body, "input_shape": (1, 2, width // 2) if body == "conv2d" else (2, width // 2)}
    return chosen


def numeric_step(rng: Rng, holes: bool) -> Any:
    """A transformer of numbers; with holes, one that takes missing cells."""
    takes_holes: list[Any] = [
        preprocessing.StandardScaler(with_mean=bool(rng.random() < 0.7)),
        preprocessing.MinMaxScaler((-1, 2), clip=bool(rng.random() < 0.5)),
        preprocessing.MaxAbsScaler(),
        preprocessing.RobustScaler(with_centering=bool(rng.random() < 0.7)),
        preprocessing.PowerTransformer(standardize=bool(rng.random() < 0.7)),
        preprocessing.FunctionTransformer([None, *FUNCTIONS][rng.integers(1 + len(FUNCTIONS))]),
        selection.VarianceThreshold(),
        FeatureUnion([("scaled", preprocessing.StandardScaler()), ("as it is", "passthrough")],
                     transformer_weights={"scaled": 2.5}),
        FeatureUnion([("filled", impute.SimpleImputer()), ("holes", impute.MissingIndicator(features="all"))]),
        preprocessing.QuantileTransformer(n_quantiles=10),  # has no graph
    ]  # fmt: skip
    takes_none: list[Any] = [
        decomposition.PCA(whiten=bool(rng.random() < 0.3)),
        decomposition.IncrementalPCA(1),
        preprocessing.PolynomialFeatures(2, interaction_only=bool(rng.random() < 0.5)),
        preprocessing.KBinsDiscretizer(
            4, encode=str(rng.choice(["onehot-dense", "ordinal"])), quantile_method="linear"
        ),
        selection.SelectKBest(selection.f_regression, k=1),
    ]
    choices = takes_holes if holes else takes_holes + 2 * takes_none
    return choices[rng.integers(len(choices))]


def numeric_steps(rng: Rng) -> list[Any]:
    """One to three transformers of numbers, most with an imputer before them."""
    fill = impute.SimpleImputer(strategy=str(rng.choice(["mean", "median", "most_frequent"])),
                                add_indicator=bool(rng.random() < 0.3))  # fmt: skip
    holes = bool(rng.random() < 0.3)
    return ([] if holes else [fill]) + [numeric_step(rng, holes) for _ in range(rng.integers(1, 4))]


def encoder(rng: Rng) -> Any:
    """An encoder of levels."""
    choices: list[Any] = [
        preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        preprocessing.OneHotEncoder(handle_unknown="ignore", min_frequency=8, sparse_output=False),
        preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=2, sparse_output=False),
        preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
        preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
        preprocessing.OneHotEncoder(sparse_output=False),  # refuses an unknown level, as a graph cannot
    ]
    return choices[rng.integers(len(choices))]


@dataclass(frozen=True)
class Case:
    """A model to fit, its training rows, fresh and mutated rows, and how it is fitted and exported."""

    model: Any
    training: Any
    fresh: Any
    mutated: Any
    weight: NDArray[np.float64] | None
    export: dict[str, Any]

    def fit(self) -> Any:
        """Fit the model; a selector needs a target, and gets the number of the row."""
        prefix = f"{self.model.steps[-1][0]}__" if isinstance(self.model, Pipeline) else ""
        given = {} if self.weight is None else {f"{prefix}sample_weight": self.weight}
        return self.model.fit(self.training, np.arange(len(self.training)), **given)


def case(seed: int) -> Case:
    """The case of a number: always the same."""
    rng = np.random.default_rng(seed)
    n, form = int(rng.integers(40, 220)), rng.choice(["bare", "unit", "levels", "numbers", "array", "columns", "frame"])
    numbers = list(rng.choice([*NUMBERS], rng.integers(2, 6)))
    levels = list(rng.choice([*LEVELS], rng.integers(1, 4))) if form in ("levels", "columns", "frame") else []
    rows = table(rng, n + FRESH, numbers + levels)
    if form == "unit":  # cells in [0, 1]
        rows = rows.rank(pct=True).fillna(0.0) if rng.random() < 0.5 else (rows > rows.median()).astype(float)
    params = detector(rng, len(numbers) if form == "bare" else None)
    if form == "unit":
        params["likelihood"] = "bernoulli"
    last = VAEOutlierDetector(**params)
    model: Any = last
    if form in ("numbers", "array"):
        model = make_pipeline(*numeric_steps(rng), last)
    elif form in ("columns", "frame"):
        names = [*rows]
        parts = [("numbers", make_pipeline(*numeric_steps(rng)), names[: len(numbers)])]
        if form == "columns":
            fill = impute.SimpleImputer(strategy="most_frequent", missing_values=None)
            steps = [("encode", encoder(rng))]
            steps = [("fill", fill), *steps] if rng.random() < 0.3 else steps
            parts.append(("levels", Pipeline(steps), names[len(numbers) :]))
        rest = "drop" if form == "columns" else "passthrough"  # a frame's levels are categories of the detector
        before = ColumnTransformer(parts, remainder=rest, verbose_feature_names_out=False)
        model = make_pipeline(before.set_output(transform="pandas") if form == "frame" else before, last)
    training: Any = rows[:n]
    fresh: Any = rows[n:].reset_index(drop=True)
    odd: Any = mutated(rng, pd.concat([training[:FRESH], fresh], ignore_index=True))
    if form == "array":
        training, fresh, odd = (part.to_numpy(np.float64) for part in (training, fresh, odd))
    weight = rng.choice([0.5, 1.0, 3.0], n) if rng.random() < 0.2 else None
    export: dict[str, Any] = {"precision": str(rng.choice(["auto", "auto", "double"]))}
    if rng.random() < 0.5 and model is not last:
        export["sample"] = training
    return Case(model, training, fresh, odd, weight, export)


# Comparison


def differences(model: Any, scorer: Scorer, rows: Any) -> tuple[list[str], int]:
    """What differs between a model and its file, and how many rows the model alone refuses."""
    taken = _taken(model, rows)
    if not taken.any():
        return [], len(rows)
    kept = rows[taken]
    last = model.steps[-1][1] if isinstance(model, Pipeline) else model
    expected, label = -model.score_samples(kept), model.predict(kept) < 0
    try:
        got = scorer.score(kept)
    except ValueError as error:
        return [f"the file refuses rows that the model takes: {error}"], int((~taken).sum())
    typical = float(np.median(np.abs(last.calibration_.scores)))
    near = TOLERANCE * np.maximum(np.abs(expected), max(typical, SMALLEST))
    away = np.abs(expected + last.offset_)
    p = last.calibration_.p_values
    at, least, most = p(expected), p(expected + near), p(expected - near)
    noise = last.network_.rounding_error
    next_up = np.append(last.calibration_.scores, np.inf)[np.searchsorted(last.calibration_.scores, expected)]
    size = np.maximum(np.abs(expected), typical)
    tied = next_up - expected <= 2e-9 * size + 2 * noise
    least = np.where(tied, at, least)
    wrong = {
        "score": ~(np.abs(got["anomaly_score"] - expected) <= np.maximum(near, 8 * noise)),
        "label": (got["is_outlier"] != label) & ((away > near) | (away == 0)),
        "p-value": ~((got["p_value"] >= least - 1e-9) & (got["p_value"] <= most + 1e-9)),
    }
    found = []
    for name, rows_of in wrong.items():
        if rows_of.any():
            i = int(np.flatnonzero(rows_of)[0])
            ours = _shown(expected[i], at[i], label[i])
            theirs = _shown(got["anomaly_score"][i], got["p_value"][i], got["is_outlier"][i])
            found.append(f"{rows_of.sum()} of {len(kept)} {name}s, such as row {i}: model {ours}, file {theirs}")
    return found, int((~taken).sum())


def _shown(score: float, p: float, outlier: bool) -> str:
    return f"{score:.9g} (p {p:.4g}, {'outlier' if outlier else 'normal'})"


def _taken(model: Any, rows: Any) -> NDArray[np.bool_]:
    """The rows that a model takes; a Pipeline may refuse all for the sake of one."""
    if _takes(model, rows):
        return np.ones(len(rows), dtype=bool)
    return np.array([_takes(model, rows[i : i + 1]) for i in range(len(rows))])


def _takes(model: Any, rows: Any) -> bool:
    try:
        model.score_samples(rows)
    except ValueError:
        return False
    return True


def outcome(seed: int, folder: Path) -> tuple[str, str, int]:
    """What became of a case: "same", "differs", "refused" or "unfitted"; the details; rows that the model refuses."""
    made = case(seed)
    try:
        model = made.fit()
    except (ValueError, IndexError) as error:  # such as a step that leaves no column, or KBinsDiscretizer of equal rows
        return "unfitted", _short(error), 0
    try:
        file = export_onnx(model, folder / f"{seed}.onnx", **made.export)
    except (ArithmeticError, TypeError, ValueError) as error:
        return "refused", _short(error), 0
    scorer, details, refused = Scorer(file), [], 0
    for name, rows in (("fresh", made.fresh), ("training", made.training), ("mutated", made.mutated)):
        found, count = differences(model, scorer, rows)
        details += [f"{name} rows ({scorer.metadata['precision']}): {what}" for what in found]
        refused += count
    return ("differs" if details else "same"), "\n  ".join(details), refused


def _short(error: Exception) -> str:
    """The reason of an error, without the names and numbers of its case."""
    reason = re.sub(r"'.*?'", "...", str(error).split("\n")[0].split(". ")[0])
    return f"{type(error).__name__}: {re.sub(r'[0-9.e+-]*[0-9]', 'N', reason)[:110]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", type=int, nargs="+", help="the numbers of some cases")
    arguments = parser.parse_args()
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.only or range(arguments.first, arguments.first + arguments.cases):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about columns and rows that are odd on purpose
                kind, details, count = outcome(seed, Path(folder))
            kinds[kind] += 1
            refused += count
            if kind == "differs":
                print(f"case {seed} differs\n  {details}", flush=True)
            elif details:
                reasons[f"{kind}: {details}"] += 1
    written = kinds["same"] + kinds["differs"]
    print(f"{written} written, {kinds['refused']} refused at export, {kinds['unfitted']} refused at fit")
    for reason, times in reasons.most_common():
        print(f"  {times:3d} {reason}")
    print(f"{refused} rows that the Pipeline refuses were left out")
    print(f"{kinds['differs']} differ")
    return int(kinds["differs"] > 0)


if __name__ == "__main__":
    sys.exit(main())
