"""Why windows are strange, in terms of the rows that a bundle's model has learned."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import models as bundle
from anomalyvae.bundle.card import read_card
from anomalyvae.bundle.preprocessing import split
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.recordings import WindowRecipe, stream_windows
from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.review.flags import excess_shares
from anomalyvae.review.picking import spread_of

_OUTSIDE = 0.01  # widths of the training range; less is rounding, or the luck of which rows are remembered

Floats = NDArray[np.float64]


class Reasons:
    """Says of windows where they lie in latent space, which signals are strange and which are out of range.

    The measure is what the model remembers of its training rows or, where its score needs no memory, rows drawn from
    the model itself.

    Parameters
    ----------
    model : path
        A bundle with a windowing recipe.
    databases : path or paths, optional
        What the messages of a vehicle bus mean, as for `anomalyvae.read_log`.

    Attributes
    ----------
    model_id : str
    recipe : WindowRecipe
    spread : float
        Root mean square distance of the training rows' latent codes from their mean.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such bundle, or its model takes rows that are no windows.
    """

    def __init__(self, model: str | os.PathLike[str], databases: Databases = None) -> None:
        card = read_card(model)
        if card["windowing"] is None:
            raise ValueError(
                f"Got the bundle {os.fspath(model)}, whose rows are no windows, expected a model of recordings. Fit "
                "one with a windowing recipe."
            )
        self.model_id: str = card["model_id"]
        self.recipe = WindowRecipe.from_dict(card["windowing"])
        self._databases = databases
        self._before, self._detector = split(bundle.load(model))
        if self._detector.n_features_in_ != len(self.recipe.columns):
            raise ValueError(
                f"Got the bundle {os.fspath(model)} with {self._detector.n_features_in_} features behind its "
                f"transformers and {len(self.recipe.columns)} before, expected as many, to tell signals apart."
            )
        learned = rows_like_training(self._detector)
        self.spread = spread_of(np.asarray(self._detector.embed(learned)))
        self._usual = self._signal_scores(learned).mean(axis=0)
        values = self._by_signal(learned)
        self._low, self._high = values.min(axis=(0, 2)), values.max(axis=(0, 2))

    def codes(self, rows: Floats) -> Floats:
        """Latent code of each window, shape ``(n, k)``, of windows ``(n, d)`` as the recipe makes them."""
        return np.asarray(self._detector.embed(self._table(rows)), dtype=np.float64)

    def codes_of(self, events: pd.DataFrame) -> Floats:
        """Latent code of each event's strangest window, shape ``(n, k)``; the windows of one file at a time."""
        codes = np.empty((len(events), self._detector.network_.latent_dim))
        for _, part in events.reset_index(drop=True).groupby(["source", "file"]):
            codes[part.index] = self.codes(self.windows(part))
        return codes

    def explain(self, rows: Floats) -> pd.DataFrame:
        """What is strange about windows.

        Parameters
        ----------
        rows : ndarray of shape (n, d)

        Returns
        -------
        DataFrame, n rows
            ``signals`` and ``shares`` (lists, greatest share first): how much of what exceeds a signal's usual
            reconstruction score is each one's; and ``outside`` (dict): how far a signal leaves the range of the
            training rows, in widths of that range (of a constant, in its own unit).
        """
        table = self._table(rows)
        shares = excess_shares(self._signal_scores(table) - self._usual)
        order = np.argsort(-shares, axis=1, kind="stable")
        values = self._by_signal(table)
        width = np.where(self._high > self._low, self._high - self._low, 1.0)
        beyond = np.maximum(values.max(axis=2) - self._high, self._low - values.min(axis=2)) / width
        names = self.recipe.signals
        return pd.DataFrame(
            {
                "signals": pd.Series([[names[i] for i in row] for row in order], dtype=object),
                "shares": pd.Series(np.take_along_axis(shares, order, axis=1).tolist(), dtype=object),
                "outside": pd.Series(
                    [{names[i]: float(row[i]) for i in np.argsort(-row) if row[i] > _OUTSIDE} for row in beyond],
                    dtype=object,
                ),
            }
        )

    def windows(self, events: pd.DataFrame) -> Floats:
        """The strangest window of each event, read from its recording.

        A file is read once, as a stream, and no further than its last event: memory holds a slab of it.

        Parameters
        ----------
        events : DataFrame, n rows
            ``source``, ``file``, ``recording`` and ``peak_start_s``.

        Returns
        -------
        ndarray of shape (n, d)

        Raises
        ------
        FileNotFoundError, ValueError
            If a recording is not there, or has no such window: it is another one than was scored.
        """
        rows = np.empty((len(events), len(self.recipe.columns)))
        places = events.reset_index(drop=True)
        for _, part in places.groupby(["source", "file"]):
            path = Path(part["source"].iloc[0], part["file"].iloc[0])
            rows[part.index] = self._read(path, part["peak_start_s"].to_numpy())
        return rows

    def _read(self, path: Path, starts: Floats) -> Floats:
        rows = np.empty((len(starts), len(self.recipe.columns)))
        waiting = np.ones(len(starts), dtype=bool)
        for slab in stream_windows(path, self.recipe, databases=self._databases):
            at = slab.spans["start_s"].to_numpy()
            for i in np.flatnonzero(waiting & np.isin(starts, at)):
                rows[i] = slab.rows.iloc[np.flatnonzero(at == starts[i])[0]]
                waiting[i] = False
            if not waiting.any():
                return rows
        raise ValueError(
            f"Got {path} without a window at {starts[waiting][0]:g} s, expected the recording that was scored. Score "
            "it again."
        )

    def _table(self, rows: Floats) -> pd.DataFrame:
        table = pd.DataFrame(rows, columns=self.recipe.columns)
        if self._before is None:
            return table
        names = getattr(self._detector, "feature_names_in_", None)
        return pd.DataFrame(np.asarray(self._before.transform(table)), columns=names)

    def _signal_scores(self, table: pd.DataFrame) -> Floats:
        parts = np.asarray(self._detector.feature_scores(table))
        return parts.reshape(len(parts), *self.recipe.input_shape).sum(axis=2)

    def _by_signal(self, table: pd.DataFrame) -> Floats:
        return self.recipe.over_time(table.to_numpy(dtype=np.float64))
