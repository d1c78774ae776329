"""The loop of pipelines/retrain.toml in five orders of the drives: what the gate lets pass, and what it gains.

    python pipelines/benchmarks/retrain.py          # about ten minutes; what it made stays in runs/retrain-orders

In each order, the first model learns one drive, meets two others, and the last two are held out. `anomalyvae.rehearsal`
says what a row of the table means.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from anomalyvae.jobs import Output, read_job
from anomalyvae.rehearsal import rehearse

ROOT = Path(__file__).parents[2]
DRIVES = ("trip1", "trip2", "trip3", "trip4", "trip5")
FIGURES = ["event_recall", "false_alarms_per_hour", "recall_at_rate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "retrain-orders", help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = read_job(ROOT / "pipelines" / "retrain.toml")
    assert job.rehearsal is not None  # noqa: S101
    tables = []
    for shift in range(len(DRIVES)):
        order = DRIVES[shift:] + DRIVES[:shift]
        parts = replace(job.rehearsal, learn=order[:1], meet=order[1:3], holdout=order[3:])
        out = Output(str(options.out / order[0]))
        tables.append(rehearse(replace(job, rehearsal=parts, output=out)).assign(first=order[0]))
        print(tables[-1].drop(columns="reason").to_string(index=False, float_format="{:.3f}".format), flush=True)
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(options.out / "rounds.csv", index=False)
    print("\nMean over the orders")
    print(table.groupby(["round", "model"])[FIGURES].mean().to_string(float_format="{:.3f}".format))
    later = table[table["round"] > 0]
    for told, part in later.groupby("model"):
        print(f"{told}: {int(part['promoted'].sum())} of {len(part)} promoted")


if __name__ == "__main__":
    main()
