"""Simulate the review loop (score, flag, review, retrain, promote) on recordings whose events are known.

    python pipelines/benchmarks/loop_simulation.py pipelines/retrain.toml

The first champion learns some recordings without their events. In each round it scores another recording and flags
events. The known events take the place of a reviewer: a flag near one is a *fault*, any other is *new normal*. A
challenger learns from these verdicts, and the gate judges it on held-out recordings. A control learns from poisoned
verdicts, by which every flag is new normal; the gate should refuse it.
"""

import argparse
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from anomalyvae import metrics
from anomalyvae.bundle.manifest import begin_manifest
from anomalyvae.cli.console import steps_shown
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.evaluate import Job, charts, read_job
from anomalyvae.evaluate.job import Output, Progress, find_recordings, options_of, refuse_foreign
from anomalyvae.events import touches
from anomalyvae.folders import replacing
from anomalyvae.recordings import Windows, read_windows
from anomalyvae.review import Queue, flag_folder, gate, promote, retrain
from anomalyvae.scoring import Scorer, score_folder
from anomalyvae.train import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESULTS = ("champion", "champion-former", "queue.db", "round*")
_VERDICTS = ("as reviewed", "poisoned")


@dataclass(frozen=True)
class Simulation:
    """The section [simulation] of a job: the part of each recording.

    Parameters
    ----------
    learn, meet, holdout : tuple of str
        Recordings that the first champion learns, those that are scored, one a round, and those that the gate uses.
    budget : int
        Events to review in a round.
    """

    learn: tuple[str, ...]
    meet: tuple[str, ...]
    holdout: tuple[str, ...]
    budget: int = 60


def simulate_loop(job: Job, progress: Progress = lambda done, steps, what: None) -> pd.DataFrame:
    """Simulate the loop of a job that has a section [simulation], and write the result to the output folder.

    The folder holds ``rounds.csv`` (the returned table), ``rounds.svg`` (a picture of it), ``champion/``, ``queue.db``
    and, for each round, the scores and both challengers. It is replaced as a whole or not at all.

    Parameters
    ----------
    job : Job
    progress : callable, optional
        Called with the steps done, the steps in all, and what has just been done.

    Returns
    -------
    DataFrame
        A row per model: the first champion as round 0, then each round's challengers. ``new_normal`` and ``fault``
        count the verdicts so far; ``event_recall`` and ``false_alarms_per_hour`` are those of its own threshold on the
        held-out recordings, ``recall_at_rate`` is the recall at the alarm rate of [evaluation]; ``promoted``, and
        ``reason``, the first that the gate gives.

    Raises
    ------
    ValueError
        If [simulation] names an unknown recording, or gives one recording two parts.
    FileExistsError
        If the output folder holds files other than an earlier simulation.
    """
    folder = Path(job.output.folder)
    refuse_foreign(folder, _RESULTS)
    paths, events = find_recordings(job.data)
    learn, meet, held = _parts(job, paths)
    steps = 1 + len(_VERDICTS) * len(meet)
    with replacing(folder) as out:
        champion = out / "champion"
        _begin(job, learn, _events_of(learn, events), champion)
        windows = read_windows(held, job.windows, **options_of(job.data))
        holdout = begin_manifest(held, windows.spans, _events_of(held, events), job.data.tolerance_s)
        rows = [{"round": 0, "model": "first", **_figures(job, champion, windows, events), "promoted": True}]
        progress(1, steps, f"learned {', '.join(path.stem for path in learn)}")
        with Queue(out / "queue.db") as queue:
            for number, path in enumerate(meet, start=1):
                if not _review(job, queue, champion, path, out / f"round{number}", events):
                    continue  # without a verdict, there is nothing to learn
                reviewed = queue.events()
                for variant in reversed(_VERDICTS):  # the one that may be promoted comes last
                    row = _challenge(job, out / f"round{number}", champion, reviewed, variant, holdout)
                    row |= _figures(job, out / f"round{number}" / variant.replace(" ", "-"), windows, events)
                    rows.append({"round": number, "model": variant, **row})
                    progress(
                        len(rows),
                        steps,
                        f"met {path.stem}, {variant}: {'promoted' if row['promoted'] else 'refused'}",
                    )
        table = pd.DataFrame(rows)
        table.to_csv(out / "rounds.csv", index=False)
        _draw(table, out / "rounds.svg", job.evaluation.alarms_per_hour)
    return table


