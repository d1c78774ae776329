"""Where in a clock windows begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from anomalyvae.recordings.where import parse_where

if TYPE_CHECKING:
    from anomalyvae.recordings.windows import Ticks, WindowRecipe


class Cutter:
    """Finds the windows in a clock that comes piece by piece.

    Of a stretch that may go on, it remembers as many ticks as a window has.
    """

    def __init__(self, recipe: WindowRecipe) -> None:
        self._recipe, self._conditions = recipe, parse_where(recipe.where)
        self._ticks: dict[str, np.ndarray] = {name: np.empty(0) for name in ("time_s", *recipe.needed)}
        self._gone = self._made = 0  # of the stretch that may go on: ticks before those remembered, and windows

    def add(self, piece: Ticks | pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the ticks remembered and new, and the place in them at which each new window begins."""
        ticks = {name: np.concatenate((old, np.asarray(piece[name]))) for name, old in self._ticks.items()}
        time_s = ticks["time_s"]
        if not len(time_s):
            return ticks, np.empty(0, dtype=np.int64)
        recipe = self._recipe
        lacking = np.zeros(len(time_s), dtype=np.int64)  # signals that are missing at a tick
        for name in recipe.signals:
            lacking += ~np.isfinite(ticks[name])
        present = lacking < len(recipe.signals) if recipe.missing else lacking == 0
        even = np.diff(time_s) * recipe.rate_hz < 1.5  # the next row is the next tick
        begins = present & np.concatenate(([True], ~(present[:-1] & even)))
        ends = present & np.concatenate((~(present[1:] & even), [True]))
        first, last = np.flatnonzero(begins), np.flatnonzero(ends)
        gone, made = np.zeros_like(first), np.zeros_like(first)
        if len(self._ticks["time_s"]):
            gone[0], made[0] = self._gone, self._made

        length = gone + last - first + 1
        room = length - recipe.samples  # how far a stretch's last window may begin from its first
        stride = recipe.stride_s * recipe.rate_hz
        count = np.where(room >= 0, np.ceil((room + 1 - 1e-6) / stride), 0).astype(np.int64)
        new = count - made
        number = np.arange(new.sum()) + np.repeat(made - (np.cumsum(new) - new), new)
        starts = np.repeat(first - gone, new) + np.floor(number * stride + 1e-6).astype(np.int64)

        kept = min(int(last[-1] - first[-1]) + 1, recipe.samples) if present[-1] else 0
        self._ticks = {name: values[len(values) - kept :].copy() for name, values in ticks.items()}
        self._gone, self._made = (int(length[-1]) - kept, int(count[-1])) if kept else (0, 0)
        cells = len(recipe.signals) * recipe.samples
        enough = self._total(lacking, starts) <= recipe.missing * cells + 1e-6
        return ticks, starts[enough & self._holds(ticks, starts)]

    def _holds(self, ticks: Ticks, starts: np.ndarray) -> np.ndarray:
        """Return whether the condition holds at every sample of the windows that begin there."""
        fails = np.zeros(len(ticks["time_s"]), dtype=bool)
        for comparison in self._conditions:
            fails |= ~comparison.holds(ticks[comparison.signal])
        return self._total(fails, starts) == 0

    def _total(self, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the sum of whole numbers over the windows that begin there."""
        before = np.concatenate(([0], np.cumsum(values)))
        return before[starts + self._recipe.samples] - before[starts]
