"""Why flagged windows are anomalous: which signals contribute, and how far they leave the training range."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae import models as bundle
from anomalyvae.bundle.preprocessing import split, transformed
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.events import merge_alarms
from anomalyvae.fleet import SAME
from anomalyvae.health.sensors import signal_scores
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, Windows, stream_windows
from anomalyvae.review.picking import peaks_of, spread_of
from anomalyvae.train import recipe_of

_OUTSIDE = 0.01  # range widths; less is rounding, or depends on which training rows the model remembers
_AROUND_S = 4.0  # seconds shown before and after a window

Floats = NDArray[np.float64]


# --- signals and their shares ---------------------------------------------------------------------------


def excess_shares(excess: Floats) -> Floats:
    """Shares ``(n, c)`` of positive excess scores ``(n, c)``: each row sums to 1, or to 0 if no score is positive."""
    above = np.clip(excess, 0.0, None)
    total = above.sum(axis=1, keepdims=True)
    return np.divide(above, total, out=np.zeros_like(above), where=total > 0)


def compared_by(model: str | os.PathLike[str], rows: pd.DataFrame) -> Floats:
    """What windows are compared by, shape ``(n, k)``: latent codes, and the shares of the signals in the scores.

    Without shares for a bundle whose transformers change the columns.
    """
    before, detector = split(bundle.load(model))
    recipe = recipe_of(model, pipelines=True)
    rows = transformed(before, detector, rows)
    codes = np.asarray(detector.embed(rows), dtype=np.float64)
    if detector.n_features_in_ != len(recipe.columns):
        return codes
    usual = signal_scores(detector, rows_like_training(detector), recipe).mean(axis=0)
    return np.column_stack([codes, excess_shares(signal_scores(detector, rows, recipe) - usual)])


def _ranked(excess: Floats, signals: tuple[str, ...]) -> pd.DataFrame:
    """``signals`` and their ``shares`` of the excess scores, as lists with the largest share first."""
    shares = excess_shares(excess)
    order = np.argsort(-shares, axis=1, kind="stable")
    return pd.DataFrame(
        {
            "signals": pd.Series([[signals[i] for i in row] for row in order], dtype=object),
            "shares": pd.Series(np.take_along_axis(shares, order, axis=1).tolist(), dtype=object),
        }
    )


def explained_flags(
    spans: pd.DataFrame, scores: Floats, flagged: ArrayLike, excess: Floats, signals: tuple[str, ...]
) -> pd.DataFrame:
    """Merge flagged windows to events and name the signals behind each.

    Parameters
    ----------
    spans : DataFrame, n rows
        ``recording``, ``start_s``, ``end_s``.
    scores : ndarray of shape (n,)
        Anomaly scores.
    flagged : array-like of bool, shape (n,)
    excess : ndarray of shape (n, len(signals))
        Score of each signal minus its usual score. The most anomalous window of an event gives its shares.
    signals : tuple of str

    Returns
    -------
    DataFrame
        The most anomalous event first: ``recording``, ``start_s``, ``end_s``, ``peak_score``, ``windows``, ``signals``
        and ``shares`` (lists, largest share first), and ``peak``, the position of its most anomalous window in `spans`.
    """
    flags = merge_alarms(spans, flagged)
    peaks = peaks_of(flags.pop("members"), scores)
    flags = flags.assign(peak_score=scores[peaks]).join(_ranked(excess[peaks], signals)).assign(peak=peaks)
    return flags.sort_values("peak_score", ascending=False, kind="stable", ignore_index=True)


# --- the reasons of a bundle ----------------------------------------------------------------------------


class Reasons:
    """Explains windows: their position in latent space, the anomalous signals, and the signals out of range.

    The reference are the training rows that the model remembers or, if its score needs no memory, rows sampled from
    the model. ``spread`` is the root mean square distance of their latent codes from the mean.

    Parameters
    ----------
    model : path
        A bundle with a windowing recipe.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.
    """

    def __init__(self, model: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> None:
        self.recipe = recipe_of(model, pipelines=True)
        loaded, card = bundle.load_with_card(model)
        self.model_id: str = card["model_id"]
        self._options = options
        self._before, self._detector = split(loaded)
        if self._detector.n_features_in_ != len(self.recipe.columns):
            raise ValueError(
                f"The transformers of the model {os.fspath(model)} turn {len(self.recipe.columns)} columns into "
                f"{self._detector.n_features_in_}, so its scores have no parts by signal. Use transformers that keep "
                "the columns."
            )
        learned = rows_like_training(self._detector)
        self.spread = spread_of(np.asarray(self._detector.embed(learned)))
        self._usual = signal_scores(self._detector, learned, self.recipe).mean(axis=0)
        values = self._by_signal(learned)
        self._low, self._high = values.min(axis=(0, 2)), values.max(axis=(0, 2))

    def codes(self, rows: Floats) -> Floats:
        """Latent codes ``(n, k)`` of windows ``(n, d)`` as the recipe makes them."""
        return np.asarray(self._detector.embed(self._table(rows)), dtype=np.float64)

    def codes_of(self, events: pd.DataFrame) -> Floats:
        """Latent codes ``(n, k)`` of the most anomalous windows of events; reads one file at a time."""
        codes = np.empty((len(events), self._detector.network_.latent_dim))
        for _, part in events.reset_index(drop=True).groupby(["source", "file"]):
            codes[part.index] = self.codes(self.windows(part))
        return codes

    def explain(self, rows: Floats) -> pd.DataFrame:
        """Explain windows.

        Parameters
        ----------
        rows : ndarray of shape (n, d)

        Returns
        -------
        DataFrame, n rows
            ``signals`` and ``shares`` (lists, largest share first): the part of each signal in the scores above the
            usual; and ``outside`` (dict): how far a signal leaves the range of the training rows, in range widths (for
            a constant signal, in its own unit).
        """
        table = self._table(rows)
        names = self.recipe.signals
        values = self._by_signal(table)
        width = np.where(self._high > self._low, self._high - self._low, 1.0)
        beyond = np.maximum(values.max(axis=2) - self._high, self._low - values.min(axis=2)) / width
        outside = [{names[i]: float(row[i]) for i in np.argsort(-row) if row[i] > _OUTSIDE} for row in beyond]
        ranked = _ranked(signal_scores(self._detector, table, self.recipe) - self._usual, names)
        return ranked.assign(outside=pd.Series(outside, dtype=object))

    def windows(self, events: pd.DataFrame) -> Floats:
        """Read the most anomalous window of each event from its recording.

        A file is read once, as a stream, until its last event.

        Parameters
        ----------
        events : DataFrame, n rows
            ``source``, ``file``, ``recording``, ``peak_start_s``, ``peak_score`` and ``model_id``.

        Returns
        -------
        ndarray of shape (n, d)

        Raises
        ------
        FileNotFoundError, ValueError
            If a recording is missing, or has changed since this model scored it: the window is not there, or its score
            differs.
        """
        rows = np.empty((len(events), len(self.recipe.columns)))
        for _, part in events.reset_index(drop=True).groupby(["source", "file"]):
            path = Path(part["source"].iloc[0], part["file"].iloc[0])
            rows[part.index] = self._read(path, part["peak_start_s"].to_numpy())
            self._refuse_changed(path, part, rows[part.index])
        return rows

    def _refuse_changed(self, path: Path, events: pd.DataFrame, rows: Floats) -> None:
        own = (events["model_id"] == self.model_id).to_numpy()
        if not own.any():  # another model has scored them
            return
        known = events["peak_score"].to_numpy(dtype=float)[own]
        found = self._detector.anomaly_score(self._table(rows[own]))
        wrong = np.flatnonzero(~np.isclose(found, known, rtol=SAME, atol=SAME))
        if len(wrong):
            raise ValueError(
                f"{path} is not the recording that was scored: its window at "
                f"{events['peak_start_s'].to_numpy()[own][wrong[0]]:g} s has the score {found[wrong[0]]:.4g}, expected "
                f"{known[wrong[0]]:.4g}. Restore the old file, or score and review it again."
            )

    def _read(self, path: Path, starts: Floats) -> Floats:
        rows = np.empty((len(starts), len(self.recipe.columns)))
        waiting = np.ones(len(starts), dtype=bool)
        for batch in stream_windows(path, self.recipe, **self._options):
            at = batch.spans["start_s"].to_numpy()
            for i in np.flatnonzero(waiting & np.isin(starts, at)):
                rows[i] = batch.rows.iloc[np.flatnonzero(at == starts[i])[0]]
                waiting[i] = False
            if not waiting.any():
                return rows
        raise ValueError(
            f"Got {path} without a window at {starts[waiting][0]:g} s: it is not the recording that was scored. Score "
            "it again."
        )

    def _table(self, rows: Floats) -> pd.DataFrame:
        """Windows as the detector takes them, behind the transformers."""
        return transformed(self._before, self._detector, pd.DataFrame(rows, columns=self.recipe.columns))

    def _by_signal(self, table: pd.DataFrame) -> Floats:
        return self.recipe.over_time(table.to_numpy(dtype=np.float64))


# --- a view of one window -------------------------------------------------------------------------------


@dataclass(frozen=True)
class WindowView:
    """The data of a chart of one window with c signals.

    ``shares``, shape ``(c,)``, are the parts of the signals in the score; ``near_event`` says whether a known event
    explains it. ``reconstruction`` is the model's, at the t times ``time_s``, shape ``(c, t)``, in the signals' units.
    ``around`` are the signals in the window, before and after it, shape ``(c, m)``, as far as there are windows.
    Windows of cosine coefficients give the signals that the coefficients describe.
    """

    recording: str
    start_s: float
    end_s: float
    score: float
    near_event: bool
    signals: tuple[str, ...]
    shares: Floats
    time_s: Floats
    reconstruction: Floats
    around_time_s: Floats
    around: Floats


def window_view(
    model: Any, recipe: WindowRecipe, windows: Windows, position: int, score: float, near_event: bool, shares: Floats
) -> WindowView:
    """Gather the data of a chart of the window at a position among the windows of its recording.

    ``shares``, shape ``(n_signals,)``, are the parts of the signals in its score.
    """
    starts, ends = windows.spans["start_s"].to_numpy(), windows.spans["end_s"].to_numpy()
    start_s, end_s = float(starts[position]), float(ends[position])
    n_signals = len(recipe.signals)
    time_s = np.arange(recipe.samples) / recipe.rate_hz

    near = np.flatnonzero((starts >= start_s - _AROUND_S) & (starts <= end_s + _AROUND_S))
    values = recipe.over_time(windows.rows.iloc[near].to_numpy())
    ticks = np.rint((starts[near, None] + time_s) * recipe.rate_hz).astype(int).ravel()
    _, first = np.unique(ticks, return_index=True)  # neighbouring windows share samples
    around_time_s = (starts[near, None] + time_s).ravel()[first]
    kept = (around_time_s >= start_s - _AROUND_S) & (around_time_s <= end_s + _AROUND_S)
    around = values.transpose(1, 0, 2).reshape(n_signals, -1)[:, first]

    rebuilt = recipe.over_time(np.asarray(model.reconstruct(windows.rows.iloc[[position]])))[0]
    return WindowView(
        recording=str(windows.spans.loc[position, "recording"]),
        start_s=start_s,
        end_s=end_s,
        score=score,
        near_event=near_event,
        signals=tuple(recipe.signals),
        shares=shares,
        time_s=start_s + time_s,
        reconstruction=rebuilt,
        around_time_s=around_time_s[kept],
        around=around[:, kept],
    )
