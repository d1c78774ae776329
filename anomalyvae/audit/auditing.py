"""The audit of a data set: sparse and dense regions, outliers, duplicates, leaks, and differences between groups."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from anomalyvae.audit.duplicates import MAX_ROWS, Duplicates, standardised
from anomalyvae.audit.groups import group_figures, held_out_excess
from anomalyvae.audit.regions import (
    describe_regions,
    distinguishing_columns,
    effective_rows,
    find_regions,
    inverse_density_weights,
    neighbour_density,
)
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.detector.among import FEWEST
from anomalyvae.detector.categories import as_pandas
from anomalyvae.tables.arrays import one_per_row
from anomalyvae.untrusted import listed

Column = str | ArrayLike | None


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found. Rows are named by their index in ``X``, or by position without an index.

    Parameters
    ----------
    regions : DataFrame
        A row per region of the latent space, sparsest first; see `anomalyvae.audit.regions.describe_regions`.
    columns : DataFrame
        The columns in which each region differs most: ``region``, ``column``, ``direction`` and ``difference``, in
        standard deviations of the column.
    region : Series of shape (n,)
        The region of each row.
    density : Series of shape (n,)
        Density of rows around each row, relative to the median row.
    weights : Series of shape (n,)
        For ``sample_weight`` of any model: of mean 1, larger in sparse regions.
    outliers : DataFrame or None
        The rows that are called outliers, most anomalous first: ``row``, ``anomaly_score`` and ``p_value``; see
        `VAEOutlierDetector.outliers_among`. None for windows and fewer than 20 rows.
    duplicates : DataFrame
        ``row``, ``duplicate_of``, ``kind`` (exact, near), ``distance`` in standard deviations per cell.
    leaks : DataFrame or None
        With ``split``: the same for duplicates in another part, with ``split`` and ``duplicate_split``.
    shared_recordings : DataFrame or None
        With ``split`` and ``recording``: the recordings in several parts, with ``splits``.
    groups : DataFrame or None
        With ``group``: a row per group and figure; see `anomalyvae.audit.groups.group_figures`.
    reweighted : DataFrame or None
        With ``reweighted=True``: the same for a detector that learns with the weights.
    near_searched : int
        Number of rows searched for near duplicates.
    """

    regions: pd.DataFrame
    columns: pd.DataFrame
    region: pd.Series
    density: pd.Series
    weights: pd.Series
    outliers: pd.DataFrame | None
    duplicates: pd.DataFrame
    leaks: pd.DataFrame | None
    shared_recordings: pd.DataFrame | None
    groups: pd.DataFrame | None
    reweighted: pd.DataFrame | None
    near_searched: int

    @property
    def effective_rows(self) -> float:
        """Effective sample size of the weighted rows."""
        return effective_rows(self.weights)

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name, with the index as columns."""
        rows = pd.DataFrame({"weight": self.weights, "density": self.density, "region": self.region})
        rows.insert(0, "row", rows.index.to_flat_index())
        found = {
            "regions": self.regions.reset_index(),
            "columns": self.columns,
            "rows": rows.reset_index(drop=True),
            "outliers": self.outliers,
            "duplicates": self.duplicates,
            "leaks": self.leaks,
            "shared_recordings": self.shared_recordings,
            "groups": self.groups,
            "reweighted": self.reweighted,
        }
        return {name: table for name, table in found.items() if table is not None}


def audit(
    X: ArrayLike | pd.DataFrame,
    detector: VAEOutlierDetector | None = None,
    *,
    group: Column = None,
    split: Column = None,
    y: Column = None,
    recording: Column = None,
    regions: int | None = None,
    bound: float = 20.0,
    reweighted: bool = False,
    random_state: int = 0,
) -> Audit:
    """Find imbalance, outliers, duplicates and leaks in a data set, without labels.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n, d)
    detector : VAEOutlierDetector, optional
        Whose latent space is used: as it is, if fitted; otherwise a clone learns ``X``. By default one with default
        settings. With ``group``, clones of it are fitted anew.
    group : str or array-like of shape (n,), optional
        The group of each row; groups are compared. A str is the name of a column of ``X``, here and below; that column
        is not learned. Pass ``X[name]`` to have it learned too.
    split : str or array-like of shape (n,), optional
        The part of a split of each row: train, test, ...
    y : str or array-like of shape (n,), optional
        1 or True for known outliers. They are not learned.
    recording : str or array-like of shape (n,), optional
        The recording (drive, machine, patient, ...) of each row: held out, and resampled, as a whole.
    regions : int, optional
        Their number before those of fewer than ten rows are merged; by default one per 30 rows, at least 2, at most 16.
    bound : float, default=20.0
        Weights lie between 1 / bound and bound times that of the median row.
    reweighted : bool, default=False
        Also compare groups by a detector that learns with the weights; doubles the time.
    random_state : int, default=0

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        For an unknown column, labels other than 0 and 1, a single group, ``reweighted`` without groups, or another
        detector, such as a Pipeline.

    Notes
    -----
    Densities and regions are computed in the space of the detector's memory: the row, its latent code and its
    reconstruction error, side by side. The code alone does not separate rows of a rare kind: an encoder that hardly
    learned them maps them among the others.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame(rng.normal(size=(520, 3)), columns=["speed", "load", "heat"])
    >>> X.loc[500:, "heat"] += 9
    >>> found = audit(X, VAEOutlierDetector(max_epochs=5, random_state=0))
    >>> found.columns.iloc[0][["column", "direction"]].tolist()
    ['heat', 'higher']
    >>> bool(found.weights[500:].mean() > 2 * found.weights[:500].mean())
    True
    """
    if not isinstance(detector, VAEOutlierDetector | None):
        raise ValueError(
            f"Got a {type(detector).__name__}, expected a VAEOutlierDetector (--model). Of a Pipeline, take the last "
            "step, and rows that the steps before it have transformed."
        )
    if regions is not None and not (isinstance(regions, int) and regions >= 1):
        raise ValueError(f"Got regions={regions!r}, expected an integer of at least 1. Leave it out for the default.")
    inverse_density_weights([1.0], bound=bound)  # refuses a bound before the work begins
    X = as_pandas(X)
    table, known = _split_off(X, {"group": group, "split": split, "y": y, "recording": recording})
    outlier = None if "y" not in known else _labels(known["y"])
    if reweighted and "group" not in known:
        raise ValueError("reweighted=True compares groups, and no group was given. Pass group (--group).")
    if "group" in known and known["group"].nunique() < 2:
        raise ValueError(f"All rows are in one group, {known['group'].iloc[0]!r}. Leave group out, or pass several.")

    rows = table if isinstance(X, pd.DataFrame) else table.to_numpy()
    model = VAEOutlierDetector(random_state=random_state) if detector is None else detector
    fitted = _fitted(model, rows, outlier)
    points = fitted._apply(fitted.network_.features, fitted._rows(rows))  # (n, k), in the space of its memory
    density = neighbour_density(points, random_state=random_state)
    weight = inverse_density_weights(density, bound=bound)
    cells = standardised(table)
    region, described, columns = _regions(points, cells, density, weight, known.get("group"), regions, random_state)
    duplicates = Duplicates.of(table, cells, random_state)
    shared: dict[str, Any] = {"outlier": outlier, "recording": known.get("recording"), "seed": random_state}

    def by_group(learned_with: NDArray[np.float64] | None) -> pd.DataFrame:
        excess = held_out_excess(rows, model, weight=learned_with, **shared)
        return group_figures(excess, known["group"], **shared)

    index, names = table.index, table.index.to_flat_index()
    return Audit(
        regions=described.assign(medoid=names[described["medoid"]]),
        columns=columns,
        region=pd.Series(region, index=index, name="region"),
        density=pd.Series(density, index=index, name="density"),
        weights=pd.Series(weight, index=index, name="sample_weight"),
        outliers=_outliers(fitted, rows, names),
        duplicates=_named(duplicates.within(), names),
        leaks=_named(duplicates.across(known["split"]), names) if "split" in known else None,
        shared_recordings=_shared_recordings(known.get("split"), known.get("recording")),
        groups=by_group(None) if "group" in known else None,
        reweighted=by_group(weight) if reweighted else None,
        near_searched=min(len(table), MAX_ROWS),
    )


def _split_off(X: Any, columns: dict[str, Column]) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The columns of ``X`` that are learned, and the values per row of those that describe the rows."""
    table = X.copy() if isinstance(X, pd.DataFrame) else as_pandas(pd.DataFrame(np.asarray(X)).rename(columns=str))
    known = {name: _values(table, column, name) for name, column in columns.items() if column is not None}
    table = table.drop(columns=[column for column in columns.values() if isinstance(column, str)])
    if table.shape[1] == 0:
        raise ValueError("No column is left besides group, split, y and recording. Pass columns to audit.")
    return table, known


