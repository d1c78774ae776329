"""When to retrain: whether new recordings have left what a model knows.

`drift` looks at a folder of scores, and `LiveDrift` at recordings while they are written. Both bet with a
`anomalyvae.fleet.Monitor` against the training recordings, and count a recording once.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.fleet import FALSE_ALARMS, MEASURES, Fleet, Monitor, Tally, Watched
from anomalyvae.folders import write_text
from anomalyvae.recordings import Windows
from anomalyvae.scoring.ranking import Floats, Scores, in_order_of_time, indices_of, of_folder
from anomalyvae.untrusted import read_json

_SHOWN = 5  # signals
_KEPT = 20_000  # stretches that are known to be counted: more than a file has that is read again
_DIGEST = 16  # characters that tell one from another
_CHANCE = (
    f"The chance of such an alarm in clean recordings is at most {FALSE_ALARMS:.0%} over all time, if they are "
    "independent of each other."
)


def drift(scores: Scores) -> pd.DataFrame:
    """Whether recordings have left what the model knows, one after the other in the order of their time.

    The order is that of ``start``, or of names if a recording has none. Training recordings are left out.

    Returns
    -------
    DataFrame
        ``recording``, ``start``, ``counted`` (False for recordings that are too short: `Fleet.fewest`), ``evidence``
        (see `anomalyvae.fleet.Watched`), ``alarm`` (whether the evidence has been above `Monitor.alarm_at`, then or
        earlier), ``most`` (the measure or signal with the most evidence), and ``evidence.NAME`` for each of them alone.
        ``attrs["fewest"]``: how many recordings an alarm takes at least (`Monitor.fewest`).

    Raises
    ------
    ValueError
        If the model does not know other recordings.
    """
    fleet = scores.fleet
    if fleet is None:
        raise ValueError(f"{scores.no_fleet} Without them, nothing can be said about drift.")
    known = scores.recordings
    known = in_order_of_time(known[[index is None for index in indices_of(known, fleet)]])
    counted = known["windows"] >= fleet.fewest
    monitor, said = Monitor(fleet), list[Watched]()
    step = monitor.now
    for figures, windows, counts in zip(known["figures"], known["windows"], counted, strict=True):
        step = monitor.add(fleet.fitting(figures, windows)) if counts else step
        said.append(step)
    evidence = np.array([step.evidence for step in said])
    found = pd.DataFrame(
        {
            "recording": known["recording"],
            "start": known["start"],
            "counted": counted.astype(bool),
            "evidence": evidence,
            "alarm": np.logical_or.accumulate(evidence >= Monitor.alarm_at) if len(evidence) else evidence > 0,
            "most": [next(iter(step.by)) for step in said],
            **{f"evidence.{name}": [step.by[name] for step in said] for name in monitor.names},
        }
    )
    found.attrs["fewest"] = Monitor.fewest(fleet)
    return found


def drift_in_words(found: pd.DataFrame) -> str:
    """Whether to retrain, and why: in words on all new recordings together."""
    if not len(found):
        return "No recording is new to the model, so nothing can be said about drift."
    short = int((~found["counted"]).sum())
    counted = found[found["counted"]].reset_index(drop=True)
    left_out = f" {_recordings(short)} too short to count." if short else ""
    if not len(counted):
        return f"Nothing can be said about drift.{left_out}"
    if not counted["alarm"].any():
        return _no_drift(len(counted), float(counted["evidence"].max()), found.attrs["fewest"]) + left_out
    at = int(counted["alarm"].to_numpy().argmax())
    row = counted.iloc[at]
    left = _left(row["recording"], row["start"], f"number {at + 1} of {len(counted)}", row["most"])
    return f"{left} {_CHANCE}{left_out}"


def signals_in_words(found: pd.DataFrame) -> str:
    """One sentence: the signals with the most evidence, each for itself; "" if there is none."""
    highest = {name: most for name, most in _highest(found).items() if name not in MEASURES}
    if not highest or not found["counted"].any():
        return ""
    most = sorted(highest, key=lambda name: -highest[name])[:_SHOWN]
    listed = ", ".join(f"{name} {max(highest[name], 0.0):.1f}" for name in most)
    return f"Evidence of each signal alone: {listed} (an alarm takes {Monitor.alarm_at:.1f})."


def drift_of(folder: Path, summary: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished folder of scores says about drift; None if its model cannot tell, or no recording is new to it.

    It has the number of new ``recordings``, the largest ``evidence``, that of each measure and signal alone (``by``),
    whether there was an ``alarm``, and ``said``.
    """
    if summary.get("fleet") is None or not summary["rows"]:
        return None
    return summary_of(drift(of_folder(folder, summary, Fleet.from_dict(summary["fleet"]))))


