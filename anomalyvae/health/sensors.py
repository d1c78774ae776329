"""Sensor health with a model: signals that drift from the others, and anomalies that bad sensors explain.

The residual of a signal is the signal minus its reconstruction, in which it agrees with the other signals. A window
with a bad sensor is scored again without that sensor's cells, to separate bad sensors from novel driving.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from anomalyvae import models as bundle
from anomalyvae.bundle import read_card
from anomalyvae.bundle.preprocessing import split
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.events import SLACK_S, touches
from anomalyvae.health.grades import grade, graded
from anomalyvae.health.measures import cells_of
from anomalyvae.health.profile import Profile, Ranges
from anomalyvae.recordings import WindowRecipe, Windows
from anomalyvae.recordings.cutting import windows_of
from anomalyvae.recordings.log import Log

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_NEARLY_ALL = 1 - 1e-9  # share of cells that may be missing in a graded window
_LEVELS = (0.5, 0.95)  # quantiles that bring scores without a signal to the scale of whole windows


class Sensors:
    """Grades the signals of windows, and finds out whether a bad sensor explains an anomaly.

    Parameters
    ----------
    model : fitted VAEOutlierDetector or None
        With None, drift is not checked and nothing is scored.
    recipe : WindowRecipe
        Of the rows that the model scores.
    profile : Profile
        Of the recipe's signals.

    Notes
    -----
    All methods take windows of samples in which cells may be missing, as `windows` cuts them.
    """

    def __init__(self, model: Any, recipe: WindowRecipe, profile: Profile) -> None:
        self.recipe, self.profile = recipe, profile
        self._model = model
        self._scales: dict[bytes, tuple[float, float]] = {}  # of scores, by hidden signals; see `_scale`

    @classmethod
    def of(cls, model: str | os.PathLike[str], ranges: Ranges | None = None) -> Sensors:
        """Read them from a bundle.

        Parameters
        ----------
        model : path
        ranges : mapping of str to (low, high), optional
            Ranges of signals, in place of those in the bundle.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no bundle, or it has no health profile.
        """
        card = read_card(model)
        if card.get("health") is None or card["windowing"] is None:
            raise ValueError(
                f"The model {os.fspath(model)} has no health profile. Fit it again from recordings with this version."
            )
        before, detector = split(bundle.load(model))
        recipe, profile = WindowRecipe.from_dict(card["windowing"]), Profile.from_dict(card["health"])
        # Behind transformers, units and columns may be different.
        return cls(detector if before is None else None, recipe, profile.with_ranges(ranges or {}))

    @property
    def scores(self) -> bool:
        """Whether there is a model, so that `grade` checks drift and `causes` can be called."""
        return self._model is not None

    def windows(self, log: Log) -> Windows:
        """Cut a recording into windows of samples; nearly all cells of a window may be missing."""
        return windows_of(log, replace(self.recipe, coefficients=None, missing=_NEARLY_ALL))

    def residuals(self, windows: Windows) -> Floats:
        """Each signal minus its reconstruction, mean over the window, shape ``(n, signals)``; NaN if it is missing."""
        return _residuals(self._model, self.recipe, cells_of(windows))

    def grade(self, windows: Windows) -> pd.DataFrame:
        """Grade each signal of each window, with drift if the profile has levels for it.

        A signal that drifts distorts the reconstruction of the others. So only the signal that has drifted furthest in
        a window is graded as drifted; and none is, if another signal is bad for another reason or has missing cells.

        Parameters
        ----------
        windows : Windows
            Each recording in order of time.

        Returns
        -------
        DataFrame
            As `anomalyvae.health.grades.grade` returns it.
        """
        alone = grade(windows, self.profile)
        if not self.scores or not np.isfinite(self.profile.levels["high"][:, :2]).any():
            return alone
        unreliable = graded(alone, self.profile.signals, "bad") | np.isnan(cells_of(windows)).any(axis=2)
        residuals = np.where(unreliable.any(axis=1, keepdims=True), np.nan, self.residuals(windows))
        together = grade(windows, self.profile, residuals)
        drift = np.where(together["reason"] == "drifted", together["severity"], 0.0).reshape(unreliable.shape)
        furthest = drift == drift.max(axis=1, keepdims=True)
        ignored = (drift > 0) & (~furthest | unreliable.any(axis=1, keepdims=True))
        together.loc[ignored.ravel()] = alone.loc[ignored.ravel()]
        return together

    def score_without(self, windows: Windows, hidden: Flags) -> Floats:
        """Anomaly score of windows without some of their signals, on the scale of whole windows.

        Hidden cells are imputed and add nothing to a score, so it would be too low. The training rows that the model
        remembers are therefore scored whole and with the same signals hidden. The line through both medians and both
        95th percentiles maps one scale to the other, so that the threshold and, approximately, p-values stay valid.

        Parameters
        ----------
        windows : Windows
        hidden : ndarray of bool, shape (n, signals)

        Returns
        -------
        ndarray of shape (n,)
            NaN where all cells are hidden or missing.
        """
        rows = _rows(self.recipe, cells_of(windows), hidden)
        some = ~rows.isna().all(axis=1).to_numpy()
        score = np.full(len(windows), np.nan)
        if some.any():
            median, step = self._scale(np.zeros(hidden.shape[1], dtype=bool))
            found = self._scored(rows[some])
            medians, steps = np.array([self._scale(pattern) for pattern in hidden[some]]).T
            score[some] = median + (found - medians) * (step / steps)
        return score

    def causes(self, windows: Windows, grades: pd.DataFrame) -> pd.DataFrame:
        """Find out whether each window is novel, or a bad sensor explains its score.

        Parameters
        ----------
        windows : Windows
        grades : DataFrame
            The result of `grade` for these windows.

        Returns
        -------
        DataFrame, n rows
            ``anomaly_score`` of the window; ``score_without``, its score without the signals that are bad, in it or in
            a window that overlaps it, or have missing cells (the same if there are none, NaN if nothing is left);
            ``sensors``, the bad signals; and ``cause``:

            - empty: neither score exceeds the model's threshold;
            - ``sensor``: only the first does, or nothing is left to score;
            - ``unclear``: the second does too, but not without the suspect signals;
            - ``novel``: it does even without these.

            Where signals are left out, the others must exceed the threshold by as much as the 95th percentile of
            training windows exceeds their median, about a tenth of the false alarms: many windows have the same bad
            sensor, and none of them should be novel by chance.
        """
        signals, threshold = self.profile.signals, -self._model.offset_
        bad = graded(grades, signals, "bad")
        hidden = _reaching(windows, bad) | np.isnan(cells_of(windows)).any(axis=2)
        plain = self.score_without(windows, np.zeros_like(bad))
        without = self._without(windows, plain, hidden)
        step = self._scale(np.zeros(len(signals), dtype=bool))[1]
        limit = np.where(hidden.any(axis=1), threshold + step, threshold)
        least = self._without(windows, without, hidden | graded(grades, signals, "suspect"), without > limit)
        with np.errstate(invalid="ignore"):
            cause = np.select(
                [least > limit, without > limit, ~(plain <= threshold) | np.isnan(without)],
                ["novel", "unclear", "sensor"],
                "",
            )
        names = pd.Series([[signals[i] for i in np.flatnonzero(row)] for row in bad], dtype=object)
        return pd.DataFrame({"anomaly_score": plain, "score_without": without, "cause": cause, "sensors": names})

    def _without(self, windows: Windows, known: Floats, hidden: Flags, where: Flags | None = None) -> Floats:
        """Scores without hidden signals where there are any, of the chosen windows; known scores elsewhere."""
        chosen = np.asarray(hidden.any(axis=1)) & (True if where is None else where)
        score = known.copy()
        if chosen.any():
            score[chosen] = self.score_without(windows.part(chosen), hidden[chosen])
        return score

    def _scored(self, rows: pd.DataFrame) -> Floats:
        """Scores of rows in which cells are hidden on purpose, of which the model would warn."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return np.asarray(self._model.anomaly_score(rows))

    def _scale(self, pattern: Flags) -> tuple[float, float]:
        """Of training rows without some signals: the median score, and the distance to its 95th percentile."""
        key = pattern.tobytes()
        if key not in self._scales:
            learned = rows_like_training(self._model)
            parts = learned.to_numpy().reshape(len(learned), *self.recipe.input_shape)
            shown = np.where(pattern[:, None], np.nan, parts).reshape(len(learned), -1)
            score = self._scored(pd.DataFrame(shown, columns=learned.columns))
            low, high = np.quantile(score, _LEVELS)
            self._scales[key] = float(low), float(max(high - low, 1e-12))
        return self._scales[key]


