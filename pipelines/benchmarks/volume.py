"""Volume under the surface: rankings of points in time, where the edges of an event are not sharp."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyvae.metrics import check_ranking

_ACF_POINTS, _ACF_LAGS = 20_000, 400
_SHORTEST, _LONGEST = 6, 303  # lags that count as a period
_NO_PERIOD = 125


class Volume(NamedTuple):
    """What `vus` returns: two volumes, each in [0, 1]."""

    roc: float
    pr: float


def vus(labels: ArrayLike, scores: ArrayLike, window: int, thresholds: int = 250) -> Volume:
    """Volumes under the ROC and precision-recall surfaces, VUS-ROC and VUS-PR [1]_, of points in time.

    A detector that looks at windows is rarely right to the sample at the edges of an event. So each event gets a
    buffer of up to ``window // 2`` points on both sides, in which a point counts as partly anomalous; the volume is the
    mean over all buffers from 0 to that.

    Parameters
    ----------
    labels : array-like of bool, shape (n,)
        True where the point is anomalous. A run of such points is an event.
    scores : array-like of float, shape (n,)
        High = anomalous. In the order of time.
    window : int
        Largest buffer, both sides together, in points; 0 for none. It belongs to the *evaluation* and must be the
        same for all methods compared, whatever windows they use: larger values raise the figures of all of them.
        `evaluation_window` is the usual rule.
    thresholds : int, default=250
        Number of points on each curve: scores at even ranks, as in the authors' implementation.

    Returns
    -------
    Volume
        ``roc`` and ``pr``; NaN if all points are of one class.

    Raises
    ------
    ValueError
        If lengths differ, a score is NaN, or ``window`` is negative.

    Notes
    -----
    For a buffer of w = 0, 1, ..., ``window`` points, with the P points of the events and the distance d_i of point i
    from the nearest event, labels become

        l_i = 1 in an event, sqrt(1 - d_i / w) where d_i <= w // 2, and 1 where two buffers meet.

    With N points scored at least t, and the sum of l over them,

        TP = sum l_i,    P' = P + half of the part of TP that lies in buffers,    E = share of the events, those
        whose buffers meet or touch being one, that hold such a point,

        TPR = min(TP / P', 1) E,    FPR = (N - TP) / (n - P'),    precision = TP / N.

    The volumes are the means over w of the area under TPR against FPR by trapezoids, ending in (1, 1), and of
    ``sum (TPR_k - TPR_{k - 1}) precision_k``. Time O(n window), memory O(n).

    References
    ----------
    .. [1] J. Paparrizos, P. Boniol, T. Palpanas, R. Tsay, A. Elmore, M. Franklin (2022), Volume Under the Surface: A
       New Accuracy Evaluation Measure for Time-Series Anomaly Detection, PVLDB 15(11).

    Examples
    --------
    >>> labels = [False] * 20 + [True] * 5 + [False] * 25
    >>> late = [0.0] * 22 + [1.0] * 5 + [0.0] * 23
    >>> auroc_like, with_buffer = vus(labels, late, window=0), vus(labels, late, window=10)
    >>> bool(with_buffer.pr > auroc_like.pr)
    True
    """
    wanted, given = check_ranking(labels, scores)
    if window < 0:
        raise ValueError(f"window={window} is negative; it is a number of points. Pass 0 for no buffer.")
    n, anomalous = wanted.size, int(wanted.sum())
    if not 0 < anomalous < n:
        return Volume(float("nan"), float("nan"))
    order = np.argsort(-given, kind="stable")
    ranked = given[order]
    at = ranked[np.linspace(0, n - 1, thresholds).astype(int)]
    flagged = np.searchsorted(-ranked, -at, side="right")  # (thresholds,) points scored at least so high
    begins, ends = _runs(wanted)
    near, second = _distances(n, begins, ends)
    near, second = near[order], second[order]

    areas = np.empty((int(window) + 1, 2))
    for w in range(int(window) + 1):
        gap = 2 * (w // 2)
        soft = np.where(near <= w // 2, np.sqrt(1 - np.minimum(near, w // 2) / max(w, 1)), 0.0)
        soft[(near == 0) | (second <= w // 2)] = 1.0
        hit = np.cumsum(soft)[flagged - 1]
        counted = anomalous + (hit - np.cumsum(near == 0)[flagged - 1]) / 2
        opens = np.concatenate([[True], begins[1:] - ends[:-1] > gap])  # events whose buffers do not meet
        found = _found(given, begins[opens] - w // 2, ends[np.append(opens[1:], True)] + w // 2, at)
        recall = np.minimum(hit / counted, 1) * found
        areas[w] = _areas(recall, (flagged - hit) / (n - counted), hit / flagged)
    roc, pr = areas.mean(axis=0)
    return Volume(float(roc), float(pr))


def evaluation_window(signal: ArrayLike) -> int:
    """The largest buffer of `vus` by the rule of the TSB-AD benchmark [1]_: the period of a signal.

    The rule takes the *first* signal of a recording, training part included, and the autocorrelation of its first
    20,000 points up to lag 400. The period is the highest local maximum beyond lag 3. Without one, or if its lag is
    below 6 or above 303, the window is 125 points. One window serves all methods on a recording.

    Parameters
    ----------
    signal : array-like of float, shape (n,)
        One value per point.

    Returns
    -------
    int
        Points.

    References
    ----------
    .. [1] Q. Liu, J. Paparrizos (2024), The Elephant in the Room: Towards A Reliable Time-Series Anomaly Detection
       Benchmark, NeurIPS.

    Examples
    --------
    >>> evaluation_window(np.sin(2 * np.pi * np.arange(1000) / 50))
    50
    >>> evaluation_window(np.ones(1000))
    125
    """
    x = np.asarray(signal, dtype=float).ravel()[:_ACF_POINTS]
    x = x - x.mean()
    power = np.abs(np.fft.rfft(x, 2 * x.size)) ** 2
    correlation = np.fft.irfft(power)[3 : min(_ACF_LAGS + 1, x.size)]
    inner = correlation[1:-1]
    peaks = np.flatnonzero((inner > correlation[:-2]) & (inner > correlation[2:]))
    if not peaks.size or not x.any():
        return _NO_PERIOD
    lag = int(peaks[np.argmax(inner[peaks])]) + 4
    return lag if _SHORTEST <= lag <= _LONGEST else _NO_PERIOD


def _runs(wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last points of the runs of True."""
    edges = np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1


