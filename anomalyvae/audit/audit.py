"""What is uneven in a data set: thin and crowded regions, duplicates, leaks, and groups that fare differently."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_consistent_length

from anomalyvae.audit.duplicates import MAX_ROWS, Twins, standardised
from anomalyvae.audit.groups import group_figures, held_out_excess
from anomalyvae.audit.regions import describe_regions, distinguishing_columns, find_regions
from anomalyvae.audit.weights import effective_rows, evening_weights, neighbour_density
from anomalyvae.detector import VAEOutlierDetector

Column = str | ArrayLike | None


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found. Rows are named by their index in ``X`` (by position, if it has none).

    Parameters
    ----------
    regions : DataFrame
        A row per region of the latent space, thinnest first; see `anomalyvae.audit.regions.describe_regions`.
    columns : DataFrame
        The columns that set each region apart: ``region``, ``column``, ``direction`` and ``difference``, in standard
        deviations of the column.
    region : Series of shape (n,)
        The region of each row.
    density : Series of shape (n,)
        How densely rows lie around each row, relative to the median row.
    weights : Series of shape (n,)
        For ``sample_weight`` of any model: of mean 1, larger where rows are thin.
    duplicates : DataFrame
        ``row``, ``twin``, ``kind`` (exact, near), ``distance`` in standard deviations per cell.
    leaks : DataFrame or None
        With ``split``: the same for rows whose twin is on another side, with ``split`` and ``twin_split``.
    shared_recordings : DataFrame or None
        With ``split`` and ``recording``: the recordings that are on several sides, with ``splits``.
    groups : DataFrame or None
        With ``group``: a row per group and figure; see `anomalyvae.audit.groups.group_figures`.
    reweighted : DataFrame or None
        The same for a detector that learns with the weights, where that was asked for.
    near_sought : int
        Among how many rows near-duplicates were sought.
    """

    regions: pd.DataFrame
    columns: pd.DataFrame
    region: pd.Series
    density: pd.Series
    weights: pd.Series
    duplicates: pd.DataFrame
    leaks: pd.DataFrame | None
    shared_recordings: pd.DataFrame | None
    groups: pd.DataFrame | None
    reweighted: pd.DataFrame | None
    near_sought: int

    @property
    def effective_rows(self) -> float:
        """How many rows of equal weight tell as much as all rows with theirs."""
        return effective_rows(self.weights)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table there is, by name, as columns alone."""
        rows = pd.DataFrame({"weight": self.weights, "density": self.density, "region": self.region})
        found = {
            "regions": self.regions.reset_index(),
            "columns": self.columns,
            "rows": rows.rename_axis("row").reset_index(),
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
    """Look for what is uneven in a data set, without labels.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n, d)
    detector : VAEOutlierDetector, optional
        Whose latent space is looked at: as it is, if it is fitted; otherwise a clone learns ``X``. By default a
        default one. With ``group``, clones of it are fitted anew.
    group : str or array-like of shape (n,), optional
        The group of each row whose treatment is compared. A str is the name of a column of ``X``, here and below; that
        column is taken out of what is learned. Pass ``X[name]`` to leave it in.
    split : str or array-like of shape (n,), optional
        The side of a split that each row is on.
    y : str or array-like of shape (n,), optional
        1 or True for rows that are known to be strange. They are not learned.
    recording : str or array-like of shape (n,), optional
        The recording (drive, machine, patient, ...) of each row: it is left out, and redrawn, as a whole.
    regions : int, optional
        Their number before those of fewer than ten rows join their nearest; by default as many as leave 30 rows to
        each on average, at least 2, at most 16.
    bound : float, default=20.0
        Weights lie between 1 / bound and bound times that of the median row.
    reweighted : bool, default=False
        Also judge groups by a detector that learns with the weights; takes the time of ``group`` again.
    random_state : int, default=0

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        For a column that ``X`` has not, labels other than 0 and 1, a single group, or ``reweighted`` without groups.

    Notes
    -----
    Densities and regions are those of the space in which the detector remembers rows: the row, its latent code and
    what its reconstruction got wrong, side by side. By the code alone, rows of a kind that was hardly learned hide
    among others: the encoder knows no better place for them.

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
    table = X.copy() if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X)).rename(columns=str)
    given = {"group": group, "split": split, "y": y, "recording": recording}
    taken = {name: _taken(table, value, name) for name, value in given.items() if value is not None}
    table = table.drop(columns=[value for value in given.values() if isinstance(value, str)])
    if table.shape[1] == 0:
        raise ValueError("Got no column beside those that are taken out, expected some to look at. Add them.")
    strange = None if "y" not in taken else _labels(taken["y"])
    if reweighted and "group" not in taken:
        raise ValueError("Got reweighted=True without group, expected groups to judge. Pass group.")
    if "group" in taken and taken["group"].nunique() < 2:
        raise ValueError(f"Got one group, {taken['group'].iloc[0]!r}, expected several to compare. Leave group out.")

    rows = table if isinstance(X, pd.DataFrame) else table.to_numpy()
    recipe = VAEOutlierDetector(random_state=random_state) if detector is None else detector
    points = _points(_fitted(recipe, rows, strange), rows)
    density = neighbour_density(points, random_state=random_state)
    weight = evening_weights(density, bound=bound)
    cells = standardised(table)
    region, described, columns = _regions(points, cells, density, weight, taken.get("group"), regions, random_state)
    twins = Twins.of(table, cells, random_state)
    found: dict[str, pd.DataFrame | None] = {"groups": None, "reweighted": None}
    if "group" in taken:
        known: dict[str, Any] = {"strange": strange, "recording": taken.get("recording"), "seed": random_state}
        for name, used in [("groups", None), ("reweighted", weight)][: 1 + reweighted]:
            excess = held_out_excess(rows, recipe, weight=used, **known)
            found[name] = group_figures(excess, taken["group"], **known)
    index = table.index
    return Audit(
        regions=described.assign(medoid=index[described["medoid"]]),
        columns=columns,
        region=pd.Series(region, index=index, name="region"),
        density=pd.Series(density, index=index, name="density"),
        weights=pd.Series(weight, index=index, name="sample_weight"),
        duplicates=_named(twins.duplicates(), index),
        leaks=_named(twins.leaks(taken["split"]), index) if "split" in taken else None,
        shared_recordings=_shared(taken.get("split"), taken.get("recording")),
        groups=found["groups"],
        reweighted=found["reweighted"],
        near_sought=min(len(table), MAX_ROWS),
    )