def event_causes(events: pd.DataFrame, spans: pd.DataFrame, causes: pd.DataFrame) -> pd.DataFrame:
    """Find out whether flagged events are novel, or bad sensors explain them.

    ``spans`` are the windows of these recordings, ``causes`` the result of `Sensors.causes` for them. The table has the
    index of ``events``. Its ``cause`` is ``novel`` if a window of the event is (or if none is known), else ``unclear``
    if one is, else ``sensor``; ``sensors`` are the signals that are bad in one of its windows.
    """
    rows = []
    for event in events.to_dict("records"):
        own = spans["recording"] == event["recording"]
        inside = (own & (spans["start_s"] < event["end_s"]) & (spans["end_s"] > event["start_s"])).to_numpy()
        found = set(causes["cause"][inside])
        cause = next((name for name in ("novel", "unclear", "sensor") if name in found), "novel")
        rows.append((cause, sorted({name for names in causes["sensors"][inside] for name in names})))
    return pd.DataFrame(rows, columns=["cause", "sensors"], index=events.index)


def unlearned_residuals(model: Any, recipe: WindowRecipe, windows: Windows) -> Floats:
    """The residuals of a fitted model's training windows (as samples), each by a model that has not learned the window.

    Two models are trained, each on one half: half of the recordings, or of the only one. The shape is ``(n, signals)``.
    """
    number, names = pd.factorize(windows.spans["recording"])
    half = number % 2 == 0 if len(names) > 1 else np.arange(len(windows)) < len(windows) // 2
    cells = cells_of(windows)
    rows = _rows(recipe, cells)
    residuals = np.empty(cells.shape[:2])
    for own in (half, ~half):
        other = clone(model).set_params(validation_fraction=0.0, criterion="reconstruction").fit(rows[~own])
        residuals[own] = _residuals(other, recipe, cells[own])
    return residuals


