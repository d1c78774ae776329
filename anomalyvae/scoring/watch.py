"""``watch``: score the windows of a recording while it is written.

Each window is scored as soon as its last sample has arrived, without later ones. The scores equal those of
`score_folder` for the finished file. Neither torch nor scikit-learn is imported.
"""

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from anomalyvae.fleet import Fleet
from anomalyvae.folders import refuse_irregular
from anomalyvae.options import TableOptions
from anomalyvae.recordings import WindowRecipe, Windows
from anomalyvae.recordings.bus.identifier_names import is_identifier_signal
from anomalyvae.recordings.following import Feed, Following, GrowingFile
from anomalyvae.recordings.live import LiveWindows
from anomalyvae.recordings.live_bus import GROWING, Live, LiveBus
from anomalyvae.scoring.batch import flag_rate
from anomalyvae.scoring.drift import LiveDrift
from anomalyvae.scoring.inputs import Batch, refuse_units
from anomalyvae.scoring.one_file import Session, Work, moments
from anomalyvae.scoring.printed import Printed
from anomalyvae.scoring.ranking import NO_FLEET
from anomalyvae.scoring.scorer import Scorer


class WindowScore(NamedTuple):
    """The score of a window.

    Attributes
    ----------
    recording : str
    start_s, end_s : float
        The time of its first sample, and that of its last plus one step of the clock.
    time : datetime or None
        The moment (UTC) of its first sample; None if the recording does not say it.
    anomaly_score, p_value : float
    is_outlier : bool
    signals : dict of str to float
        The share of each signal in the positive part of the reconstruction term, largest first. Empty if there is none,
        and if the model's file has no feature scores.
    """

    recording: str
    start_s: float
    end_s: float
    time: datetime | None
    anomaly_score: float
    p_value: float
    is_outlier: bool
    signals: dict[str, float]


