"""Samples of a signal that share a stamp become one, their mean; a warning counts those that differ.

Rows of tables, which come in any order, are averaged in :mod:`anomalyvae.recordings.timeline`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from anomalyvae.untrusted import listed


class SharedStamps:
    """Averages the samples of a recording that share a stamp, and counts where they differ."""

    def __init__(self) -> None:
        self._differ: Counter[str] = Counter()  # stamps, by name of the signal

    def means(self, names: Sequence[str], stamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each stamp once, and the mean of the values there.

        ``stamps`` (n) are sorted; samples of one signal with one stamp come in one call. ``values`` (n, names) are NaN
        where a signal has no sample.

        Examples
        --------
        >>> stamps, values = SharedStamps().means(["x"], np.array([0.0, 1.0, 1.0]), np.array([[5.0], [6.0], [8.0]]))
        >>> stamps, values[:, 0]
        (array([0., 1.]), array([5., 7.]))
        """
        if (stamps[1:] > stamps[:-1]).all():
            return stamps, values
        first = np.flatnonzero(np.concatenate(([True], stamps[1:] > stamps[:-1])))
        differ = np.fmax.reduceat(values, first) > np.fmin.reduceat(values, first)
        self._differ.update(dict(zip(names, differ.sum(axis=0).tolist(), strict=True)))
        return stamps[first], group_means(values, first)

    def warn(self, source: object) -> None:
        """Warn of samples with one stamp and different values; ``source`` names the recording."""
        differ = +self._differ
        if differ:
            shown = listed(f"{name} {count:,}" for name, count in differ.most_common())
            warnings.warn(
                f"{differ.total():,} samples in {source} are means of different values of one signal with one stamp: "
                f"{shown}. Record stamps with more digits, and no message twice.",
                stacklevel=4,
            )


def group_means(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the mean of each group of values, which begin at the indices ``first``; NaN where all are NaN."""
    there = ~np.isnan(values)
    counts = np.add.reduceat(there.astype(np.float64), first)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(np.where(there, values, 0.0), first)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
