"""Copies of rows up to rounding: with fewer digits, in single precision, or with a little noise."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_NEARER = 0.02  # of the distance from the next row; of other rows on a line, one in fifty is so near to another
_NEAR = 0.1  # the same, of a table that has copies: in two columns or more, other rows are rarely so near
_SHARE = 0.5  # of the rows; a third with copies raises 5 % of false alarms to 7 %, and the source may make as many
_FEWEST = 10  # rows
_OTHERS = 7  # nearest rows that are looked at; content that eight rows have recurs
_TRIED, _SCALED = 1024, 4096  # rows that tell whether there are copies, and those that set the units
_NUMBERS = 12  # of a row, in which nearest rows are looked for
_SPREAD = (0.05, 0.95)  # quantiles
_FAR, _ROUNDED = 1e6, 1e-6  # in units of a column; relative

Floats = NDArray[np.float64]


def copies_up_to_rounding(x: Floats) -> NDArray[np.int64] | None:
    """A number for each distinct row ``(n, d)``, which rows share that are copies up to rounding; None without such.

    The rows nearest to a row, up to six, are its copies if the next one is ten times as far. Rounding changes no whole
    number, so copies are equal in columns of whole numbers. They count only if half of the rows has some that are
    nearer by a factor of fifty.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import KDTree

    if len(x) < _FEWEST:
        return None
    whole = x[:, (np.isnan(x) | (x == np.round(x))).all(axis=0)]
    if whole.shape[1] == x.shape[1]:
        return None
    whole, numbers = np.nan_to_num(whole), _few_numbers(x)
    tree = KDTree(numbers)
    tried = np.unique(np.linspace(0, len(x) - 1, min(len(x), _TRIED)).astype(np.int64))
    if len(np.unique(_pairs(tried, numbers, whole, tree, _NEARER)[0])) < max(_FEWEST, _SHARE * len(tried)):
        return None
    one, other = _pairs(np.arange(len(x)), numbers, whole, tree, _NEAR)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(x), len(x)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _pairs(
    tried: NDArray[np.int64], numbers: Floats, whole: Floats, tree: Any, ratio: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Copies as pairs of indices, the first of which are ``tried``."""
    distance, nearest = tree.query(numbers[tried], min(_OTHERS, len(numbers) - 1) + 1)  # the first is the row itself
    next_is_far = distance[:, 1:-1] <= ratio * distance[:, 2:]
    copies = np.where(next_is_far, np.arange(1, next_is_far.shape[1] + 1), 0).max(axis=1)
    row, rank = np.nonzero(np.arange(next_is_far.shape[1]) < copies[:, None])
    one, other = tried[row], nearest[row, rank + 1]
    same = (whole[one] == whole[other]).all(axis=1)
    return one[same], other[same]


@np.errstate(all="ignore")  # cells may be huge
def _few_numbers(x: Floats) -> Floats:
    """Rows as at most twelve numbers, from which distances are about as from all cells; missing cells are far."""
    missing = np.isnan(x)
    some = pd.DataFrame(x[:: -(-len(x) // _SCALED)])
    middle = some.median().to_numpy()
    low, high = some.quantile(_SPREAD).to_numpy()
    unit = np.where(high > low, high - low, some.std().to_numpy())
    unit = np.maximum(np.nan_to_num(unit), _ROUNDED * np.abs(middle))
    scaled = np.clip(np.nan_to_num((x - middle) / np.where(unit > 0, unit, 1.0)), -_FAR, _FAR)
    scaled = np.column_stack([np.where(missing, 0.0, scaled), missing[:, missing.any(axis=0)]])
    if scaled.shape[1] <= _NUMBERS:
        return scaled
    directions = np.random.default_rng(0).normal(size=(scaled.shape[1], _NUMBERS))
    return scaled @ directions
