"""Picks the flagged events that are worth reviewing: anomalous, different from each other, and not known yet."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from anomalyvae.calibration import AlarmTarget
from anomalyvae.metrics import merge_alarms, touches

NEAR = 0.5  # training spreads: two events closer than this are similar
POOL = 2  # candidates for each event that is picked
_BATCH = 4096  # most latent codes to compute at once

Floats = NDArray[np.float64]
Codes = Callable[[pd.DataFrame], Floats]

_OF_PEAK = {"peak_start_s": "start_s", "peak_end_s": "end_s", "peak_score": "anomaly_score", "p_value": "p_value"}


def pick_events(
    scores: pd.DataFrame,
    budget: int,
    *,
    latent: ArrayLike | None = None,
    known: pd.DataFrame | None = None,
    per_recording: int = 5,
    alarms: dict[str, float] | None = None,
    spread: float | None = None,
    near: float = NEAR,
    pool: int = POOL,
) -> pd.DataFrame:
    """Pick the flagged events that are worth reviewing.

    Flagged windows that touch are merged to an event (`merge_alarms`). An event is left out if it touches a known
    event in time, or is similar to a known or a more anomalous one: the latent codes of their most anomalous windows
    are at most ``near`` apart. The ``pool * budget`` most anomalous of the others are the candidates. The most
    anomalous candidate is picked first; then, repeatedly, the one farthest from all picked and known events (greedy
    k-centre [1]_, as in active learning [2]_).

    Parameters
    ----------
    scores : DataFrame, n rows
        Windows, as `score_folder` writes them: ``recording``, ``start_s``, ``end_s``, ``anomaly_score``, ``p_value``
        and ``is_outlier``.
    budget : int
        Most events to pick.
    latent : array-like of shape (n, k), optional
        Latent code of each window (`VAEOutlierDetector.embed`); only those of flagged windows are used. Without codes,
        the most anomalous events are picked.
    known : DataFrame, optional
        Events as `Queue.events` gives them: ``recording``, ``start_s``, ``end_s``, ``event_id`` and ``latent``, in the
        same latent space.
    per_recording : int, default=5
        Most events to pick from one recording.
    alarms : dict, optional
        An alarm target, which flags windows in place of ``is_outlier``: ``{"fdr": 0.1}``, ``{"per_hour": 6}`` or
        ``{"alpha": 0.01}``; see `Calibration.alarms`. It needs the scores of all windows.
    spread : float, optional
        The unit of latent distances: root mean square distance of training codes from their mean. By default, that of
        all finite codes in ``latent``.
    near : float, default=0.5
        Distance, in spreads, up to which events are similar; with 0, only copies are. See the notes.
    pool : int, default=2
        A larger pool gives more different, but less anomalous events.

    Returns
    -------
    DataFrame
        One row per event, in the order of picking: ``recording``, ``start_s``, ``end_s``, ``windows``; of its most
        anomalous window ``peak`` (position in ``scores``), ``peak_start_s``, ``peak_end_s``, ``peak_score``,
        ``p_value`` and ``latent``; and ``nearest`` and ``nearest_distance``, the most similar known event and its
        distance in spreads. The order of the rows in ``scores`` does not matter.

    Raises
    ------
    ValueError
        For a budget below one, an invalid alarm target, missing columns, or codes that do not fit the scores.

    Warns
    -----
    UserWarning
        If the p-values are too coarse for the alarm target, so that nothing is flagged.

    Notes
    -----
    Two random training windows are about 1.4 spreads apart. On the pothole drives, the codes of a stuck sensor lie
    within 0.5 spreads of each other for 12 % of all pairs of moments, and within 0.25 for 1 %; those of two different
    stuck sensors never do. With barely anomalous faults, 0.2 to 0.4 % of different ones are that near. A latent code
    describes what a window looks like, not what the model reconstructed wrongly.

    References
    ----------
    .. [1] T. F. Gonzalez (1985), Clustering to minimize the maximum intercluster distance, Theoretical Computer
       Science 38.
    .. [2] O. Sener, S. Savarese (2018), Active learning for convolutional neural networks: a core-set approach, ICLR,
       arXiv:1708.00489.

    Examples
    --------
    >>> scores = pd.DataFrame({"recording": "a", "start_s": [0.0, 9.0, 18.0], "end_s": [2.0, 11.0, 20.0]})
    >>> scores = scores.assign(anomaly_score=[9.0, 8.0, 3.0], p_value=0.01, is_outlier=True)
    >>> pick_events(scores, 2, latent=[[0.0], [0.1], [5.0]])[["start_s", "peak_score"]]
       start_s  peak_score
    0      0.0         9.0
    1     18.0         3.0
    """
    events = flagged_events(scores, alarm_cut(scores, alarms))
    if known is not None and {"recording", "start_s", "end_s"} <= set(known):
        events = events[~touches(events, known)]
    if latent is None:
        return choose(events, budget, None, None, per_recording=per_recording)
    codes = np.asarray(latent, dtype=np.float64)
    if codes.ndim != 2 or len(codes) != len(scores):
        raise ValueError(
            f"Got latent codes of shape {codes.shape} for {len(scores)} windows, expected (n, k). Pass one per row."
        )
    unit = spread_of(codes[np.isfinite(codes).all(axis=1)]) if spread is None else spread
    return choose(
        events, budget, lambda part: codes[part["peak"]], known,
        per_recording=per_recording, spread=unit, near=near, pool=pool,
    )  # fmt: skip


def spread_of(codes: Floats) -> float:
    """Root mean square distance of codes ``(n, k)`` from their mean; 1 if they are equal."""
    if not len(codes):
        return 1.0
    return float(np.sqrt(np.square(codes - codes.mean(axis=0)).sum(axis=1).mean())) or 1.0


def alarm_cut(
    scores: pd.DataFrame, alarms: dict[str, float] | None, rows_per_hour: float | None = None
) -> float | None:
    """The largest p-value that is flagged under an alarm target, or None for the model's own flags.

    Parameters
    ----------
    scores : DataFrame
        ``p_value`` of all windows; for ``per_hour`` without ``rows_per_hour``, also ``recording`` and ``start_s``.
    alarms : dict or None
        See `pick_events`.
    rows_per_hour : float, optional
        Windows per hour; by default from the median step between them.
    """
    if alarms is None:
        return None
    target = AlarmTarget.of(alarms)
    _need(scores, ("p_value",))
    p = scores["p_value"].to_numpy(dtype=np.float64)
    if target.kind == "per_hour":
        rows_per_hour = rows_per_hour or 3600 / _step_s(scores)
    cut = target.cut(p, rows_per_hour)
    if p.size and not (p <= cut).any():
        warnings.warn(
            f"The alarm target {target} needs p-values of {target.needed(p.size, rows_per_hour):.2g}, but the smallest "
            f"of {p.size:,} is {p.min():.2g}, so nothing is flagged. Score with a model that was calibrated on more "
            "rows or recordings, or with the tail 'pareto', or leave out the target.",
            stacklevel=3,
        )
    return cut


def flagged_events(scores: pd.DataFrame, cut: float | None = None) -> pd.DataFrame:
    """Merge flagged windows to events, the most anomalous first.

    Parameters
    ----------
    scores : DataFrame
        As for `pick_events`.
    cut : float, optional
        Flag windows with a p-value of at most this, in place of ``is_outlier``.

    Returns
    -------
    DataFrame
        ``recording``, ``start_s``, ``end_s``, ``windows``, ``peak`` (position of the most anomalous window in
        ``scores``), ``peak_start_s``, ``peak_end_s``, ``peak_score`` and ``p_value``.
    """
    _need(scores, ("recording", "start_s", "end_s", "anomaly_score", "p_value"))
    if cut is None:
        _need(scores, ("is_outlier",))
    flagged = scores["is_outlier"] if cut is None else scores["p_value"] <= cut
    events = merge_alarms(scores, flagged.to_numpy(dtype=bool))
    peaks = peaks_of(events.pop("members"), scores["anomaly_score"].to_numpy())
    events["peak"] = peaks
    for column, origin in _OF_PEAK.items():
        events[column] = scores[origin].to_numpy()[peaks]
    order = ["peak_score", "recording", "start_s"]
    return events.sort_values(order, ascending=[False, True, True], kind="stable", ignore_index=True)


def peaks_of(members: Iterable[NDArray[np.intp]], scores: Floats) -> NDArray[np.intp]:
    """The most anomalous window of each event, from the positions of its windows."""
    return np.array([windows[np.argmax(scores[windows])] for windows in members], dtype=np.intp)


def choose(
    events: pd.DataFrame,
    budget: int,
    codes_of: Codes | None,
    known: pd.DataFrame | None,
    *,
    per_recording: int = 5,
    spread: float = 1.0,
    near: float = NEAR,
    pool: int = POOL,
) -> pd.DataFrame:
    """The second half of `pick_events`: pick from events.

    Parameters
    ----------
    events : DataFrame
        As `flagged_events` gives them.
    codes_of : callable or None
        Computes the latent codes (n, k) of some events; it is called for candidates only.
    known : DataFrame or None
        ``event_id`` and ``latent``; with a column ``verdict``, only reviewed events can be named as nearest.
    """
    for name, value in (("budget", budget), ("per_recording", per_recording), ("pool", pool)):
        if value < 1:
            raise ValueError(f"Got {name}={value}, expected 1 or more. Raise it.")
    if codes_of is None:
        chosen = events[events.groupby("recording").cumcount() < per_recording].head(budget)
        return chosen.reset_index(drop=True)
    centres = _codes(known)
    found, codes = _candidates(events, codes_of, centres, near * spread, pool * budget, pool * per_recording)
    picked = _farthest_first(codes, found["recording"].to_numpy(), centres, budget, per_recording)
    chosen = found.iloc[picked].reset_index(drop=True)
    chosen["latent"] = pd.Series(codes[picked].tolist(), dtype=object)
    return chosen.assign(**_nearest(codes[picked], known, spread))


def _candidates(
    events: pd.DataFrame, codes_of: Codes, centres: Floats, near: float, most: int, per_recording: int
) -> tuple[pd.DataFrame, Floats]:
    """The most anomalous events, and their codes, that are similar neither to known events nor to each other."""
    found: list[int] = []
    codes: list[Floats] = []
    counts: Counter[str] = Counter()
    start, size = 0, most
    while start < len(events) and len(found) < most:
        part = events.iloc[start : start + size]
        allowed = np.array([counts[name] < per_recording for name in part["recording"]])
        places, part = np.arange(start, start + len(part))[allowed], part[allowed]
        own = np.asarray(codes_of(part), dtype=np.float64) if len(part) else centres[:0]
        for i in np.flatnonzero(_distance(own, centres) > near):
            name = part["recording"].iloc[i]
            similar = codes and cdist(own[[i]], codes).min() <= near
            if len(found) < most and counts[name] < per_recording and not similar:
                found.append(places[i])
                codes.append(own[i])
                counts[name] += 1
        start, size = start + size, min(2 * size, _BATCH)
    return events.iloc[found], np.array(codes) if codes else np.empty((0, centres.shape[1]))


def _farthest_first(
    codes: Floats, recording: NDArray[Any], centres: Floats, budget: int, per_recording: int
) -> list[int]:
    """Greedy k-centre: the first, then repeatedly the one farthest from all picked and known events."""
    distance = _distance(codes, centres)
    free = np.ones(len(codes), dtype=bool)
    picked: list[int] = []
    while len(picked) < budget and free.any():
        pick = int(np.argmax(np.where(free, distance, -1.0))) if picked else 0  # of ties, the most anomalous
        picked.append(pick)
        distance = np.minimum(distance, cdist(codes, codes[[pick]])[:, 0])
        free[pick] = False
        if sum(recording[picked] == recording[pick]) >= per_recording:
            free &= recording != recording[pick]
    return picked


def _nearest(codes: Floats, known: pd.DataFrame | None, spread: float) -> dict[str, Any]:
    """The most similar reviewed event of each, and its distance in spreads."""
    reviewed = known[known["verdict"].notna()] if known is not None and "verdict" in known else known
    if reviewed is None or reviewed.empty:
        return {"nearest": pd.Series([None] * len(codes), dtype=object), "nearest_distance": np.nan}
    distances = cdist(codes, _codes(reviewed)) / spread
    ids = reviewed["event_id"].to_numpy(dtype=object)[distances.argmin(axis=1)] if len(codes) else []
    return {"nearest": pd.Series(ids, dtype=object), "nearest_distance": distances.min(axis=1, initial=np.inf)}


def _codes(known: pd.DataFrame | None) -> Floats:
    if known is None or known.empty:
        return np.empty((0, 1))
    return np.array(known["latent"].tolist(), dtype=np.float64)


def _distance(codes: Floats, centres: Floats) -> Floats:
    """Distance to the nearest centre; infinite without centres."""
    if not len(centres) or not len(codes):
        return np.full(len(codes), np.inf)
    if codes.shape[1] != centres.shape[1]:
        raise ValueError(
            f"Got latent codes of {codes.shape[1]} numbers and known events with {centres.shape[1]}, expected one "
            "latent space. Pass known events with codes of the same model."
        )
    return cdist(codes, centres).min(axis=1)


def _step_s(scores: pd.DataFrame) -> float:
    steps = scores.sort_values(["recording", "start_s"]).groupby("recording")["start_s"].diff().dropna()
    if steps.empty:
        raise ValueError("The windows per hour are unknown: no recording has two windows. Use alpha as alarm target.")
    return float(steps.median())


def _need(scores: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in scores]
    if missing:
        raise ValueError(
            f"Got scores without {', '.join(map(repr, missing))}, expected windows as score_folder writes them. "
            "Score recordings with a model that has a windowing recipe."
        )