class Watcher:
    """Score the windows of a growing CSV file, or of CSV lines from a pipe.

    If the model was fitted to a vehicle bus without a database, it is a text log (candump, ASC, TRC), or what candump
    prints with time stamps.

    Parameters
    ----------
    model : path
        A bundle with a windowing recipe, or its ONNX file.
    alarms : dict, optional
        Flag windows by a false-alarm target instead of the model's threshold: ``{"per_hour": 6}`` or
        ``{"alpha": 0.01}``.
    tail : {"conformal", "pareto"}, default="conformal"
        Of p-values, as for `score_folder`.
    late : bool, default=False
        Wait for late rows, which `score_folder` sorts in; see `LiveWindows`.
    timeout_s : float, optional
        End when nothing new has come for so long; never by default.
    newest_first : bool, default=False
        Windows come in the order of time. If True, the newest window of a backlog is scored first, then new ones as
        they come, and earlier ones when there is time.
    drift : path, optional
        A file that keeps what is known of drift, so that a restart goes on from it; see
        `anomalyvae.scoring.drift.LiveDrift`. Without it, drift is watched from now on. Windows must come in the order
        of time.
    resume : path, optional
        A file that keeps which windows of a growing file were yielded, so that a restart goes on after them. A window
        counts when the next one is asked for. Windows must come in the order of time.
    notify : callable, optional
        Called with a sentence about a backlog, rows that were left out, a file that was replaced, or drift.
    **options
        How lines are read: see `anomalyvae.options.TableOptions`.

    Attributes
    ----------
    windows, flagged : int
        Windows scored and flagged so far.
    caution : str or None
        As for `Scorer`.
    timed_out : bool
        Whether it ended because nothing new came.
    drift : LiveDrift or None
        What it knows of drift; None with ``newest_first``, and if the model does not know other recordings.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no model, if it is not one of windows, or for an invalid alarm target; if the file of ``drift`` is
        damaged or of another model, or the model cannot tell drift; if the file of ``resume`` is damaged, or of another
        model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        alarms: dict[str, float] | None = None,
        tail: str = "conformal",
        late: bool = False,
        timeout_s: float | None = None,
        newest_first: bool = False,
        drift: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
        notify: Callable[[str], None] = lambda text: None,
        **options: Unpack[TableOptions],
    ) -> None:
        scorer = Scorer(model, providers=["CPUExecutionProvider"], threads=1)
        if scorer.metadata["windowing"] is None:
            raise ValueError(
                f"{os.fspath(model)} is a model of plain rows, expected one of windows. Score tables with it by "
                "anomalyvae score."
            )
        for name, state in (("drift", drift), ("resume", resume)):
            if state is not None and newest_first:
                raise ValueError(
                    f"Got newest_first and a file for {name}, which needs the order of time. Leave one of them out "
                    f"(--newest-first, --{name})."
                )
        rate = None if alarms is None else flag_rate(alarms, scorer.metadata, tail)
        explains = "feature_scores" in scorer.outputs
        path = os.path.abspath(model)
        self._session = Session(Work(path, scorer.sha256, rate=rate, tail=tail, feature_scores=explains))
        self.caution = scorer.caution
        self._recipe = WindowRecipe.from_dict(scorer.metadata["windowing"])
        self._of_a_bus = all(map(is_identifier_signal, self._recipe.needed))
        self.drift = self._drift(drift, newest_first, notify)
        self._printed = None if resume is None else Printed(Path(resume), scorer.metadata["model_id"])
        self._late, self._timeout_s, self._notify = late, timeout_s, notify
        self._newest_first = newest_first
        self._encoding = options.pop("encoding", None)
        self._options = options
        self._following: Following | None = None
        self._recordings = self._left_out = 0  # of files that were cut, overwritten or replaced
        self.windows = self.flagged = 0
        self.timed_out = False
        self._live: Live | None = None  # the last one

    def file(self, path: str | os.PathLike[str]) -> Iterator[WindowScore]:
        """Score the windows of a growing file, until nothing new has come for ``timeout_s``.

        A file that is cut, overwritten or replaced is read again from its beginning.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, if it is not CSV, or if its header lacks a signal of the model.
        """
        path = Path(path)
        if path.suffix.lower() == ".parquet":
            raise ValueError(f"{path} is a Parquet file, which cannot grow; expected CSV. Use anomalyvae score.")
        kind = path.suffix.lower()
        if self._of_a_bus and kind not in GROWING:
            raise ValueError(
                f"{path} is no text log of a vehicle bus, expected one that ends in {', '.join(GROWING)}, as the model "
                f"was fitted to a bus without a database. Use anomalyvae score for other logs."
            )
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, expected a file that grows. Name one of its files.")
        refuse_irregular(path)
        with GrowingFile(path) as file:
            if self._printed is not None:
                self._recordings, said = self._printed.begin(file, path.stem)
                if said:
                    self._notify(f"{path}: {said}")
            while True:
                yield from self._follow(file, path.stem, str(path), kind if kind in GROWING else "")
                if self.timed_out:
                    return
                file.begin_again()
                if self._printed is not None:
                    self._printed.begin_again(self._recordings)

    def pipe(self, descriptor: int, recording: str = "stdin") -> Iterator[WindowScore]:
        """Score the windows of lines from a pipe, until it ends or nothing new has come for ``timeout_s``.

        Raises
        ------
        ValueError
            If the header lacks a signal of the model, or with ``resume``.
        """
        if self._printed is not None:
            raise ValueError(
                "Got a pipe, which cannot be read again, expected a file to go on with. Leave out resume= "
                "(--resume), or store the lines in a file."
            )
        yield from self._follow(Feed(descriptor), recording, "the lines", GROWING[0] if self._of_a_bus else "")

    @property
    def left_out(self) -> int:
        """The number of rows that were left out."""
        following = self._following
        live = None if following is None else following.live
        unended = 0 if following is None else following.left_out
        return self._left_out + unended + (0 if live is None else live.left_out)

    @property
    def waiting(self) -> int:
        """The number of windows that are not scored yet."""
        return 0 if self._following is None else self._following.waiting

    @property
    def goes_on(self) -> bool:
        """Whether windows were yielded before a restart, which ``resume`` keeps."""
        return self._printed is not None and self._printed.last is not None

    @property
    def without(self) -> str:
        """Why no window was scored; empty if one was, now or before a restart."""
        if self.windows or self.goes_on:
            return ""
        return "no line came" if self._live is None else f"{self._live.recording}: {self._live.coverage.reason()}"

    def _follow(self, feed: Feed, recording: str, source: str, kind: str) -> Iterator[WindowScore]:
        before = self._recordings

        def begin(header: bytes) -> Live:
            if kind:
                self._live = LiveBus(
                    header, self._recipe, kind=kind, recording=recording, source=source, before=before
                )  # fmt: skip
                return self._live
            self._live = live = LiveWindows(
                header, self._recipe, recording=recording, source=source, before=before, late=self._late,
                **self._options,
            )  # fmt: skip
            refuse_units(live.units, self._session.metadata)
            return live

        self._following = Following(
            feed, begin, timeout_s=self._timeout_s, notify=self._notify, encoding=self._encoding,
            newest_first=self._newest_first,
        )  # fmt: skip
        for windows in self._following:
            yield from self._scored(windows)
        if self.drift is not None:
            self.drift.end()
        if self._following.change:
            self._notify(f"{source} was {self._following.change}: it is read from its beginning")
        self.timed_out = self._following.timed_out
        live, self._left_out = self._following.live, self.left_out
        if live is not None:
            self._recordings = live.recordings
        self._following = None

    def _drift(
        self, state: str | os.PathLike[str] | None, newest_first: bool, notify: Callable[[str], None]
    ) -> LiveDrift | None:
        metadata = self._session.metadata
        fleet = metadata.get("fleet")
        if state is not None and fleet is None:
            raise ValueError(f"{NO_FLEET} Without them, nothing can be said about drift (--drift).")
        if fleet is None or newest_first:
            return None
        return LiveDrift(Fleet.from_dict(fleet), metadata["model_id"], None if state is None else Path(state), notify)

    def _scored(self, windows: Windows) -> Iterator[WindowScore]:
        scores = self._session.scores(Batch({}, windows.rows.to_numpy()))
        if self.drift is not None:
            self.drift.add(windows, np.delete(scores, (1, 2), axis=1))
        signals = self._recipe.signals if scores.shape[1] > 3 else ()
        spans = (windows.spans[name].tolist() for name in ("recording", "start_s", "end_s"))
        times = moments(next(iter(windows.starts.values()), None), windows.spans["start_s"]).to_pylist()
        lines = zip(*spans, times, scores.tolist(), strict=True)
        for recording, start_s, end_s, time, (score, p_value, flag, *parts) in lines:
            if self._printed is not None and not self._printed.is_new(recording, start_s):
                continue
            self.windows, self.flagged = self.windows + 1, self.flagged + (flag > 0)
            shares = _shares(dict(zip(signals, parts, strict=True)))
            yield WindowScore(recording, start_s, end_s, time, score, p_value, flag > 0, shares)
            if self._printed is not None:
                self._printed.add(recording, start_s)


def _shares(parts: dict[str, float]) -> dict[str, float]:
    """The share of each in the sum of the positive ones, largest first."""
    above = sorted(((part, name) for name, part in parts.items() if part > 0), reverse=True)
    total = sum(part for part, _ in above)
    return {name: part / total for part, name in above}
