"""Tens of hours of driving scored end to end: the speed, and the ranks of drives that are named for an event.

    python pipelines/benchmarks/bulk.py carobd      # 41 hours, 27 signals
    python pipelines/benchmarks/bulk.py kit_obd     # 62 hours, 10 signals; four of 77 drives are named for an event

A model learns every other drive and scores the rest, and a second one the other way round, so that each drive is
scored by a model that never saw it. Windows are ten seconds at one sample per second, one every five seconds, each
signal as level, slope and bend (``coefficients=3``); all other settings are defaults. The time of scoring includes
everything: files are read, resampled to one clock, cut, scored by `anomalyvae.score_folder`, and written.

A long drive has many windows, so one of them is in the top percent of all windows by chance. `of drives` therefore
gives the rank of a drive among all drives, by its most anomalous window.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.datasets import get_dataset
from anomalyvae.evaluate.job import Data, find_recordings
from anomalyvae.recordings import list_signals, read_windows

LEFT_OUT = {  # counters, and signals that most drives lack
    "carobd": {"engine_run_time", "time_since_trouble_codes_cleared", "warm_ups_since_codes_cleared"},
}


class Scored(NamedTuple):
    """Windows of all drives with their scores, the hours that they cover, and seconds of work."""

    windows: pd.DataFrame
    hours: float
    fit_s: float
    score_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["carobd", "kit_obd"])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use only every Nth drive, for a quick check")
    parser.add_argument("--out", type=Path, help="write the scores of all windows to this Parquet file")
    options = parser.parse_args()
    get_dataset(options.name)
    paths, events = find_recordings(Data(name=options.name))
    done = scored(paths[:: options.every], LEFT_OUT.get(options.name, set()))
    print(f"{len(paths[:: options.every])} drives, {done.hours:.1f} h, {len(done.windows):,} windows")
    speed = f"{done.hours / done.score_s:.2f} h of driving a second"
    print(f"two fits {done.fit_s:.1f} s, scoring {done.score_s:.1f} s: {speed}")
    if len(events):
        print(ranks(done.windows, events).to_string(index=False))
    if options.out is not None:
        done.windows.to_parquet(options.out)


def scored(paths: list[Path], left_out: set[str]) -> Scored:
    """Score each half of the drives with a model of the other half."""
    signals = [signal for signal in common_signals(paths) if signal not in left_out]
    recipe = WindowRecipe(tuple(signals), rate_hz=1, length_s=10, stride_s=5, max_gap_s=5, coefficients=3)
    print(f"signals: {', '.join(signals)}")
    fit_s = score_s = 0.0
    parts = []
    for half in (0, 1):
        learned, others = paths[half::2], paths[1 - half :: 2]
        begin = time.perf_counter()
        known = read_windows(learned, recipe)
        model = VAEOutlierDetector(random_state=0).fit(known.rows, groups=known.spans["recording"])
        fit_s += time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as scratch:
            bundle = save(model, Path(scratch) / "model", recipe=recipe.to_dict(), units=known.units)
            source = Path(scratch) / "drives"
            source.mkdir()
            for path in others:
                (source / path.name).symlink_to(path)
            begin = time.perf_counter()
            score_folder(bundle, source, Path(scratch) / "scores")
            score_s += time.perf_counter() - begin
            parts += [pd.read_parquet(Path(scratch) / "scores" / path.name) for path in others]
    windows = pd.concat(parts, ignore_index=True)
    hours = windows.groupby("recording").agg(a=("start_s", "min"), b=("end_s", "max")).diff(axis=1)["b"].sum() / 3600
    return Scored(windows, float(hours), fit_s, score_s)


def common_signals(paths: list[Path]) -> list[str]:
    """The signals that all drives have."""
    tables = [list_signals(path) for path in paths]
    names = set.intersection(*(set(table["signal"]) for table in tables))
    return [name for name in tables[0]["signal"] if name in names]


def ranks(windows: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """The rank of the most anomalous window of each drive with a named event."""
    score = windows["anomaly_score"]
    best = windows.groupby("recording")["anomaly_score"].max().sort_values(ascending=False)
    rows = []
    for recording, kind in events[["recording", "kind"]].itertuples(index=False):
        if recording not in best.index:
            continue
        strongest = best.loc[recording]
        above = int((score > strongest).sum())
        rows.append(
            {
                "event": kind,
                "place": above + 1,
                "top share of windows": f"{(above + 1) / len(score):.3%}",
                "of drives": f"{int((best > strongest).sum()) + 1} of {len(best)}",
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