def summary_of(found: pd.DataFrame) -> dict[str, Any] | None:
    """What `drift` found as plain values (see `drift_of`); None if there is no recording."""
    if not len(found):
        return None
    return {
        "recordings": int(found["counted"].sum()),
        "evidence": round(float(found["evidence"].max()), 6),
        "by": {name: round(most, 6) for name, most in _highest(found).items()},
        "alarm": bool(found["alarm"].any()),
        "said": drift_in_words(found),
    }


def _highest(found: pd.DataFrame) -> dict[str, float]:
    """The largest evidence of each measure and signal alone."""
    names = [str(name) for name in found if str(name).startswith("evidence.")]
    return {name.removeprefix("evidence."): float(found[name].max()) for name in names}


def _recordings(count: int) -> str:
    return "1 new recording is" if count == 1 else f"{count:,} new recordings are"


def _no_drift(count: int, evidence: float, fewest: int) -> str:
    if count < fewest:
        return f"Nothing can be said about drift yet: {_recordings(count)} too few, an alarm takes at least {fewest:,}."
    taken = f"evidence {max(evidence, 0.0):.1f}, an alarm takes {Monitor.alarm_at:.1f}"
    return f"No drift: {_recordings(count)} within what the model knows ({taken})."


def _left(recording: str, start: Any, number: str, most: str) -> str:
    when = "" if start is None or pd.isna(start) else f" ({start:%Y-%m-%d %H:%M} UTC)"
    what = {"brief": "short events", "lasting": "the mean score"}.get(most, f"signal {most}")
    return (
        f"Retrain: with recording {recording}{when}, {number} new ones, the data have left what the model knows, most "
        f"of all by {what}."
    )


# --- while recordings are written -----------------------------------------------------------------------