def _taken(table: pd.DataFrame, value: Any, name: str) -> pd.Series:
    """A value per row, by the name of a column or as it came; missing ones are a level of their own."""
    if isinstance(value, str):
        if value not in table:
            raise ValueError(
                f"Got {name}={value!r}, expected one of the columns {', '.join(map(str, table.columns))}. Correct it."
            )
        series = table[value]
    else:
        series = pd.Series(np.asarray(value))
        check_consistent_length(table, series)
    series = series.reset_index(drop=True)
    return series if name == "y" else series.astype("str").where(series.notna(), "(missing)")


def _labels(y: pd.Series) -> NDArray[np.bool_]:
    if not y.isin([0, 1]).all():
        raise ValueError(
            f"Got labels {', '.join(map(repr, sorted(y.unique(), key=str)[:5]))}, expected 0 or 1 (False or True), 1 "
            "for strange rows. Compare with the label's value for those."
        )
    return y.astype(bool).to_numpy()


def _fitted(detector: VAEOutlierDetector, rows: Any, strange: NDArray[np.bool_] | None) -> VAEOutlierDetector:
    """The detector itself, or a clone that has learned the rows; no threshold is asked of it."""
    if hasattr(detector, "network_"):
        return detector
    model = clone(detector).set_params(validation_fraction=0.0)
    return model.fit(rows if strange is None else rows[~strange])


def _points(detector: VAEOutlierDetector, rows: Any) -> NDArray[np.float64]:
    """Where each row lies in the space in which the detector remembers rows, shape ``(n, k)``."""
    network = detector.network_
    return detector._apply(lambda x: network.joint(network.scaling(x)), detector._rows(rows))


def _regions(
    points: NDArray[np.float64],
    cells: pd.DataFrame,
    density: NDArray[np.float64],
    weight: NDArray[np.float64],
    group: pd.Series | None,
    number: int | None,
    seed: int,
) -> tuple[NDArray[np.int64], pd.DataFrame, pd.DataFrame]:
    """Regions, numbered from the thinnest: of each row, described, and told apart by columns."""
    place = find_regions(points, number, seed)
    described = describe_regions(place, points, density, weight, group)
    number_of = pd.Series(range(1, len(described) + 1), index=described.index)
    region = np.asarray(number_of[place], dtype=np.int64)
    return region, described.set_axis(number_of, axis=0).rename_axis("region"), distinguishing_columns(region, cells)


def _named(pairs: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """Positions replaced by what the rows are called."""
    return pairs.assign(row=index[pairs["row"]], twin=index[pairs["twin"]])


def _shared(split: pd.Series | None, recording: pd.Series | None) -> pd.DataFrame | None:
    """Recordings that are on several sides of a split."""
    if split is None or recording is None:
        return None
    sides = pd.DataFrame({"split": split, "recording": recording}).groupby("recording")["split"].unique()
    several = sides[sides.map(len) > 1]
    return pd.DataFrame({"recording": several.index, "splits": several.map(lambda s: ", ".join(sorted(s))).to_numpy()})
