"""Simulated review and retraining with the recordings in every order: what the gate promotes, and what is gained.

    python pipelines/benchmarks/retrain.py                  # a quarter of an hour; results are in runs/retrain-orders
    python pipelines/benchmarks/retrain.py manoeuvres       # only one of the jobs

With pothole drives (pipelines/retrain.toml), the first model learns one drive, then scores two others; the last two are
held out. With manoeuvres (pipelines/manoeuvres.toml), it learns one trip, scores another twice, and the last is held
out. `loop_simulation` explains the rows of the table.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from loop_simulation import Simulation, simulate_loop
from results import ROOT

from anomalyvae.evaluate import read_job
from anomalyvae.evaluate.job import Output

JOBS = {"retrain": ("trip1", "trip2", "trip3", "trip4", "trip5"), "manoeuvres": ("trip17", "trip20", "trip21")}
FIGURES = ["event_recall", "false_alarms_per_hour", "recall_at_rate"]


def in_every_order(name: str, folder: Path) -> pd.DataFrame:
    """Simulate a job once per recording, which the first model learns."""
    job = read_job(ROOT / "pipelines" / f"{name}.toml", {"simulation": Simulation})
    recordings, tables = JOBS[name], []
    for shift in range(len(recordings)):
        order = recordings[shift:] + recordings[:shift]
        meet, held = (order[1:3], order[3:]) if len(order) > 3 else (order[1:2] * 2, order[2:])
        parts = replace(job.extra["simulation"], learn=order[:1], meet=meet, holdout=held)
        out = Output(str(folder / name / order[0]))
        tables.append(simulate_loop(replace(job, extra={"simulation": parts}, output=out)).assign(first=order[0]))
        print(tables[-1].drop(columns="reason").to_string(index=False, float_format="{:.3f}".format), flush=True)
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(folder / f"{name}.csv", index=False)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"some of {', '.join(JOBS)} (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "retrain-orders", help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.jobs or JOBS:
        table = in_every_order(name, options.out)
        print(f"\n{name}: mean over the orders")
        print(table.groupby(["round", "model"])[FIGURES].mean().to_string(float_format="{:.3f}".format))
        later = table[table["round"] > 0]
        for variant, part in later.groupby("model"):
            print(f"{variant}: {int(part['promoted'].sum())} of {len(part)} promoted")


if __name__ == "__main__":
    main()
