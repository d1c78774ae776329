"""Whole recordings ranked: drives named for an event, drives with faults put in, and how valid the p-values are.

    python pipelines/benchmarks/rank.py                  # kit_obd; or: make bench-rank
    python pipelines/benchmarks/rank.py carobd           # 128 drives, none named

The drives are cut into three parts, and each part is scored by a model of the other two, which learns at most 20,000
windows. The figures are those of `anomalyvae rank`: `anomalyvae.fleet` orders each drive among the others.

Faults (faults.py) are put into some drives of each part, one at a time, and the changed drive is ranked among the
unchanged others: what is printed is its median rank, beside that of the same drives without a fault. Single signals are
of those that move.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bulk import LEFT_OUT, common_signals
from faults import Fault, inject
from numpy.typing import NDArray

from anomalyvae import VAEOutlierDetector, WindowRecipe
from anomalyvae.datasets import get_dataset
from anomalyvae.evaluate.job import Data, find_recordings
from anomalyvae.fleet import Tally, reasons
from anomalyvae.recordings import Log, choose_recipe, read_log

PARTS, MOST, FAULTY = 3, 20_000, 5  # parts of the drives; windows to learn; drives of each part that get faults
RECIPES = {"4 s at 2 Hz": (2.0, 4.0, 2.0), "10 s at 1 Hz": (1.0, 10.0, 5.0)}  # rate_hz, length_s, stride_s
MOVING = 0.02  # a signal with a fault changes so often between samples


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=["kit_obd", "carobd"], default="kit_obd")
    parser.add_argument("--no-faults", action="store_true", help="only the drives as they are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    get_dataset(options.name)
    paths, events = find_recordings(Data(name=options.name))
    left_out = LEFT_OUT.get(options.name, set())
    signals = tuple(name for name in common_signals(paths) if name not in left_out)
    recipes = {
        windows: WindowRecipe(signals, rate_hz, length_s, stride_s, max_gap_s=5, coefficients=3)
        for windows, (rate_hz, length_s, stride_s) in RECIPES.items()
    }
    chosen, _ = choose_recipe(paths, signals)
    for windows, recipe in {f"{chosen.length_s:g} s, chosen": chosen, **recipes}.items():
        began = time.perf_counter()
        clean, faulty = measured(paths, recipe, 0 if options.no_faults else FAULTY)
        print(f"\n{options.name}, windows of {windows}: {len(clean)} drives, {time.perf_counter() - began:.0f} s")
        if len(events):
            print(named_ranks(clean, events).to_string(index=False))
        if len(faulty):
            print(fault_ranks(clean, faulty).to_string())


def measured(paths: list[Path], recipe: WindowRecipe, faulty: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of each drive, by name, and those of drives with a fault, by its kind and the name."""
    logs = {path.stem: read_log(path, signals=recipe.needed) for path in paths}
    windows = {name: recipe.windows(log) for name, log in logs.items()}
    names = sorted(name for name, cut in windows.items() if len(cut))
    rng = np.random.default_rng(0)
    shuffled = [str(name) for name in rng.permutation(names)]
    clean, changed = {}, {}
    for part in range(PARTS):
        own = shuffled[part::PARTS]
        others = [name for name in names if name not in own]
        rows = pd.concat([windows[name].rows for name in others], ignore_index=True)
        groups = np.repeat(others, [len(windows[name]) for name in others])
        chosen = np.sort(rng.permutation(len(rows))[:MOST])
        shape = recipe.input_shape if recipe.coefficients is None else None
        model = VAEOutlierDetector(random_state=0, input_shape=shape).fit(rows.iloc[chosen], groups=groups[chosen])
        for name in own:
            clean[name] = figures(model, windows[name].rows, recipe)
        for name in own[:faulty]:
            for kind, fault in faults_for(logs[name], recipe.signals, rng):
                cut = recipe.windows(inject(logs[name], [fault]))
                if len(cut):
                    changed[kind, name] = figures(model, cut.rows, recipe)
    return pd.DataFrame(clean).T, pd.DataFrame(changed).T


def figures(model: VAEOutlierDetector, rows: pd.DataFrame, recipe: WindowRecipe) -> NDArray[np.float64]:
    """What `anomalyvae rank` knows of a drive."""
    of_signals = np.asarray(model.feature_scores(rows)).reshape(len(rows), len(recipe.signals), -1).sum(axis=2)
    tally = Tally(len(recipe.signals))
    tally.add(np.column_stack([model.anomaly_score(rows), of_signals]), np.zeros(len(rows)), np.arange(len(rows)))
    return tally.figures


def faults_for(log: Log, signals: tuple[str, ...], rng: np.random.Generator) -> Iterator[tuple[str, Fault]]:
    """Short and long faults, of one signal or of all, at a random place of a drive."""
    moving = [name for name in signals if np.mean(np.diff(log[name].values) != 0) > MOVING] or list(signals)
    one, end = (str(rng.choice(moving)),), max(float(log[name].time_s[-1]) for name in signals)
    at, half = rng.uniform(0.1, 0.7) * end, end / 2
    yield "swerve, 10 s", Fault("swerve", at, at + 10, signals, 0.3)
    yield "harsh, 10 s", Fault("harsh", at, at + 10, signals, 0.5)
    yield "spikes in one signal, 20 s", Fault("spikes", at, at + 20, one, 0.3)
    yield "offset in one signal, 60 s", Fault("offset", at, at + 60, one, 0.3)
    yield "one signal stuck, 300 s", Fault("stuck", at, at + 300, one)
    yield "offset in one signal, half the drive", Fault("offset", half, end + 1, one, 0.2)
    yield "noise in one signal, half the drive", Fault("noise", half, end + 1, one, 0.1)
    yield "one signal stuck, half the drive", Fault("stuck", half, end + 1, one)


METHODS = ("rank", "short event alone", "long oddness alone", "signal alone")


def unlike(of: pd.DataFrame, among: pd.DataFrame) -> pd.DataFrame:
    """How unlike others drives are: by `anomalyvae rank`, and by each of its three reasons alone."""
    nats = reasons(of.to_numpy(), among.to_numpy())
    return pd.DataFrame(np.column_stack([nats.max(axis=1), nats]), index=of.index, columns=list(METHODS))


def named_ranks(clean: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """The rank of each drive that is named for an event, and the median."""
    ranks = unlike(clean, clean).rank(ascending=False, method="max")
    named = events.drop_duplicates("recording").set_index("recording")["kind"]
    table = ranks.loc[[name for name in named.index if name in ranks.index]]
    table = pd.concat([table, table.median().to_frame().T])
    table.insert(0, "drive", [*(str(named[name]) for name in table.index[:-1]), f"median, of {len(ranks)}"])
    return table


def fault_ranks(clean: pd.DataFrame, faulty: pd.DataFrame) -> pd.DataFrame:
    """The median rank of drives with each fault among the other drives, and of the same drives without one."""
    ranks = {}
    for kind, name in faulty.index:
        others = clean.drop(index=name)
        usual = unlike(others, clean)
        for what, row in (("fault", faulty.loc[(kind, name)]), ("none", clean.loc[name])):
            own = unlike(row.to_frame().T, clean)
            ranks[kind, name, what] = 1 + (usual >= own.iloc[0]).sum()
    table = pd.DataFrame(ranks).T
    table.index.names = ["kind", "name", "what"]
    found = pd.DataFrame(table.xs("fault", level="what")).groupby("kind", sort=False).median()
    found["rank, without the fault"] = table.xs("none", level="what")["rank"].groupby("kind", sort=False).median()
    return found


if __name__ == "__main__":
    main()