def _values(table: pd.DataFrame, value: Any, name: str) -> pd.Series:
    """A value per row, from a column name or an array; missing values become a level of their own."""
    if isinstance(value, str):
        if value not in [*table.columns]:
            raise ValueError(
                f"{name}={value!r} is no column of X, which has {', '.join(map(str, table.columns))}. Correct the name."
            )
        series = table[value]
    else:
        series = pd.Series(one_per_row(value, len(table), name))
    series = series.reset_index(drop=True)
    if name == "y":
        return series
    texts = series.convert_dtypes().astype("str")  # 1, where a missing cell made it 1.0
    return texts.where(series.notna(), "(missing)")


def _labels(y: pd.Series) -> NDArray[np.bool_]:
    if not y.isin([0, 1]).all():
        raise ValueError(
            f"The labels are {listed(sorted(map(repr, y.unique().tolist())))}, expected 0 and 1 (or False and "
            "True). Pass labels == VALUE (--positive VALUE), with the value that marks outliers."
        )
    outlier = y.astype(bool).to_numpy()
    if (~outlier).sum() < 2:
        raise ValueError(f"The labels leave {(~outlier).sum()} normal rows to learn, expected at least 2. Correct y.")
    return outlier


def _fitted(detector: VAEOutlierDetector, rows: Any, outlier: NDArray[np.bool_] | None) -> VAEOutlierDetector:
    """The detector, if fitted, or a clone fitted to the rows, without a threshold."""
    if hasattr(detector, "network_"):
        return detector
    model = clone(detector).set_params(validation_fraction=0.0)
    return model.fit(rows if outlier is None else rows[~outlier])