def _distances(n: int, begins: NDArray, ends: NDArray) -> tuple[NDArray, NDArray]:
    """Distances of each point from the nearest and the second nearest event, in points; infinite if there is none."""
    far = np.array([np.inf, np.inf])
    begins, ends = np.concatenate([-far, begins, far]), np.concatenate([-far, ends, far])
    point = np.arange(n)
    following = np.searchsorted(begins, point, side="right")  # the first event that begins after the point
    ahead = begins[following + np.arange(2)[:, None]] - point  # of this and the one after it
    behind = point - ends[following - 1 - np.arange(2)[:, None]]
    nearest = np.sort(np.concatenate([ahead, np.maximum(behind, 0)]), axis=0)
    return nearest[0], nearest[1]


def _found(scores: NDArray, begins: NDArray, ends: NDArray, at: NDArray) -> NDArray:
    """Share of the stretches that hold a score of at least each threshold."""
    stretches = zip(begins.clip(min=0), ends + 1, strict=True)
    highest = np.sort([scores[begin:end].max() for begin, end in stretches])
    return 1 - np.searchsorted(highest, at, side="left") / highest.size


def _areas(recall: NDArray, alarm: NDArray, precision: NDArray) -> tuple[float, float]:
    """Area under recall against false alarms, which starts in (0, 0) and ends in (1, 1), and average precision."""
    roc = np.trapezoid(np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], alarm, [1.0]]))
    return float(roc), float(np.diff(recall, prepend=0.0) @ precision)
