"""What the order of rows says about new rows, which are not between the learned ones.

Rows that are held out resemble learned ones if rows beside each other are windows that overlap, or have something in
common. A column that counts rows goes on to values that no learned row has.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_LOOKED_AT, _COLUMNS = 128, 32  # rows and columns
_FEWEST_ROWS, _FEWEST_MOVES = 32, 12  # fewer say too little, and so do fewer rows in which a column changes
_FARTHEST = 512  # columns between a cell and the same one in the row before
_MOST = 0.75
_EXACT = 1e-6  # relative, for rounding
_COMPARED, _TRIED = 4096, 512  # rows; as many as a detector stores, and those whose nearest is looked for
_FEWEST_COMPARED = 64  # rows; in fewer, an order may be chance
_BESIDE = 0.01  # of the rows: so many places before or after count as beside, from 2 to 10
_LEAST_BESIDE, _MOST_BESIDE = 2, 10
_ALIKE = 0.2  # of the rows whose nearest is beside; 0.02 in random order
_BY_CHANCE = 3.0  # times the root of the rows: by so many more than expected, shares never differ by chance
_ABOUT = 0.9  # of the highest share: it is as high
_LEAST_APART, _MOST_TURNS = 10, 20  # places; of more turns, such as days of a year, rows recur in new ones
_EQUAL = 1e-9  # squared distance of rows that are equal up to rounding, and of a row from itself
_SORTED = 0.8  # of the steps of a column that rise, or fall, if rows are sorted by it

Floats = NDArray[np.float64]


@np.errstate(all="ignore")  # cells may be huge, and differences 0
def slides(x: Floats) -> bool:
    """Whether successive rows ``(n, d)`` look like windows that overlap: cells come again in a column before.

    A step that changes each column by itself, such as `StandardScaler`, leaves them proportional. So do their
    differences from one row to the next, which say nothing of two columns that rise and fall together, such as trends.
    Columns of two values, such as one-hot columns, do not tell.
    """
    if len(x) < _FEWEST_ROWS:
        return False
    index = np.unique(np.linspace(0, len(x) - 3, _LOOKED_AT).astype(int))
    some = x[index]
    before, after = some - x[index + 1], x[index + 1] - x[index + 2]
    between = ((some > np.fmin.reduce(some)) & (some < np.fmax.reduce(some))).any(axis=0)
    telling = between & ((after != 0).sum(axis=0) >= _FEWEST_MOVES)
    for shift in range(1, min(x.shape[1], _FARTHEST + 1)):
        columns = np.flatnonzero(telling[:-shift])
        columns = columns[:: -(-len(columns) // _COLUMNS) or 1]
        again = _proportional(after[:, columns], before[:, columns + shift])
        if again.sum() <= _MOST / 2 * len(columns):
            continue
        again &= ~_proportional(before[:, columns], before[:, columns + shift])
        if again.sum() > _MOST / 2 * len(columns):
            return True
    return False


def _proportional(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """For which columns ``a`` is one multiple of ``b`` in most of the rows in which either is not 0, and not in few."""
    moved = ((a != 0) | (b != 0)) & np.isfinite(a + b)
    count = moved.sum(axis=0)
    ratio = np.where(moved, a / b, np.nan)
    usual = np.take_along_axis(np.sort(ratio, axis=0), count[None] // 2, axis=0)  # NaN are the last
    return ((np.abs(ratio / usual - 1) < _EXACT).sum(axis=0) > _MOST * count) & (count >= _FEWEST_MOVES)


@np.errstate(all="ignore")
def alike_apart(x: Floats) -> int:
    """The lag at which rows ``(n, d)`` are alike, in places: 1 for rows beside each other, 0 for none.

    Rows of one recording, person or day are beside each other. Augmented images follow all others, in the same order,
    and rows of a day may have one of each machine. Alike are rows of which the nearest of all, by the ranks of cells,
    is there more often than in random order. Columns by which rows are sorted do not count. Nor do rows that are equal,
    which are merged before any is held out.
    """
    if len(x) < _FEWEST_COMPARED:
        return 0
    place = _some(len(x), _COMPARED)
    table = pd.DataFrame(x[place])
    rising, falling = (table.diff() > 0).sum(), (table.diff() < 0).sum()
    is_sorted = np.maximum(rising, falling) >= _SORTED * (rising + falling)
    ranks = table.loc[:, ~is_sorted].rank(pct=True).fillna(0.5).to_numpy()
    tried = _some(len(ranks), _TRIED)
    squared = (ranks[tried] ** 2).sum(axis=1)[:, None] - 2 * ranks[tried] @ ranks.T + (ranks**2).sum(axis=1)
    squared[squared < _EQUAL] = np.inf
    distinct = np.isfinite(squared).any(axis=1)
    nearest = squared.argmin(axis=1)[distinct]
    beside = np.abs(nearest - tried[distinct]) <= np.clip(_BESIDE * len(ranks), _LEAST_BESIDE, _MOST_BESIDE)
    if beside.sum() > _ALIKE * max(1, distinct.sum()):
        return 1
    apart = np.abs(place[nearest] - place[tried[distinct]])
    lags = np.unique(apart)
    lags = lags[(lags >= _LEAST_APART) & (lags * _MOST_TURNS >= len(x)) & (lags * 2 <= len(x))]
    excess = np.array([(apart % lag == 0).mean() - 1 / lag for lag in lags])  # of the share in random order
    if not len(excess) or excess.max() <= max(_ALIKE, _BY_CHANCE / np.sqrt(len(apart))):
        return 0
    return int(lags[excess > _ABOUT * excess.max()][-1])  # its divisors have as many


def counting(x: Floats) -> NDArray[np.int64]:
    """The columns of rows ``(n, d)`` that only rise, or only fall, as times and numbers of rows do."""
    if len(x) < _FEWEST_COMPARED:
        return np.empty(0, dtype=np.int64)
    rising, falling = (x[1:] > x[:-1]).sum(axis=0), (x[1:] < x[:-1]).sum(axis=0)
    one_way = np.minimum(rising, falling) == 0
    return np.flatnonzero(one_way & (np.maximum(rising, falling) > len(x) / 2))


def _some(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n indices, in order, at distances that no number divides."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])
