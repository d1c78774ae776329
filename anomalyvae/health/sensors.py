"""What the model adds to sensor health: signals that drift from their partners, and what is strange without bad ones.

The gap of a signal is what was measured less its reconstruction, in which the model has to make it agree with its
partners. And a window in which a sensor is bad is scored once more without that sensor's cells, so that the sensor is
not taken for a novelty, and a novelty is not lost behind the sensor.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from anomalyvae import models as bundle
from anomalyvae.bundle.card import read_card
from anomalyvae.bundle.preprocessing import split
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.health.grades import Profile, Ranges, grade, graded, learn_profile
from anomalyvae.health.measures import cells_of
from anomalyvae.metrics import touches
from anomalyvae.recordings import WindowRecipe, Windows

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_NEARLY_ALL = 1 - 1e-9  # of a window's cells may be missing where it is to be graded
_SLACK_S = 1e-6
_LEVELS = (0.5, 0.95)  # quantiles at which scores without a signal are brought to the scale of whole ones


def watched(recipe: WindowRecipe) -> WindowRecipe:
    """The recipe by which windows are graded: samples, and windows in which nearly all cells may be missing."""
    return replace(recipe, coefficients=None, missing=_NEARLY_ALL)


class Sensors:
    """Grades the signals of windows, and says of windows whether they are novel or a sensor is bad.

    Parameters
    ----------
    model : fitted VAEOutlierDetector or None
        With None, drift is not looked for, and nothing is scored.
    recipe : WindowRecipe
        Of the rows that the model takes.
    profile : Profile
        Of the recipe's signals.

    Notes
    -----
    Windows are those of ``watched(recipe)`` everywhere here.
    """

    def __init__(self, model: Any, recipe: WindowRecipe, profile: Profile) -> None:
        self.recipe, self.profile = recipe, profile
        self._model = model
        self._lines: dict[bytes, tuple[float, float]] = {}  # by which signals are hidden: a score's usual value, step

    @classmethod
    def of(cls, model: str | os.PathLike[str], ranges: Ranges | None = None) -> Sensors:
        """Read them from a bundle.

        Parameters
        ----------
        model : path
        ranges : mapping of str to (low, high), optional
            Physical ranges of signals, in place of what the bundle says.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no bundle, or it has no profile.
        """
        card = read_card(model)
        if card.get("health") is None or card["windowing"] is None:
            raise ValueError(
                f"Got the bundle {os.fspath(model)}, which does not say what healthy signals look like, expected one "
                "that does. Fit it again from recordings with this version."
            )
        before, detector = split(bundle.load(model))
        recipe, profile = WindowRecipe.from_dict(card["windowing"]), Profile.from_dict(card["health"])
        # Behind transformers there are other units, and other columns.
        return cls(detector if before is None else None, recipe, profile.stating(ranges or {}))

    @property
    def scores(self) -> bool:
        """Whether there is a model, so that drift is looked for, and causes can be told."""
        return self._model is not None

    def gaps(self, windows: Windows) -> Floats:
        """How far each signal lies over its reconstruction, mean over the window, shape ``(n, signals)``.

        In the signals' units; NaN where a signal is missing.
        """
        return _gaps(self._model, self.recipe, cells_of(windows))

    def grade(self, windows: Windows) -> pd.DataFrame:
        """Grade each signal of each window, drift included, where the profile knows of it.

        A signal that leaves its partners takes their reconstruction with it. So in a window only the signal that has
        drifted furthest has drifted; and none has where another is bad for another reason or has missing cells: the
        reconstruction leans on it.

        Parameters
        ----------
        windows : Windows
            Each recording in order of time.

        Returns
        -------
        DataFrame
            As `anomalyvae.health.grades.grade` has it.
        """
        alone = grade(windows, self.profile)
        if not self.scores or not np.isfinite(self.profile.levels["high"][:, :2]).any():
            return alone
        leaning = graded(alone, self.profile.signals, "bad") | np.isnan(cells_of(windows)).any(axis=2)
        gaps = np.where(leaning.any(axis=1, keepdims=True), np.nan, self.gaps(windows))
        together = grade(windows, self.profile, gaps)
        drifted = np.where(together["reason"] == "drifted", together["severity"], 0.0).reshape(leaning.shape)
        taken_along = (drifted < drifted.max(axis=1, keepdims=True)) & (drifted > 0)
        taken_along |= (drifted > 0) & leaning.any(axis=1, keepdims=True)
        together.loc[taken_along.ravel()] = alone.loc[taken_along.ravel()]
        return together

    def score_without(self, windows: Windows, hidden: Flags) -> Floats:
        """Anomaly score of windows without some of their signals, on the scale of whole windows.

        Hidden cells are filled in as expected, and so add nothing to a score: on its own it would fall. So the rows
        that the model remembers are scored whole and with the same signals hidden; the line through both medians and
        both 95th percentiles brings one scale to the other, and the score keeps its meaning: the threshold, and
        p-values about.

        Parameters
        ----------
        windows : Windows
        hidden : ndarray of bool, shape (n, signals)

        Returns
        -------
        ndarray of shape (n,)
            High = strange. NaN where nothing is left.
        """
        rows = _rows(self.recipe, cells_of(windows), hidden)
        some = ~rows.isna().all(axis=1).to_numpy()
        score = np.full(len(windows), np.nan)
        if some.any():
            usual, step = self._line(np.zeros(hidden.shape[1], dtype=bool))
            found = np.asarray(self._model.anomaly_score(rows[some]))
            begins, steps = np.array([self._line(pattern) for pattern in hidden[some]]).T
            score[some] = usual + (found - begins) * (step / steps)
        return score

    def causes(self, windows: Windows, grades: pd.DataFrame) -> pd.DataFrame:
        """Say of each window whether it is novel, or its strangeness is that of a sensor.

        Parameters
        ----------
        windows : Windows
        grades : DataFrame
            What `grade` gave of them.

        Returns
        -------
        DataFrame, n rows
            ``anomaly_score``, that of the window as it is; ``score_without``, that without the signals that are bad, in
            it or in a window that overlaps it, or have missing cells (the same where there are none, NaN where nothing
            is left); ``sensors``, the bad signals;
            and ``cause``: empty if neither lies over the model's threshold; ``sensor`` if the first does, but not the
            second, or nothing is left; ``unclear`` if the second does, but not without the suspect signals; else
            ``novel``.
        """
        signals, threshold = self.profile.signals, -self._model.offset_
        bad = graded(grades, signals, "bad")
        hidden = _reaching(windows, bad) | np.isnan(cells_of(windows)).any(axis=2)
        plain = self.score_without(windows, np.zeros_like(bad))
        without = self._without(windows, plain, hidden)
        least = self._without(windows, without, hidden | graded(grades, signals, "suspect"), without > threshold)
        with np.errstate(invalid="ignore"):
            cause = np.select(
                [least > threshold, without > threshold, ~(plain <= threshold) | np.isnan(without)],
                ["novel", "unclear", "sensor"],
                "",
            )
        names = pd.Series([[signals[i] for i in np.flatnonzero(row)] for row in bad], dtype=object)
        table = {"anomaly_score": plain, "score_without": without, "cause": cause, "sensors": names}
        return pd.DataFrame(table)

    def _without(self, windows: Windows, known: Floats, hidden: Flags, where: Flags | None = None) -> Floats:
        """Scores where something is hidden, among the windows that matter; elsewhere those that are known."""
        chosen = np.asarray(hidden.any(axis=1)) & (True if where is None else where)
        score = known.copy()
        if chosen.any():
            score[chosen] = self.score_without(part_of(windows, chosen), hidden[chosen])
        return score

    def _line(self, pattern: Flags) -> tuple[float, float]:
        """Of windows as learned, without some signals: the median score, and how far the 95th percentile is above."""
        key = pattern.tobytes()
        if key not in self._lines:
            learned = rows_like_training(self._model)
            parts = learned.to_numpy().reshape(len(learned), *self.recipe.input_shape)
            shown = np.where(pattern[:, None], np.nan, parts).reshape(len(learned), -1)
            score = np.asarray(self._model.anomaly_score(pd.DataFrame(shown, columns=learned.columns)))
            low, high = np.quantile(score, _LEVELS)
            self._lines[key] = float(low), float(max(high - low, 1e-12))
        return self._lines[key]


def learn_health(
    recipe: WindowRecipe, windows: Windows, ranges: Ranges | None = None, gaps: Floats | None = None
) -> dict[str, Any]:
    """What a bundle's card says of healthy signals, learned from normal windows.

    Parameters
    ----------
    recipe : WindowRecipe
    windows : Windows
        What the model has learned, as samples.
    ranges, gaps
        See `anomalyvae.health.grades.learn_profile`.
    """
    profile = learn_profile(windows, states=(*recipe.states, *recipe.counts), ranges=ranges, gaps=gaps)
    return profile.to_dict()


def rows_of(recipe: WindowRecipe, windows: Windows) -> pd.DataFrame:
    """The rows that a model of this recipe takes, of windows as samples."""
    return windows.rows if recipe.coefficients is None else _rows(recipe, cells_of(windows))


def unlearned_gaps(model: Any, recipe: WindowRecipe, windows: Windows) -> Floats:
    """The gaps of the windows that a model has learned, as if they were new: by models of the other half each.

    The halves are of whole recordings where there are several. Two more networks are trained.

    Parameters
    ----------
    model : fitted VAEOutlierDetector
    recipe : WindowRecipe
    windows : Windows
        What it has learned, as samples.

    Returns
    -------
    ndarray of shape (n, signals)
    """
    number, names = pd.factorize(windows.spans["recording"])
    half = number % 2 == 0 if len(names) > 1 else np.arange(len(windows)) < len(windows) // 2
    cells = cells_of(windows)
    rows = _rows(recipe, cells)
    gaps = np.empty(cells.shape[:2])
    for own in (half, ~half):
        other = clone(model).set_params(validation_fraction=0.0, criterion="reconstruction").fit(rows[~own])
        gaps[own] = _gaps(other, recipe, cells[own])
    return gaps


def event_causes(events: pd.DataFrame, spans: pd.DataFrame, causes: pd.DataFrame) -> pd.DataFrame:
    """Say of flagged events whether they are novel, or the strangeness is that of a sensor.

    Parameters
    ----------
    events : DataFrame
        ``recording``, ``start_s``, ``end_s``.
    spans, causes : DataFrame
        Graded windows of those recordings, and what `Sensors.causes` said of them.

    Returns
    -------
    DataFrame, the index of ``events``
        ``cause``: ``sensor`` where no window of the event is ``novel`` or ``unclear``, but one has it; ``unclear``
        where none is novel; else ``novel``. ``sensors``: signals that are bad in one of its windows.
    """
    rows = []
    for event in events.to_dict("records"):
        own = spans["recording"] == event["recording"]
        inside = (own & (spans["start_s"] < event["end_s"]) & (spans["end_s"] > event["start_s"])).to_numpy()
        said = set(causes["cause"][inside])
        cause = next((name for name in ("novel", "unclear", "sensor") if name in said), "novel")
        rows.append((cause, sorted({name for names in causes["sensors"][inside] for name in names})))
    return pd.DataFrame(rows, columns=["cause", "sensors"], index=events.index)


def part_of(windows: Windows, chosen: Flags) -> Windows:
    """Some of the windows, in their order."""
    rows, spans = windows.rows[chosen].reset_index(drop=True), windows.spans[chosen].reset_index(drop=True)
    return Windows(rows, spans, windows.units)


def _reaching(windows: Windows, bad: Flags) -> Flags:
    """The same, and windows that overlap: a fault begins and ends inside of windows that show too little of it."""
    reached = bad.copy()
    for signal in np.flatnonzero(bad.any(axis=0)):
        reached[:, signal] |= touches(windows.spans, windows.spans[bad[:, signal]], -_SLACK_S)
    return reached


def _gaps(model: Any, recipe: WindowRecipe, cells: Floats) -> Floats:
    rows = _rows(recipe, cells)
    gaps = np.full(cells.shape[:2], np.nan)
    some = ~rows.isna().all(axis=1).to_numpy()
    if some.any():
        apart = cells[some] - recipe.over_time(np.asarray(model.reconstruct(rows[some])))
        known = ~np.isnan(apart)
        with np.errstate(invalid="ignore"):
            gaps[some] = np.where(known, apart, 0.0).sum(axis=2) / known.sum(axis=2)
    return gaps


def _rows(recipe: WindowRecipe, cells: Floats, hidden: Flags | None = None) -> pd.DataFrame:
    """Samples as the model takes them, hidden signals missing."""
    shown = cells if hidden is None else np.where(hidden[:, :, None], np.nan, cells)
    if recipe.coefficients is not None:
        shown = recipe.coefficients_of(shown)
    return pd.DataFrame(shown.reshape(len(cells), -1), columns=recipe.columns)
