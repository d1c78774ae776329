"""From scores to decisions: where the line between normal and strange lies.

Numpy only. Everything here takes anomaly scores (high = strange).
"""

import numpy as np
from numpy.typing import NDArray

AUTO_FALSE_ALARMS = 0.05  # share of normal rows that contamination="auto" lets cross the line

Floats = NDArray[np.float64]


def auto_threshold(held_out: Floats, weight: Floats, alpha: float = AUTO_FALSE_ALARMS) -> float:
    """The score that a new normal row exceeds with probability ``alpha``, from rows that were not trained on.

    Parameters
    ----------
    held_out : ndarray of shape (m,)
        Anomaly scores of held-out rows.
    weight : ndarray of shape (m,)
        How often each row counts.
    alpha : float

    Returns
    -------
    float
        The ceil((m + 1)(1 - alpha))-th smallest score (Vovk et al. 2005, split conformal prediction). With too few
        rows for ``alpha``, the largest: the share is then 1 / (m + 1).
    """
    order = np.argsort(held_out)
    reached = np.cumsum(weight[order])
    wanted = (reached[-1] + 1) * (1 - alpha)
    index = int(np.searchsorted(reached, wanted * (1 - 1e-12)))
    return float(held_out[order[min(index, len(held_out) - 1)]])


def contamination_threshold(scores: Floats, weight: Floats, contamination: float) -> float:
    """The score above which the share ``contamination`` of the training rows lies.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores of all rows passed to ``fit``.
    weight : ndarray of shape (n,)
    contamination : float

    Returns
    -------
    float
        Half-way between the last row above the line and the first below it, so that rounding moves no row across.
    """
    value, place = np.unique(scores, return_inverse=True)  # tied rows cross the line together
    reached = np.cumsum(np.bincount(place, weights=weight)[::-1])  # weight of the rows at or above each value
    value = value[::-1]
    flagged = int(np.searchsorted(reached, contamination * reached[-1] * (1 + 1e-12), side="right"))
    if flagged == 0:
        return float(value[0])
    return float(0.5 * (value[flagged - 1] + value[min(flagged, len(value) - 1)]))
