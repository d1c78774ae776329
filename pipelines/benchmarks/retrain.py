"""The loop on the pothole drives: score, flag, review, retrain, promote; twice, with the marks in place of a person.

    python pipelines/benchmarks/retrain.py                    # what it made stays in runs/retrain

The first model learns the first drive without its potholes. Each round meets another drive: events that are flagged
are a fault where somebody marked a pothole within half a second, and novel elsewhere. The gate judges each challenger
on the drives that are held out, and beside it one that was told that all flagged events are novel, potholes included.
"""

import argparse
import shutil
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from anomalyvae import VAEOutlierDetector, metrics, score_folder
from anomalyvae.jobs import Job, find_recordings, read_job
from anomalyvae.review import gate
from anomalyvae.review.flagging import flag_folder
from anomalyvae.review.manifest import manifest_of, save_traced, windows_by_role
from anomalyvae.review.promotion import promote
from anomalyvae.review.queue import Queue
from anomalyvae.review.retraining import groups_of, retrain

ROOT = Path(__file__).parents[2]
ORDER = ["trip1", "trip2", "trip3", "trip4", "trip5"]
BUDGET = 60  # events to review in a round


def begin(job: Job, path: Path, events: pd.DataFrame, folder: Path) -> None:
    """Fit the first champion to the normal windows of a drive."""
    manifest = manifest_of([path], job.windows, events, job.data.tolerance_s)
    windows, role = windows_by_role(manifest, job.windows)
    normal = role == "normal"
    model = VAEOutlierDetector(**job.detector).fit(windows.rows[normal], groups=groups_of(windows.spans[normal]))
    save_traced(model, folder, manifest, recipe=job.windows.to_dict(), units=windows.units)


def review(queue: Queue, events: pd.DataFrame, tolerance_s: float) -> None:
    """Give the verdicts that the marks suggest."""
    waiting = queue.events("open")
    for event, fault in zip(waiting["event_id"], metrics.touches(waiting, events, tolerance_s), strict=True):
        queue.give(event, "fault" if fault else "novel", "marks")


def row(number: int, what: str, decision: gate.Decision, verdicts: pd.Series) -> dict[str, Any]:
    """What a round came to: shares of champion and challenger, as the gate saw them."""
    shown = {
        figure.name: "–" if figure.champion is None else f"{figure.champion:.2f} -> {figure.challenger:.2f}"
        for figure in decision.figures
    }
    said = {name: int((verdicts == name).sum()) for name in ("novel", "fault")}
    return {"round": number, "challenger": what, **said, **shown, "promoted": decision.promoted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "retrain", help="replaced as a whole")
    parser.add_argument(
        "--drives", nargs=5, default=ORDER, metavar="DRIVE", help="learned, met, met, held out, held out"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    job = read_job(ROOT / "pipelines" / "potholes.toml")
    paths, events = find_recordings(job.data)
    place = {path.stem: path for path in paths}
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    champion = out / "champion"
    first, *met = options.drives[:3]
    begin(job, place[first], events, champion)
    held = manifest_of([place[name] for name in options.drives[3:]], job.windows, events, job.data.tolerance_s)
    rows = []
    with Queue(out / "queue.db") as queue:
        for number, name in enumerate(met, start=1):
            score_folder(champion, place[name], out / f"scores{number}")
            flag_folder(out / f"scores{number}", champion, queue, BUDGET, per_recording=BUDGET)
            review(queue, events, job.data.tolerance_s)
            reviewed = queue.events()
            told = {"poisoned": reviewed.assign(verdict="novel"), "as reviewed": reviewed}
            for what, verdicts in told.items():
                challenger = out / f"round{number}-{what.replace(' ', '-')}"
                retrain(verdicts, champion, challenger)
                decision = gate.judge(
                    challenger, champion, verdicts, held, alarms_per_hour=job.evaluation.alarms_per_hour
                )
                print(f"Round {number}, {what}\n{decision}\n", flush=True)
                rows.append(row(number, what, decision, verdicts["verdict"]))
                promote(challenger, champion, decision, held, dry_run=what == "poisoned")
    table = pd.DataFrame(rows)
    table.to_csv(out / "rounds.csv", index=False)
    print(table.T.to_string(header=False))


if __name__ == "__main__":
    main()
