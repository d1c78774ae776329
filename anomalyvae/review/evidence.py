"""The data of the review page: an event's signals with their reconstruction, its scores, and the latent map.

All results are plain values, ready for JSON; a missing number is None.
"""

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import models as bundle
from anomalyvae.bundle.preprocessing import split, transformed
from anomalyvae.calibration import caution_of
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.folders import confined
from anomalyvae.options import ReadOptions, given
from anomalyvae.recordings import WindowRecipe, read_log
from anomalyvae.scoring.one_file import output_of
from anomalyvae.scoring.summary import read_scores_of
from anomalyvae.train import recipe_of

Floats = NDArray[np.float64]

_POINTS = 1600  # per line; a screen shows no more
_WINDOWS = 2000  # most windows to reconstruct for one chart
_BACKGROUND = 700  # training rows in the map
_DIGITS = 9


class Evidence:
    """Shows events of a queue, from their recordings, model (a bundle that scores windows) and scores.

    ``sources`` are the folders with the recordings. With one, all files are read from there; with several, each from
    the folder that its event names. Nothing outside these folders is read, not even through a link. ``scores`` is the
    folder that `score_folder` wrote, for the timelines; ``options`` say how files are read.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        sources: list[str | os.PathLike[str]],
        scores: str | os.PathLike[str] | None = None,
        **options: Unpack[ReadOptions],
    ) -> None:
        loaded, card = bundle.load_with_card(model)
        self.model_id: str = card["model_id"]
        self.caution = caution_of(card)
        self.threshold = -float(card["offset"])
        self.recipe = recipe_of(model, pipelines=True)
        self._before, self._detector = split(loaded)
        self._sources = [Path(source).resolve() for source in sources]
        self._scores = None if scores is None else Path(scores).resolve()
        self._options = tuple(given(options).items())
        self._training = np.asarray(self._detector.embed(rows_like_training(self._detector)), dtype=np.float64)

    def signals(self, event: dict[str, Any], around_s: float | None = None) -> dict[str, Any]:
        """The signals of an event over time, with their reconstruction and ``around_s`` (three windows) on both sides.

        Returns
        -------
        dict
            ``time_s`` (length m), ``step_s`` (a longer step is a gap), ``around_s``, and ``signals``: for each
            ``name``, ``unit``, ``values`` and ``reconstruction`` (length m), in the signal's unit. The reconstruction
            is the mean over the windows that cover a moment. Long intervals are thinned to the minimum and maximum of
            each short interval.

        Raises
        ------
        PermissionError, FileNotFoundError, ValueError
            If the file is outside the folders, missing, or unreadable, or has no data at that time.
        """
        path = self._recording(event)
        if around_s is None:
            around_s = 3 * self.recipe.length_s
        ticks, units = _clock(path, path.stat().st_mtime_ns, self.recipe, self._options)
        time_s = ticks["time_s"].to_numpy()
        low, high = event["start_s"] - around_s, event["end_s"] + around_s
        first, last = np.searchsorted(time_s, [low, high])
        if first == last:
            raise ValueError(
                f"The event is at {event['start_s']:g} s of {event['file']}, which is "
                f"{time_s[-1] if len(time_s) else 0:g} s long now: the recording has changed. Score and flag it again."
            )
        shown = slice(int(first), int(last))
        values = ticks[list(self.recipe.signals)].to_numpy().T[:, shown]
        thin_s, step_s, lines = _thin(
            time_s[shown], np.concatenate([values, self._reconstruction(ticks, shown)]), 1 / self.recipe.rate_hz
        )
        names = self.recipe.signals
        return {
            "time_s": plain(thin_s),
            "step_s": step_s,
            "around_s": around_s,
            "signals": [
                {
                    "name": name,
                    "unit": units.get(name, ""),
                    "values": plain(lines[i]),
                    "reconstruction": plain(lines[len(names) + i]),
                }
                for i, name in enumerate(names)
            ],
        }

    def timeline(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The anomaly score over an event's whole recording, or None without scores of it.

        ``time_s`` (the middle of each window), ``score``, ``step_s``, ``threshold`` and ``end_s``.
        """
        if self._scores is None:
            return None
        path = confined(self._scores, output_of(event["file"]))
        if not path.is_file():
            return None
        table = read_scores_of(path, ["start_s", "end_s", "anomaly_score"]).sort_values("start_s")
        at_peak = (table["start_s"] == event["peak_start_s"]) & (table["end_s"] == event["peak_end_s"])
        same = np.isclose(table.loc[at_peak, "anomaly_score"], event["peak_score"])
        if table.empty or (event["model_id"] == self.model_id and not same.all()):  # a file of that name elsewhere
            return None
        time_s = table[["start_s", "end_s"]].mean(axis=1).to_numpy()
        step_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
        thin_s, step_s, [score] = _thin(time_s, table[["anomaly_score"]].to_numpy().T, step_s)
        return {
            "time_s": plain(thin_s),
            "score": plain(score),
            "step_s": step_s,
            "threshold": self.threshold,
            "end_s": float(table["end_s"].max()),
        }

    def latent_map(self, events: pd.DataFrame) -> dict[str, Any]:
        """Latent codes of events and training rows in the plane of the training rows' first two principal components.

        ``training`` (list of [x, y]), ``events`` (dict of event_id to [x, y]) and ``explained``, the plane's share of
        the variance. Codes of another size, from another model, are left out. A model that remembers no training rows
        gives sampled rows instead.
        """
        size = self._training.shape[1]
        latent = (np.asarray(code, dtype=np.float64) for code in events["latent"])
        codes = {
            str(name): code
            for name, code in zip(events["event_id"], latent, strict=True)
            if code.shape == (size,) and np.isfinite(code).all()
        }
        own = np.array(list(codes.values())).reshape(len(codes), size)
        centre = self._training.mean(axis=0)
        _, spread, axes = np.linalg.svd(self._training - centre, full_matrices=False)
        plane = np.zeros((size, 2))
        plane[:, : len(axes[:2])] = axes[:2].T
        every = max(len(self._training) // _BACKGROUND, 1)
        return {
            "training": plain((self._training[::every] - centre) @ plane),
            "events": dict(zip(codes, plain((own - centre) @ plane), strict=True)),
            "explained": plain(np.square(spread[:2]).sum() / max(np.square(spread).sum(), 1e-300)),
        }

    def _recording(self, event: dict[str, Any]) -> Path:
        sources = self._sources
        if len(sources) > 1:
            sources = [source for source in sources if source == Path(event["source"]).resolve()]
        if not sources:
            raise PermissionError(
                f"The recording is in {event['source']}, which this page may not read. Start 'anomalyvae review' "
                "again, with this folder as --source."
            )
        path = confined(sources[0], event["file"])
        if not path.is_file():
            raise FileNotFoundError(
                f"{event['file']} is not in {sources[0]}. Start 'anomalyvae review' again, with its folder as --source."
            )
        return path

    def _reconstruction(self, ticks: pd.DataFrame, shown: slice) -> Floats:
        """Mean over the windows that cover each tick, shape ``(n_signals, ticks shown)``; NaN where none does."""
        n_signals, samples = len(self.recipe.signals), self.recipe.samples
        length = shown.stop - shown.start
        rows, starts = self._windows(ticks, shown)
        total, count = np.zeros((n_signals, length + 2 * samples)), np.zeros(length + 2 * samples)
        if len(rows) and (self._before is None or hasattr(self._before, "inverse_transform")):
            rebuilt = self.recipe.over_time(self._reconstruct(rows))
            covered = starts[:, None] - shown.start + samples + np.arange(samples)
            np.add.at(count, covered, 1)
            for signal in range(n_signals):
                np.add.at(total[signal], covered, rebuilt[:, signal])
        inner = slice(samples, samples + length)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)[:, inner]

    def _reconstruct(self, rows: pd.DataFrame) -> Floats:
        """The reconstruction of windows in their own units, shape ``(n, d)``."""
        rebuilt = self._detector.reconstruct(transformed(self._before, self._detector, rows))
        if self._before is not None:
            rebuilt = self._before.inverse_transform(rebuilt)
        return np.asarray(rebuilt, dtype=np.float64)

    def _windows(self, ticks: pd.DataFrame, shown: slice) -> tuple[pd.DataFrame, NDArray[np.intp]]:
        """The scored windows that touch the ticks shown, and the first tick of each."""
        time_s, samples = ticks["time_s"].to_numpy(), self.recipe.samples
        parts, firsts = [], []
        for batch in self.recipe.batches([ticks], "", {}, 65536):
            starts = np.searchsorted(time_s, batch.spans["start_s"].to_numpy() - 0.5 / self.recipe.rate_hz)
            near = (starts + samples > shown.start) & (starts < shown.stop)
            parts.append(batch.rows[near])
            firsts.append(starts[near])
            if len(starts) and starts[-1] >= shown.stop:
                break
        rows, first = pd.concat(parts, ignore_index=True), np.concatenate(firsts)
        every = max(math.ceil(len(rows) / _WINDOWS), 1)
        return rows[::every], first[::every]


def plain(value: Any) -> Any:
    """NumPy values as JSON values: nine digits, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


@lru_cache(maxsize=2)  # so that several events of a recording read it once
def _clock(
    path: Path, changed: int, recipe: WindowRecipe, options: tuple[tuple[str, Any], ...]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The recording on the recipe's clock, and its units."""
    log = read_log(path, signals=recipe.needed, **dict(options))
    units = {name: log[name].unit for name in recipe.signals}
    return recipe.ticks(log), units


def _thin(time_s: Floats, lines: Floats, step_s: float) -> tuple[Floats, float, Floats]:
    """Thin lines ``(c, n)`` to the minimum and maximum of each short interval."""
    every = math.ceil(2 * len(time_s) / _POINTS)
    if every <= 2:
        return time_s, step_s, lines
    firsts = np.arange(0, len(time_s), every)
    low, high = np.fmin.reduceat(lines, firsts, axis=1), np.fmax.reduceat(lines, firsts, axis=1)
    ends = np.minimum(firsts + every // 2, len(time_s) - 1)
    thinned = np.stack([low, high], axis=2).reshape(len(lines), -1)
    return np.column_stack([time_s[firsts], time_s[ends]]).ravel(), step_s * every, thinned
