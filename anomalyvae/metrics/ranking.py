"""Rankings: how well scores tell strange windows or points from normal ones, one by one."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a strange window scores above a normal one, ties counted as half.

    Parameters
    ----------
    labels : array-like of bool, shape (n,)
        True where the window is strange.
    scores : array-like of float, shape (n,)
        High = strange.

    Returns
    -------
    float
        In [0, 1]; NaN where only one class is present, since there is then nothing to rank.

    Raises
    ------
    ValueError
        If lengths differ, or a score is not a number.

    Examples
    --------
    >>> auroc([False, False, True, True], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    wanted, given = one_label_and_score_each(labels, scores)
    return float(roc_auc_score(wanted, given)) if 0 < wanted.sum() < wanted.size else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall steps: how pure the top of the ranking is.

    Parameters
    ----------
    labels : array-like of bool, shape (n,)
        True where the window is strange.
    scores : array-like of float, shape (n,)
        High = strange.

    Returns
    -------
    float
        In (0, 1]; chance level is the share of strange windows. NaN where only one class is present.

    Raises
    ------
    ValueError
        If lengths differ, or a score is not a number.

    Examples
    --------
    >>> average_precision([False, True, True], [0.2, 0.3, 0.9])
    1.0
    """
    wanted, given = one_label_and_score_each(labels, scores)
    return float(average_precision_score(wanted, given)) if 0 < wanted.sum() < wanted.size else float("nan")


def one_label_and_score_each(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray]:
    """Labels and scores as flat arrays, checked to be one pair per window."""
    wanted = np.asarray(labels, dtype=bool).ravel()
    return wanted, one_score_each(scores, wanted.size)


def one_score_each(scores: ArrayLike, n: int) -> NDArray:
    """Scores as a flat array, checked to be one number per window."""
    values = np.asarray(scores, dtype=float).ravel()
    if values.size != n:
        raise ValueError(f"Got {values.size} scores for {n} windows, expected one each. Pass matching rows.")
    if np.isnan(values).any():
        raise ValueError(f"Got NaN in {int(np.isnan(values).sum())} of {n} scores, expected numbers. Drop those rows.")
    return values