class LiveDrift:
    """Drift of recordings while they are written, with the same bound on false alarms over all time.

    A recording counts when it ends. One that goes on counts anew whenever it has as many windows as the longest
    training recording, since more windows have higher peaks. What is shorter than half of the shortest one does not
    count.

    Parameters
    ----------
    fleet : Fleet
        Of the model.
    model_id : str
    state : path, optional
        A file that keeps what was counted, so that a restart goes on from it: the same windows, read again, do not
        count again. Several processes may share it.
    notify : callable
        Called with a sentence when the recordings have left what the model knows.

    Raises
    ------
    ValueError
        If the file is damaged, or of another model.
    """

    def __init__(
        self, fleet: Fleet, model_id: str, state: Path | None = None, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        self._fleet, self._model_id, self._path, self._notify = fleet, model_id, state, notify
        self._monitor, self._counted, self._alarm = Monitor(fleet), dict[str, None](), ""
        self._fewest = Monitor.fewest(fleet)
        self._name: str | None = None
        self._start: pd.Timestamp | None = None
        self._tally, self._whole = Tally(len(fleet.signals)), True  # of a stretch; whether its recording began with it
        with self._shared():
            pass
        if self._alarm:
            notify(self._alarm)

    @property
    def said(self) -> str:
        """One sentence on all recordings so far, those before a restart included; "" if none has counted."""
        if self._alarm or not self._monitor.seen:
            return self._alarm
        return _no_drift(self._monitor.seen, self._monitor.highest, self._fewest)

    def add(self, windows: Windows, scores: Floats) -> None:
        """Take windows of one recording: their scores ``(n, 1 + signals)``, that of all signals first."""
        if not len(windows):
            return
        name = str(windows.spans["recording"].iloc[0])
        if name != self._name:
            self.end()
            self._name, self._start = name, windows.starts.get(name)
            self._digest = hashlib.sha256(str(self._start).encode())
        start_s, rows, taken = windows.spans["start_s"].to_numpy(), windows.rows.to_numpy(), 0
        for i in range(len(rows)):
            self._digest.update(start_s[i : i + 1].tobytes() + rows[i].tobytes())
            known = self._digest.hexdigest()[:_DIGEST] in self._counted  # until here it was read before
            if known or self._tally.windows + i + 1 - taken == self._fleet.windows.max():
                self._take(scores[taken : i + 1], start_s[taken : i + 1])
                taken = i + 1
                if known:
                    self._begin()
                else:
                    self._count()
        self._take(scores[taken:], start_s[taken:])

    def end(self) -> None:
        """The current recording has ended."""
        if self._tally.windows >= self._fleet.fewest:
            self._count()
        self._begin()
        self._name, self._whole = None, True

    def _take(self, scores: Floats, start_s: Floats) -> None:
        self._tally.add(scores, np.zeros(len(scores)), start_s)

    def _begin(self) -> None:
        """Begin a stretch of a recording."""
        self._tally, self._whole = Tally(len(self._fleet.signals)), False

    def _count(self) -> None:
        """Bet on a stretch that has ended."""
        name, tally, digest = str(self._name), self._tally, self._digest.hexdigest()[:_DIGEST]
        whole = self._whole
        learned = whole and self._fleet.index_of(name, tally.windows, tally.figures) is not None
        self._begin()
        if learned:
            return
        with self._shared():
            if digest in self._counted:  # by another process
                return
            now = self._monitor.add(self._fleet.fitting(tally.figures, tally.windows))
            self._counted = dict.fromkeys([*self._counted, digest][-_KEPT:])
            if now.evidence < Monitor.alarm_at or self._alarm:
                return
            left = _left(name, self._start, f"number {now.recordings} of the", next(iter(now.by)))
            self._alarm = f"{left} {_CHANCE}"
            if not whole:
                longest = f"Each {self._fleet.windows.max():,} windows of a long recording count as one"
                self._alarm += f" {longest}, so the alarm may be false if a state lasts."
        self._notify(self._alarm)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """Read the state, and write what has changed in the block; other processes wait."""
        if self._path is None:
            yield
            return
        import fcntl

        with self._path.with_name(f".{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._read(self._path)
            yield
            after = self._to_dict()
            if after != before and self._counted:
                write_text(self._path, json.dumps(after, allow_nan=False) + "\n")

    def _to_dict(self) -> dict[str, Any]:
        return {
            "model_id": self._model_id,
            "monitor": self._monitor.to_dict(),
            "counted": list(self._counted),
            "alarm": self._alarm,
        }

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Take what the file holds; None if there is none yet."""
        if not path.exists():
            return None
        try:
            plain = dict(read_json(path.read_bytes()))
            texts = [plain["model_id"], plain["alarm"], *plain["counted"]]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("text that is none")
            if plain["model_id"] == self._model_id:
                self._monitor = Monitor.from_dict(self._fleet, plain["monitor"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no state of drift, or damaged ({error}). Name another file (--drift), or remove it "
                "to begin anew."
            ) from error
        if plain["model_id"] != self._model_id:
            raise ValueError(
                f"{path} has the drift of model {plain['model_id']}, expected that of {self._model_id}. Name "
                "another file (--drift) for each model, or remove it to begin anew."
            )
        self._counted = dict.fromkeys(digest[:_DIGEST] for digest in plain["counted"])
        self._alarm = plain["alarm"]
        return plain