def _parts(job: Job, paths: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    simulation: Simulation = job.extra["simulation"]
    place = {path.stem: path for path in paths}
    parts = []
    for name in ("learn", "meet", "holdout"):
        wanted = getattr(simulation, name)
        unknown = [recording for recording in wanted if recording not in place]
        if unknown or not wanted:
            raise ValueError(
                f"Got {name} = {list(wanted)} in [simulation], expected recordings of [data]: {', '.join(place)}. "
                "Correct it."
            )
        parts.append([place[recording] for recording in wanted])
    together = [path for part in (parts[0], set(parts[1]), parts[2]) for path in part]  # a recording may be met twice
    if len(set(together)) < len(together):
        raise ValueError("A recording has two parts in [simulation], expected one of learn, meet, holdout. Correct it.")
    return parts[0], parts[1], parts[2]


def _events_of(paths: list[Path], events: pd.DataFrame) -> pd.DataFrame:
    return events[events["recording"].isin([path.stem for path in paths])]


def _begin(job: Job, learn: list[Path], events: pd.DataFrame, folder: Path) -> None:
    """Fit the first champion to the normal windows."""
    tolerance_s, options = job.data.tolerance_s, options_of(job.data)
    detector = VAEOutlierDetector(**job.detector)
    train(learn, job.windows, detector, folder, events=events, tolerance_s=tolerance_s, **options)


def _review(job: Job, queue: Queue, champion: Path, path: Path, out: Path, events: pd.DataFrame) -> int:
    """Score a recording, flag its most anomalous events, and give verdicts by the known events; returns how many."""
    simulation: Simulation = job.extra["simulation"]
    score_folder(champion, path, out / "scores", **options_of(job.data))
    budget = simulation.budget
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*known events that other models have flagged")
        flag_folder(out / "scores", champion, queue, budget, per_recording=budget, **options_of(job.data))
    waiting = queue.events("open")
    near = touches(waiting, events, job.data.tolerance_s)
    for event, fault in zip(waiting["event_id"], near, strict=True):
        queue.give(event, "fault" if fault else "new_normal", "known events")
    return len(waiting)


def _challenge(
    job: Job, out: Path, champion: Path, reviewed: pd.DataFrame, variant: str, holdout: pd.DataFrame
) -> dict[str, Any]:
    """Retrain on verdicts and ask the gate; only the challenger with honest verdicts can be promoted."""
    verdicts = reviewed if variant == "as reviewed" else reviewed.assign(verdict="new_normal")
    challenger = out / variant.replace(" ", "-")
    retrain(verdicts, champion, challenger, **options_of(job.data))
    rate = job.evaluation.alarms_per_hour
    decision = gate.judge(challenger, champion, verdicts, holdout, alarms_per_hour=rate, **options_of(job.data))
    promote(challenger, champion, decision, holdout, dry_run=variant != "as reviewed")
    said = {name: int((verdicts["verdict"] == name).sum()) for name in ("new_normal", "fault")}
    return {**said, "promoted": decision.promoted, "reason": decision.reasons[0]}


def _figures(job: Job, folder: Path, windows: Windows, events: pd.DataFrame) -> dict[str, float]:
    """Recall and false alarms of a model on the held-out recordings."""
    found = Scorer(folder).score(windows.rows)
    known = (windows.spans, events, job.data.tolerance_s)
    threshold = metrics.alarm_threshold(found["anomaly_score"], *known[:2], job.evaluation.alarms_per_hour, known[2])
    return {
        "event_recall": metrics.found_share(found["is_outlier"], *known),
        "false_alarms_per_hour": metrics.false_alarms_per_hour(found["is_outlier"], *known),
        "recall_at_rate": metrics.found_share(found["anomaly_score"] >= threshold, *known),
    }


def _draw(table: pd.DataFrame, path: Path, rate: float) -> None:
    """Draw the figures by round, where matplotlib is installed."""
    titles = {
        "event_recall": "Event recall, own threshold",
        "false_alarms_per_hour": "False alarms per hour, own threshold",
        "recall_at_rate": f"Event recall at {rate:g} false alarms/h",
    }

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
            for variant, colour in zip(_VERDICTS, (charts.MODEL, charts.ANOMALY), strict=True):
                line = table[table["model"].isin(["first", variant])]
                axes.plot(line["round"], line[name], color=colour, marker="o", markerfacecolor="white", label=variant)
                kept = line[line["promoted"].astype(bool)]
                axes.plot(kept["round"], kept[name], color=colour, marker="o", linestyle="")
            axes.set_title(title)
            axes.set_xticks(sorted(table["round"].unique()))
            axes.set_ylim(bottom=0)
            axes.set_xlabel("round")
        figure.axes[0].legend(frameon=False, title="filled: promoted")

    with suppress(ModuleNotFoundError):
        path.write_bytes(charts.svg_of(draw, 9.6, 3.2))


def job_of_command_line(description: str | None, section: str, kind: type[Any]) -> Job:
    """The job that the command line names; it has one more section, ``kind``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", metavar="JOB.toml", help=f"a job file with a section [{section}]")
    parser.add_argument("--out", metavar="FOLDER", help="write here instead of to the folder of [output]")
    options = parser.parse_args()
    job = read_job(options.job, {section: kind})
    return job if options.out is None else replace(job, output=Output(options.out))


def main() -> None:
    job = job_of_command_line(__doc__, "simulation", Simulation)
    with steps_shown(False) as progress:
        rounds = simulate_loop(job, progress).drop(columns="reason")
    print(rounds.to_string(index=False, float_format="{:.3f}".format, na_rep="–"))
    print(f"\nResult     {job.output.folder}")


if __name__ == "__main__":
    main()
