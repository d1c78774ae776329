"""Picks the flagged events that are worth reviewing: anomalous, different from each other, and not known yet."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from anomalyvae.alarms import AlarmTarget
from anomalyvae.events import merge_alarms
from anomalyvae.review.verdicts import ANOMALOUS, VerdictScores

NEAR = 0.5  # training spreads: two events closer than this are similar
POOL = 2  # candidates for each event that is picked
_BATCH = 4096  # most latent codes to compute at once

Floats = NDArray[np.float64]
Codes = Callable[[pd.DataFrame], Floats]

_OF_PEAK = {"peak_start_s": "start_s", "peak_end_s": "end_s", "peak_score": "anomaly_score", "p_value": "p_value"}


def spread_of(codes: Floats) -> float:
    """Root mean square distance of codes ``(n, k)`` from their mean; 1 if they are equal."""
    if not len(codes):
        return 1.0
    return float(np.sqrt(np.square(codes - codes.mean(axis=0)).sum(axis=1).mean())) or 1.0


def alarm_cut(p_values: Floats, alarms: dict[str, float], rows_per_hour: float) -> float:
    """The largest p-value that is flagged under an alarm target, such as ``{"fdr": 0.1}``; see `AlarmTarget`.

    Warns if the p-values are too coarse for the target, so that nothing is flagged.
    """
    target = AlarmTarget.of(alarms)
    cut = target.cut(p_values, rows_per_hour)
    if p_values.size and not (p_values <= cut).any():
        warnings.warn(
            f"The alarm target {target} needs p-values of {target.needed(p_values.size, rows_per_hour):.2g}, but the "
            f"smallest of {p_values.size:,} is {p_values.min():.2g}, so nothing is flagged. Calibrate the model on "
            "more rows or recordings, or with the tail 'pareto', or leave out the target.",
            stacklevel=3,
        )
    return cut


def flagged_events(scores: pd.DataFrame, cut: float | None = None) -> pd.DataFrame:
    """Merge flagged windows to events, the most anomalous first.

    Parameters
    ----------
    scores : DataFrame
        Windows, as `score_folder` writes them: ``recording``, ``start_s``, ``end_s``, ``anomaly_score``, ``p_value``
        and ``is_outlier``.
    cut : float, optional
        Flag windows with a p-value of at most this, in place of ``is_outlier``.

    Returns
    -------
    DataFrame
        ``recording``, ``start_s``, ``end_s``, ``windows``, ``peak`` (position of the most anomalous window in
        ``scores``), ``peak_start_s``, ``peak_end_s``, ``peak_score`` and ``p_value``.
    """
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


def pick_events(
    events: pd.DataFrame,
    codes_of: Codes,
    budget: int,
    *,
    known: pd.DataFrame | None = None,
    per_recording: int = 5,
    spread: float = 1.0,
    near: float = NEAR,
    pool: int = POOL,
) -> pd.DataFrame:
    """Pick the flagged events that are worth reviewing.

    An event is left out if it is similar to a known or a more anomalous one: the latent codes of their most anomalous
    windows are at most ``near`` apart. The ``pool * budget`` most anomalous of the others are the candidates. The most
    anomalous candidate is picked first; then, repeatedly, the one farthest from all picked and known events (greedy
    k-centre [1]_, as in active learning [2]_).

    With verdicts, there are at first twice as many candidates, and `VerdictScores` of their codes decide which half
    stays and which is picked first: events like faults rather than events like new normals and noise.

    Parameters
    ----------
    events : DataFrame
        As `flagged_events` gives them, the most anomalous first.
    codes_of : callable
        Computes the latent codes ``(n, k)`` of the most anomalous windows of some events. It is called for candidates
        only.
    budget : int
        Most events to pick.
    known : DataFrame, optional
        Events as `Queue.events` gives them: ``event_id``, ``verdict``, ``p_value``, ``peak_score`` and ``latent``, in
        the same latent space.
    per_recording : int, default=5
        Most events to pick from one recording.
    spread : float
        The unit of latent distances: see `spread_of`.
    near : float, default=0.5
        Distance, in spreads, up to which events are similar; with 0, only copies are. See the notes.
    pool : int, default=2
        A larger pool gives more different, but less anomalous events.

    Returns
    -------
    DataFrame
        The picked events, in the order of picking, with ``latent``, and ``nearest`` and ``nearest_distance``: the most
        similar known event that has a verdict, and its distance in spreads.

    Raises
    ------
    ValueError
        For a budget below one, and for known events of another latent space.

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
    >>> codes = np.array([[0.0], [0.1], [5.0]])
    >>> picked = pick_events(flagged_events(scores), lambda events: codes[events["peak"]], 2)
    >>> picked[["start_s", "peak_score"]]
       start_s  peak_score
    0      0.0         9.0
    1     18.0         3.0
    """
    for name, value in (("budget", budget), ("per_recording", per_recording), ("pool", pool)):
        if value < 1:
            raise ValueError(f"Got {name}={value}, expected 1 or more. Raise it.")
    centres = _codes(known)
    said = judged(known)
    wider = pool if said.empty else 2 * pool
    found, codes = _candidates(events, codes_of, centres, near * spread, wider * budget, wider * per_recording)
    if len(said) and len(found):
        first = _after_verdicts(found, codes, said)[: pool * budget]
        found, codes = found.iloc[first], codes[first]
    picked = _farthest_first(codes, found["recording"].to_numpy(), centres, budget, per_recording)
    chosen = found.iloc[picked].reset_index(drop=True)
    chosen["latent"] = pd.Series(codes[picked].tolist(), dtype=object)
    return chosen.assign(**_nearest(codes[picked], known, spread))


def judged(known: pd.DataFrame | None) -> pd.DataFrame:
    """The known events whose verdicts say something of others: not ``unsure``."""
    if known is None or "verdict" not in known:
        return pd.DataFrame()
    return known[known["verdict"].isin(list(ANOMALOUS))]


def _after_verdicts(events: pd.DataFrame, codes: Floats, said: pd.DataFrame) -> NDArray[np.intp]:
    """The positions of events in their order after verdicts on other events."""
    both = pd.concat([events[["p_value", "peak_score"]], said[["p_value", "peak_score"]]], ignore_index=True)
    order = both.sort_values(["p_value", "peak_score"], ascending=[False, True], kind="stable", na_position="first")
    scores = VerdictScores(order.index.argsort(), np.vstack([codes, _codes(said)]))
    known = np.arange(len(events), len(both))
    return np.argsort(-scores(known, said["verdict"].map(ANOMALOUS))[: len(events)], kind="stable")


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
        positions, part = np.arange(start, start + len(part))[allowed], part[allowed]
        own = np.asarray(codes_of(part), dtype=np.float64) if len(part) else centres[:0]
        for i in np.flatnonzero(_distance(own, centres) > near):
            name = part["recording"].iloc[i]
            similar = codes and cdist(own[[i]], codes).min() <= near
            if len(found) < most and counts[name] < per_recording and not similar:
                found.append(positions[i])
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
