"""Challengers that learned from false verdicts: how many the gate refuses, and how many with true ones it promotes.

    python pipelines/benchmarks/lies.py FOLDER               # or: make bench-lies DATA=FOLDER
    python pipelines/benchmarks/lies.py FOLDER --towns 0     # the tables alone, a few minutes

A reviewer who lies calls faults new normal: none (true), a tenth of those reviewed, three tenths, all, or all of one
kind (brakes, swerves).

Towns: simulated drives, as in notebooks/04_review_and_retrain.ipynb. A champion knows good roads and meets a town full
of potholes, which are normal there; hard braking and swerves are faults. The whole gate judges, without refits.

Tables: those of tabular.py with at most 60 columns and at least 20 outliers. A model learns a third of the normal rows;
of another third and half of the outliers, its 60 highest flags are reviewed; the flags of the rest are the hold-out.
Only the test of the verdicts judges (`anomalyvae.review.doubts`): rows are no recordings. A table without five outliers
and five normal rows among these flags says nothing, and is not counted.

Each line: how many were refused (towns: promoted), of how many, and the mean recall of held-out faults around the alarm
rate.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from labels import Mask
from tabular import Source, Table, by_training_rows, read_table, sources
from tabular_report import HALVES, half_of

from anomalyvae import VAEOutlierDetector, WindowRecipe, score_folder
from anomalyvae.bundle.manifest import manifest_of
from anomalyvae.datasets import load_recipe
from anomalyvae.events import touches
from anomalyvae.review import Queue, flag_folder, gate, retrain
from anomalyvae.review.doubts import doubts_about
from anomalyvae.review.reasons import excess_shares
from anomalyvae.train import train

SHARES = {"true": 0.0, "a tenth": 0.1, "three tenths": 0.3, "all": 1.0}
KINDS = ("hard_brake", "swerve")
FOLDERS = ("good", "town", "held")
LEARNED, REVIEWED, HELD, FOLDS = 1200, 60, 600, 5
RECIPE = WindowRecipe(
    ("acc_x_g", "acc_y_g", "acc_z_g", "gyro_x_radps", "gyro_y_radps", "gyro_z_radps"),
    rate_hz=10, length_s=2, stride_s=1, max_gap_s=1, where="speed_mps > 2",
)  # fmt: skip


def lies(fault: Mask, kind: Table, seed: int) -> Iterator[tuple[str, Mask]]:
    """Which faults are called new normal, under each name."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(fault))
    for name, share in SHARES.items():
        said = np.zeros(len(fault), dtype=bool)
        said[order[: round(share * len(order)) or int(share > 0)]] = True
        yield name, said
    for name in KINDS:
        if (kind == name).any():
            yield name, fault & (kind == name)


def in_town(seed: int, work: Path) -> Iterator[dict[str, Any]]:
    """A row per kind of lie in one town."""
    simulate = load_recipe("simulated").simulate_drive

    def drives(folder: str, count: int, **events: int) -> tuple[list[Path], pd.DataFrame]:
        (work / folder).mkdir(parents=True)
        paths, marks = [], []
        for number in range(count):
            signals, happened = simulate(seed=(seed, FOLDERS.index(folder), number), duration_s=300, events=events)
            paths.append(work / folder / f"{folder}{number}.parquet")
            signals.to_parquet(paths[-1])
            marks.append(happened.assign(recording=paths[-1].stem))
        return paths, pd.concat(marks)

    usual = {"pothole": 14, "hard_brake": 3, "swerve": 3}
    (good, _), (_, met), (held, happened) = drives("good", 4), drives("town", 3, **usual), drives("held", 6, **usual)
    marks = pd.concat([met, happened]).query("kind != 'pothole'").reset_index(drop=True)
    champion = work / "champion"
    train(good, RECIPE, VAEOutlierDetector(random_state=0), champion)
    score_folder(champion, work / "town", work / "scores")
    with Queue(work / "queue.db") as queue:
        flag_folder(work / "scores", champion, queue, budget=REVIEWED, per_recording=20)
        events = queue.events()
    fault, kind = touches(events, marks, 0.5), np.full(len(events), "", dtype=object)
    for name in KINDS:
        kind[touches(events, marks[marks["kind"] == name], 0.5)] = name
    holdout = manifest_of(held, RECIPE, marks, tolerance_s=0.5)
    for number, (name, said) in enumerate(lies(fault, kind, seed)):
        verdicts = events.assign(verdict=np.where(fault & ~said, "fault", "new_normal"))
        retrain(verdicts, champion, work / f"next{number}")
        decision = gate.judge(work / f"next{number}", champion, verdicts, holdout, alarms_per_hour=30, refits=0)
        recall = decision.figures[0].challenger
        yield {"where": "towns", "lies": name, "refused": not decision.promoted, "recall": recall}


def in_table(source: Source, seed: int) -> Iterator[dict[str, Any]]:
    """A row per share of lies in one table."""
    x, outlier, _ = read_table(source.path)
    if x.shape[1] > 60 or outlier.sum() < 20:
        return
    rng = np.random.default_rng(seed)
    learned, *others = np.array_split(rng.permutation(np.flatnonzero(~outlier))[: 5 * LEARNED], 3)
    found = np.array_split(rng.permutation(np.flatnonzero(outlier))[:HELD], 2)
    learned = learned[:LEARNED]
    x = by_training_rows(x, x[learned])
    model = VAEOutlierDetector(random_state=seed).fit(x[learned])
    usual = np.asarray(model.feature_scores(x[learned])).mean(axis=0)
    reviewed, held = (
        _flagged(model, x, np.concatenate(rows), most)
        for rows, most in zip(zip(others, found, strict=True), (REVIEWED, HELD), strict=True)
    )
    compared = [
        np.column_stack([model.embed(x[rows]), excess_shares(np.asarray(model.feature_scores(x[rows])) - usual)])
        for rows in (reviewed, held)
    ]
    part, fault = (np.arange(len(held)) % FOLDS).astype(str), outlier[reviewed]
    for name, said in lies(fault, np.empty(0), seed):
        doubts = doubts_about(compared[0][~fault | said], compared[1], outlier[held], part, seed)
        if doubts is not None and (name == "true" or said.any()):
            half = half_of(source.collection, source.tables[0])
            yield {"where": f"tables, {half}", "lies": name, "refused": doubts.refused, "recall": np.nan}


def _flagged(model: VAEOutlierDetector, x: Table, rows: Any, most: int) -> Any:
    """The rows that a model flags, the highest first."""
    scores = model.anomaly_score(x[rows])
    order = np.argsort(-scores, kind="stable")
    return rows[order[scores[order] > -model.offset_][:most]]


def main() -> None:
    """Print a line per kind of lie: in towns, and in each half of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that holds the collections, each in a folder of its own")
    parser.add_argument("--collections", nargs="+", default=["adbench", "oddbench"], metavar="NAME")
    parser.add_argument("--half", choices=HALVES, default="whole", help="judge these tables alone")
    parser.add_argument("--towns", type=int, default=8, metavar="N", help="how many towns are simulated")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in range(options.towns):
        with tempfile.TemporaryDirectory() as work:
            rows += in_town(seed, Path(work))
    for source in sources(options.folder, options.collections, options.half):
        rows += in_table(source, 0)
    groups = pd.DataFrame(rows).groupby(["where", "lies"], sort=False)
    table = groups.agg(refused=("refused", "sum"), of=("refused", "size"), recall=("recall", "mean"))
    print(table.to_string(float_format="{:.2f}".format, na_rep=""))


if __name__ == "__main__":
    main()
