"""Inject sensor faults into recordings at known times, and count which are found, and under which name.

    python pipelines/benchmarks/fault_injection.py pipelines/css_drive.toml

A model learns some recordings. The others get the faults and the unusual driving of `faults`, one kind at a time, and
the same driving with another sensor dead. Signals, times and noise come from the seed. The thresholds are those of the
model and of its health profile, which come from normal windows alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from faults import FAULTS, MANOEUVRES, Fault, inject
from loop_simulation import job_of_command_line
from numpy.typing import NDArray

from anomalyvae.bundle import read_card
from anomalyvae.cli.console import steps_shown
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.evaluate.job import Health, Job, Progress, find_recordings, matches, options_of, refuse_foreign
from anomalyvae.events import covered_hours, merge_alarms
from anomalyvae.folders import replacing
from anomalyvae.health import Profile, Sensors
from anomalyvae.health.grades import FLAT, stretches
from anomalyvae.health.measures import cells_of
from anomalyvae.recordings import Log, Windows, read_log
from anomalyvae.train import TrainingSet, train

RIGHT = {  # correct reasons for each kind of fault
    "stuck": {"stuck", FLAT},
    "dropout": {"dropout"},
    "offset": {"drifted", "out of range"},
    "noise": {"noisy"},
    "spikes": {"out of range"},
}
_RESULTS = ("model", "untouched.csv", "faults.csv", "manoeuvres.csv", "injected.csv", "grades.csv")
EVERY_S, _FAULT_S, _MANOEUVRE_S = 60.0, 30.0, 4.0


@dataclass(frozen=True)
class Faults:
    """The section [faults] of a job: which recordings get faults, and how.

    Parameters
    ----------
    holdout : str or tuple of str
        Patterns of the recordings that get faults; the model learns the others.
    moving : str or tuple of str
        Patterns of the signals that harsh driving and swerving change.
    rounds : int
        How many times each kind is injected into each recording, at different times.
    size : float
        Size of offsets, noise, spikes and harsh driving; see `faults.Fault`.
    seed : int
    """

    holdout: str | tuple[str, ...]
    moving: str | tuple[str, ...]
    rounds: int = 3
    size: float = 1.0
    seed: int = 0


class Injected(NamedTuple):
    """The result.

    Attributes
    ----------
    untouched : DataFrame
        Per unchanged held-out recording: ``hours``; per hour, stretches of a signal with a ``dropout`` (a fact), those
        that are ``suspect`` or ``bad`` for other reasons, and ``novel`` alarms.
    faults : DataFrame
        Per kind: the number injected (``faults``); the shares in which the signal was not good (``found``), was bad
        (``bad``), and had a correct reason most of the time (``right``); the number of other signals that turned bad,
        per fault (``others``); the share that also raised a ``novel`` flag.
    manoeuvres : DataFrame
        Per kind: the number, and the share that raises a flag that no sensor explains (``novel`` or ``unclear``),
        ``alone`` and ``with a dead sensor``.
    """

    untouched: pd.DataFrame
    faults: pd.DataFrame
    manoeuvres: pd.DataFrame


@dataclass(frozen=True)
class _Graded:
    """A recording with its grades and causes."""

    windows: Windows
    grades: pd.DataFrame
    causes: pd.DataFrame

    def about(self, start_s: float, end_s: float) -> NDArray[np.bool_]:
        """Windows that touch an interval."""
        return about(self.windows, start_s, end_s)

    def of(self, column: str) -> NDArray[Any]:
        """A column of the grades, shape ``(n, signals)``."""
        return self.grades[column].to_numpy().reshape(len(self.windows), -1)


def inject_faults(job: Job, progress: Progress = lambda done, steps, what: None) -> Injected:
    """Inject the faults of a job that has a section [faults], and write the result to the output folder.

    The folder holds ``model/`` (a bundle), the returned tables as CSV, ``injected.csv`` (a row per fault with its
    outcome) and ``grades.csv`` (each stretch of an unchanged recording in which a signal is not good). It is replaced
    as a whole or not at all.

    Parameters
    ----------
    job : Job
    progress : callable, optional
        Called with the steps done, the steps in all, and what has just been done.

    Returns
    -------
    Injected

    Raises
    ------
    ValueError
        If a pattern of [faults] matches no recording or signal, or no recording is left to learn.
    FileExistsError
        If the output folder holds files other than an earlier result.
    """
    folder = Path(job.output.folder)
    refuse_foreign(folder, _RESULTS)
    paths, _ = find_recordings(job.data)
    learn, held, moving = _parts(job, paths)
    with replacing(folder) as out:
        sensors = _begin(job, learn, out / "model")
        progress(1, 1 + len(held), f"learned {', '.join(path.stem for path in learn)}")
        untouched, grades, injected = [], [], []
        for number, path in enumerate(held):
            log = read_log(path, signals=job.windows.needed, **options_of(job.data))
            before = _graded(sensors, log)
            untouched.append(_unchanged(log.recording, before))
            grades.append(stretches(before.grades))
            injected += list(_inject_each(job, sensors, log, before, moving, number))
            progress(2 + number, 1 + len(held), f"{path.stem}: {len(injected)} faults so far")
        everything = pd.DataFrame(injected)
        by_fault = _by_kind(everything, FAULTS, "faults", ["found", "bad", "right", "others", "novel"])
        by_manoeuvre = _by_kind(everything, sorted(MANOEUVRES), "manoeuvres", ["alone", "with a dead sensor"])
        result = Injected(pd.DataFrame(untouched), by_fault, by_manoeuvre)
        for name, table in result._asdict().items():
            table.to_csv(out / f"{name}.csv", index=False)
        everything.to_csv(out / "injected.csv", index=False)
        pd.concat(grades, ignore_index=True).to_csv(out / "grades.csv", index=False)
    return result


def _parts(job: Job, paths: list[Path]) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """Recordings to learn, recordings that get faults, and signals that harsh driving changes."""
    settings: Faults = job.extra["faults"]
    held = [path for path in paths if matches(path.stem, settings.holdout)]
    learn = [path for path in paths if path not in held]
    moving = tuple(name for name in job.windows.signals if matches(name, settings.moving))
    if not held or not learn or not moving:
        raise ValueError(
            f"Got holdout = {settings.holdout!r} and moving = {settings.moving!r} in [faults], expected patterns "
            f"of some of the recordings {', '.join(path.stem for path in paths)} and of signals. Correct them."
        )
    return learn, held, moving


def _begin(job: Job, learn: list[Path], folder: Path) -> Sensors:
    """Fit the model and learn what is healthy, without the recordings that get faults."""
    health = job.health or Health()
    data = TrainingSet.of_files(learn, job.windows, ranges=health.range, **options_of(job.data))
    model = train(data, job.windows, VAEOutlierDetector(**job.detector), folder, drift=health.drift)
    return Sensors(model, job.windows, Profile.from_dict(read_card(folder)["health"]))


def _graded(sensors: Sensors, log: Log) -> _Graded:
    windows = sensors.windows(log)
    grades = sensors.grade(windows)
    return _Graded(windows, grades, sensors.causes(windows, grades))


def _unchanged(recording: str, graded: _Graded) -> dict[str, Any]:
    hours = covered_hours(graded.windows.spans)
    found = stretches(graded.grades)
    lost = found["reason"] == "dropout"
    counts = found.loc[~lost, "grade"].value_counts()
    novel = merge_alarms(graded.windows.spans, graded.causes["cause"] == "novel")
    per_hour = {name: int(counts.get(name, 0)) / hours for name in ("suspect", "bad")}
    alarms = {"dropout": int(lost.sum()) / hours, **per_hour, "novel": len(novel) / hours}
    return {"recording": recording, "hours": hours, **alarms}


# --- injection and outcome ------------------------------------------------------------------------------


def _inject_each(
    job: Job, sensors: Sensors, log: Log, before: _Graded, moving: tuple[str, ...], number: int
) -> Iterator[dict[str, Any]]:
    """Inject each kind wherever there is room, and give the outcome of each."""
    settings: Faults = job.extra["faults"]
    for turn in range(settings.rounds):
        for kind, name in enumerate(FAULTS):
            rng = np.random.default_rng((settings.seed, number, turn, kind))
            faults = list(
                sample_faults(rng, before.windows, before.of("grade"), name, job.windows.signals, settings.size)
            )
            after = _graded(sensors, inject(log, faults, seed=turn))
            yield from (_outcome(fault, before, after, sensors.profile.signals) for fault in faults)
        for kind, name in enumerate(MANOEUVRES):
            rng = np.random.default_rng((settings.seed, number, turn, 100 + kind))
            kind_of_dead = ("stuck", "dropout")[turn % 2]
            dead = list(sample_faults(rng, before.windows, before.of("grade"), kind_of_dead, job.windows.signals, 1.0))
            driven = [_manoeuvre(name, fault, job.windows.signals, moving, settings.size) for fault in dead]
            alone = _graded(sensors, inject(log, driven, seed=turn))
            together = _graded(sensors, inject(log, [*driven, *dead], seed=turn))
            for fault, fact in zip(dead, driven, strict=True):
                inside = before.about(fact.start_s, fact.end_s)
                if inside.any() and not _flagged(before, inside):
                    row = {"recording": log.recording, "kind": name, "start_s": fact.start_s, "end_s": fact.end_s}
                    row |= {"dead": fault.signals[0], "alone": _flagged(alone, inside)}
                    yield row | {"with a dead sensor": _flagged(together, together.about(fact.start_s, fact.end_s))}


def sample_faults(
    rng: np.random.Generator,
    windows: Windows,
    grades: NDArray[Any],
    kind: str,
    signals: tuple[str, ...],
    size: float,
) -> Iterator[Fault]:
    """One fault per minute, in a random signal, where that signal is good and varies.

    ``grades``, shape ``(n, signals)``, are those of the windows of one recording.
    """
    spans, good, cells = windows.spans, grades == "good", cells_of(windows)
    for begin in np.arange(spans["start_s"].min() + 5, spans["end_s"].max() - EVERY_S, EVERY_S):
        start_s = float(begin + rng.uniform(0, EVERY_S - _FAULT_S - 5))
        signal = int(rng.integers(len(signals)))
        inside = about(windows, start_s, start_s + _FAULT_S)
        if inside.any() and good[inside, signal].all() and np.ptp(cells[inside, signal]) > 0:
            yield Fault(kind, start_s, start_s + _FAULT_S, (signals[signal],), size)


def about(windows: Windows, start_s: float, end_s: float) -> NDArray[np.bool_]:
    """Windows that touch an interval."""
    return ((windows.spans["end_s"] > start_s) & (windows.spans["start_s"] < end_s)).to_numpy()


def _manoeuvre(kind: str, around: Fault, signals: tuple[str, ...], moving: tuple[str, ...], size: float) -> Fault:
    start_s = (around.start_s + around.end_s - _MANOEUVRE_S) / 2
    signals_moved = signals if kind == "hurried" else moving
    return Fault(kind, start_s, start_s + _MANOEUVRE_S, signals_moved, size)


def _flagged(graded: _Graded, inside: NDArray[np.bool_], *causes: str) -> bool:
    """Whether a window raises a flag that no sensor explains."""
    return bool(graded.causes["cause"][inside].isin(causes or ("novel", "unclear")).any())


def _outcome(fault: Fault, before: _Graded, after: _Graded, signals: tuple[str, ...]) -> dict[str, Any]:
    """How the signal of a fault is graded, and what else changed."""
    inside, signal = after.about(fault.start_s, fault.end_s), signals.index(fault.signals[0])
    grades, reasons = after.of("grade")[inside], after.of("reason")[inside, signal]
    named = pd.Series(reasons[reasons != ""]).mode()
    reason = str(named.iloc[0]) if len(named) else ""
    others = (grades == "bad").any(axis=0)
    others &= ~(before.of("grade")[before.about(fault.start_s, fault.end_s)] == "bad").any(axis=0)
    others[signal] = False
    return {
        "recording": after.windows.spans["recording"].iloc[0],
        "kind": fault.kind,
        "start_s": fault.start_s,
        "end_s": fault.end_s,
        "signal": fault.signals[0],
        "found": bool(len(named)),
        "bad": bool((grades[:, signal] == "bad").any()),
        "reason": reason,
        "right": reason in RIGHT[fault.kind],
        "others": int(others.sum()),
        "novel": _flagged(after, inside, "novel")
        and not _flagged(before, before.about(fault.start_s, fault.end_s), "novel"),
    }


def _by_kind(injected: pd.DataFrame, kinds: Sequence[str], count: str, outcomes: list[str]) -> pd.DataFrame:
    """A row per kind: how many there are, and the mean of each outcome."""
    own = injected[injected["kind"].isin(kinds)]
    table = own[["kind", *outcomes]].astype(dict.fromkeys(outcomes, float)).groupby("kind").mean()
    table.insert(0, count, own.groupby("kind").size())
    return table.reindex([kind for kind in kinds if kind in table.index]).reset_index()


def in_words(injected: Injected) -> str:
    """The result as tables for a terminal."""

    def laid_out(table: pd.DataFrame, **options: Any) -> str:
        return table.to_string(index=False, float_format="{:.2f}".format, na_rep="–", **options)

    return "\n\n".join(
        [
            "Unchanged recordings; stretches and alarms per hour:\n" + laid_out(injected.untouched),
            "Faults of one signal; shares of the faults:\n" + laid_out(injected.faults),
            "Unusual driving; share that raises a flag which no sensor explains:\n" + laid_out(injected.manoeuvres),
        ]
    )


def main() -> None:
    job = job_of_command_line(__doc__, "faults", Faults)
    with steps_shown(False) as progress:
        print(in_words(inject_faults(job, progress)))
    print(f"\nResult     {job.output.folder}")


if __name__ == "__main__":
    main()