def _outliers(detector: VAEOutlierDetector, rows: Any, names: pd.Index) -> pd.DataFrame | None:
    """The rows that are called outliers, most anomalous first."""
    if len(rows) < FEWEST or len(detector.network_.input_shape) == 2:
        return None
    found = detector.outliers_among(rows).set_axis(names, axis=0).rename_axis("row")
    called = found[found["outlier"]].sort_values("anomaly_score", ascending=False, kind="stable")
    return called.drop(columns="outlier").reset_index()


def _regions(
    points: NDArray[np.float64],
    cells: pd.DataFrame,
    density: NDArray[np.float64],
    weight: NDArray[np.float64],
    group: pd.Series | None,
    number: int | None,
    seed: int,
) -> tuple[NDArray[np.int64], pd.DataFrame, pd.DataFrame]:
    """The region of each row, numbered from the sparsest; their description; and their distinguishing columns."""
    found = find_regions(points, number, seed)
    described = describe_regions(found, points, density, weight, group)
    number_of = pd.Series(range(1, len(described) + 1), index=described.index)
    region = np.asarray(number_of[found], dtype=np.int64)
    return region, described.set_axis(number_of, axis=0).rename_axis("region"), distinguishing_columns(region, cells)


def _named(pairs: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """Pairs with row names instead of positions."""
    return pairs.assign(row=index[pairs["row"]], duplicate_of=index[pairs["duplicate_of"]])


def _shared_recordings(split: pd.Series | None, recording: pd.Series | None) -> pd.DataFrame | None:
    """Recordings that are in several parts of a split."""
    if split is None or recording is None:
        return None
    sides = pd.DataFrame({"split": split, "recording": recording}).groupby("recording")["split"].unique()
    several = sides[sides.map(len) > 1]
    return pd.DataFrame({"recording": several.index, "splits": several.map(lambda s: ", ".join(sorted(s))).to_numpy()})