# --- windows --------------------------------------------------------------------------------------------


def rows_of(recipe: WindowRecipe, windows: Windows) -> pd.DataFrame:
    """The rows that a model of this recipe scores, from windows of samples."""
    return windows.rows if recipe.coefficients is None else _rows(recipe, cells_of(windows))


def signal_scores(model: Any, rows: pd.DataFrame, recipe: WindowRecipe) -> Floats:
    """The reconstruction score of each signal in each window, shape ``(n, signals)``: the sum over its cells."""
    return np.asarray(model.feature_scores(rows)).reshape(len(rows), *recipe.input_shape).sum(axis=2)


def _rows(recipe: WindowRecipe, cells: Floats, hidden: Flags | None = None) -> pd.DataFrame:
    """Samples as rows of the model, with hidden signals missing."""
    shown = cells if hidden is None else np.where(hidden[:, :, None], np.nan, cells)
    if recipe.coefficients is not None:
        shown = recipe.coefficients_of(shown)
    return pd.DataFrame(shown.reshape(len(cells), -1), columns=recipe.columns)


def _residuals(model: Any, recipe: WindowRecipe, cells: Floats) -> Floats:
    rows = _rows(recipe, cells)
    residuals = np.full(cells.shape[:2], np.nan)
    some = ~rows.isna().all(axis=1).to_numpy()
    if some.any():
        residual = cells[some] - recipe.over_time(np.asarray(model.reconstruct(rows[some])))
        known = ~np.isnan(residual)
        with np.errstate(invalid="ignore"):
            residuals[some] = np.where(known, residual, 0.0).sum(axis=2) / known.sum(axis=2)
    return residuals


def _reaching(windows: Windows, bad: Flags) -> Flags:
    """Bad signals, also in windows that overlap: a fault begins in windows that show too little of it."""
    reached = bad.copy()
    for signal in np.flatnonzero(bad.any(axis=0)):
        reached[:, signal] |= touches(windows.spans, windows.spans[bad[:, signal]], -SLACK_S)
    return reached
