"""Detection on recordings: our detector, plain methods and PyOD's, on the same windows.

    python pipelines/benchmarks/sequences.py            # an hour or two on one core; --quick five minutes

Sets
    skab      34 experiments, each learned from its first 400 rows. Windows of 20 rows, one at each row. The threshold
              is the 95 % quantile of the training rows, by five-fold cross-validation over stretches of time (windows
              that touch the held-out stretch are left out). F1, the share of normal rows flagged and of anomalous rows
              missed, over the rows of all experiments together: of those after the first 400, as the leaderboard
              counts, or (``all_...``) of all rows, as it did before.
    smap      54 channels, learned from their train part. Windows of 20 rows, one at each row. Mean VUS-PR and VUS-ROC
              of the test parts, the buffer by `volume.evaluation_window`. The telemetry is the target signal.
    smd, asd  4 server machines and 6 application servers, as smap; without a target signal.
    jair_jr   3 trips, each scored by a detector fitted to the two others without their manoeuvres. Windows of 2 s at
              10 Hz, all nine signals, every 0.4 s. A window is anomalous if half of it lies in an aggressive
              manoeuvre, or (``any_...``) in any. Event recall is that of aggressive manoeuvres at one false alarm a
              minute.
    series    42 tasks of 12 sets (data/series): half of the series of one class are learned, or of all classes
              but one; the other half are normal, and other classes anomalous. A series is a window.
    potholes  5 drives, as in pipelines/potholes.toml: each scored by a detector fitted to the others without their
              potholes.

A row of skab, smap, smd or asd has the mean score of the windows that cover it (offline), or (``causal_...``) the score
of the window that ends there. ``shape`` is a window as three numbers a signal: level, slope and bend. ``linear`` is our
detector with ``hidden=()``; `SETTINGS` in sequence_methods.py lists our settings other than the defaults. Detectors and
thresholds use neither labels nor scored rows. ``moving_variance``, ``squared_difference``, ``row_norm`` and, where a
set has one, ``target`` (the norm of the target signal alone) are one-liners; the target is never chosen by labels.

A case belongs to the `chosen` or the `unseen` half by the hash of its name, as in tabular.py: choices are made on the
chosen half (``--half chosen`` runs and prints no other). Differences are ours minus the best other method, paired by
case; see sequence_report.py.

Each result is stored at once, by set, case, seed, method and version of the code, so a stopped run continues where it
was.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sequence_methods
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from results import ROOT, keep, kept_results, made_at, markdown
from sequence_methods import LINEAR, METHODS, OWN, QUICK, SEEDLESS, SETTINGS, SLOW, TARGETED, Array, Scores
from sequence_report import differences, of_set, summary
from tabular import code_version
from tabular_report import HALVES, half_of
from volume import evaluation_window, vus

from anomalyvae import metrics
from anomalyvae.datasets import get_dataset
from anomalyvae.evaluate import read_job
from anomalyvae.evaluate.job import find_recordings
from anomalyvae.events import touches
from anomalyvae.pyod_adapter import OURS
from anomalyvae.recordings import WindowRecipe, read_windows
from anomalyvae.recordings.folding import fold

LENGTH = 20  # rows in a window of SKAB and SMAP
FIRST, FOLDS, QUANTILE = 400, 5, 0.95  # SKAB: training rows, parts of them, and the threshold
JAIR = WindowRecipe(
    signals=(
        *(f"{kind}_{axis}_mps2" for kind in ("acc", "lin") for axis in "xyz"),
        *(f"gyro_{a}_radps" for a in "xyz"),
    ),
    rate_hz=10,
    length_s=2.0,
    stride_s=0.4,
    max_gap_s=1.0,
)
ALARMS_PER_HOUR = 60.0


# --- data sets: windows to learn and to score, and how scores are evaluated ------------------------------------


class Case(NamedTuple):
    """Windows to learn and to score, and the function that evaluates scores (if `parted`, also of learned windows).

    `target` is the signal that the others explain, if the set names one.
    """

    name: str
    learned: Array
    scored: Array
    parted: bool
    judge: Callable[[Array, Array], dict[str, float]]
    target: int | None = None


def rolling(x: Array) -> Array:
    """A window at each row of a series ``(n, signals)``; a view."""
    return sliding_window_view(x, LENGTH, axis=0)


def of_points(scores: Array) -> dict[str, Array]:
    """Scores of rolling windows -> scores of rows, offline and causal; rows before the first end get its score."""
    starts, rows = np.arange(len(scores)), len(scores) + LENGTH - 1
    offline, causal = (fold(scores, starts, LENGTH, rows, mode=mode) for mode in ("offline", "causal"))
    return {"": offline, "causal_": np.where(np.isnan(causal), scores[0], causal)}


def skab() -> Iterator[Case]:
    """Each experiment; its first 400 rows are learned."""
    folder = get_dataset("skab")
    events = pd.read_parquet(folder / "events.parquet")
    for path in sorted((folder / "recordings").glob("*-[0-9]*.parquet")):
        x, label = _series(path, events)
        yield Case(path.stem, rolling(x[:FIRST]), rolling(x), True, partial(_counts, label))


def _series(path: Path, events: pd.DataFrame) -> tuple[Array, NDArray[np.bool_]]:
    table = pd.read_parquet(path)
    spans = pd.DataFrame({"recording": path.stem, "start_s": table["time_s"], "end_s": table["time_s"]})
    return table.drop(columns="time_s").to_numpy(dtype=float), touches(spans, events)


def _counts(label: NDArray[np.bool_], scores: Array, held_out: Array) -> dict[str, float]:
    """Rows flagged and missed, of all and of those after the training rows."""
    normal = of_points(held_out)
    counts: dict[str, float] = {}
    for kind, points in of_points(scores).items():
        flagged = points > np.quantile(normal[kind], QUANTILE)
        for part, rows in {"all_": slice(None), "": slice(FIRST, None)}.items():
            y, p = label[rows], flagged[rows]
            found = {"tp": y & p, "fp": ~y & p, "fn": y & ~p, "tn": ~y & ~p}
            counts |= {f"{part}{kind}{name}": float(which.sum()) for name, which in found.items()}
    return counts


def split_set(name: str, target: int | None = None) -> Iterator[Case]:
    """The test part of each series of a set; its train part is learned."""
    folder = get_dataset(name)
    events = pd.read_parquet(folder / "events.parquet")
    for path in sorted((folder / "recordings").glob("*.test.parquet")):
        x, label = _series(path, events)
        learned, _ = _series(path.with_name(path.name.replace(".test.", ".train.")), events)
        judge = partial(_volumes, label, evaluation_window(np.concatenate([learned[:, 0], x[:, 0]])))
        yield Case(path.stem.removesuffix(".test"), rolling(learned), rolling(x), False, judge, target)


def _volumes(label: NDArray[np.bool_], window: int, scores: Array, held_out: Array) -> dict[str, float]:
    volumes = {kind: vus(label, points, window) for kind, points in of_points(scores).items()}
    return {
        f"{kind}{name}": value for kind, v in volumes.items() for name, value in [("vus_pr", v.pr), ("vus_roc", v.roc)]
    }


def jair_jr() -> Iterator[Case]:
    """Each trip, scored by a detector fitted to the others without their manoeuvres."""
    folder = get_dataset("jair_jr")
    events = pd.read_parquet(folder / "events.parquet")
    windows = read_windows(sorted((folder / "recordings").glob("*.parquet")), JAIR)
    aggressive = events[events["kind"].str.startswith("aggressive")]
    anomalous = {"": _half_inside(windows.spans, aggressive), "any_": _half_inside(windows.spans, events)}
    yield from _left_out(
        windows.rows.to_numpy(), windows.spans, JAIR, touches(windows.spans, events), anomalous, aggressive
    )


def _half_inside(spans: pd.DataFrame, events: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether half of a window or more lies in events, which do not overlap within a recording."""
    inside = np.zeros(len(spans))
    start, end = spans["start_s"].to_numpy(), spans["end_s"].to_numpy()
    for event in events.to_dict("records"):
        common = np.minimum(end, event["end_s"]) - np.maximum(start, event["start_s"])
        inside += np.where(spans["recording"] == event["recording"], common.clip(min=0), 0)
    return inside >= (end - start) / 2 - 1e-9


def potholes() -> Iterator[Case]:
    """Each drive, scored by a detector fitted to the others without their potholes."""
    job = read_job(ROOT / "pipelines" / "potholes.toml")
    paths, events = find_recordings(job.data)
    recipe = replace(job.windows, coefficients=None)  # the methods choose how a window is described
    windows = read_windows(paths, recipe)
    anomalous = touches(windows.spans, events, job.data.tolerance_s)
    rows = windows.rows.to_numpy()
    yield from _left_out(rows, windows.spans, recipe, anomalous, {"": anomalous}, events, job.data.tolerance_s)


def _left_out(
    rows: Array,
    spans: pd.DataFrame,
    recipe: WindowRecipe,
    touched: NDArray[np.bool_],
    anomalous: dict[str, NDArray[np.bool_]],
    events: pd.DataFrame,
    tolerance_s: float = 0.0,
) -> Iterator[Case]:
    windows = rows.reshape(len(rows), *recipe.input_shape)
    recording = spans["recording"].to_numpy()
    for name in np.unique(recording):
        inside = recording == name
        judge = partial(
            _ranked,
            {kind: y[inside] for kind, y in anomalous.items()},
            spans[inside].reset_index(drop=True),
            events,
            tolerance_s,
        )
        yield Case(str(name), windows[~inside & ~touched], windows[inside], False, judge)


def _ranked(
    anomalous: dict[str, NDArray[np.bool_]],
    spans: pd.DataFrame,
    events: pd.DataFrame,
    tolerance_s: float,
    scores: Array,
    held_out: Array,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, y in anomalous.items():
        found |= {f"{kind}{name}": value for name, value in _told_apart(y, scores, held_out).items()}
    return found | {"event_recall": metrics.event_recall(scores, spans, events, ALARMS_PER_HOUR, tolerance_s)}


def series() -> Iterator[Case]:
    """Each task: some classes of series are learned, others are unknown."""
    for path in sorted(get_dataset("series").glob("*.npz")):
        with np.load(path) as arrays:
            judge = partial(_told_apart, arrays["y"])
            yield Case(path.stem, arrays["learned"], arrays["scored"], False, judge)


def _told_apart(y: NDArray[Any], scores: Array, held_out: Array) -> dict[str, float]:
    return {"auroc": metrics.auroc(y, scores), "ap": metrics.average_precision(y, scores)}


SETS: dict[str, Callable[[], Iterator[Case]]] = {
    "skab": skab,
    "smap": partial(split_set, "smap", target=0),
    "smd": partial(split_set, "smd"),
    "asd": partial(split_set, "asd"),
    "jair_jr": jair_jr,
    "potholes": potholes,
    "series": series,
}
LARGE = ("skab", "smap", "smd", "asd")


# --- running --------------------------------------------------------------------------------------------


def results_of(case: Case, method: str, seed: int) -> list[dict[str, Any]]:
    """Fit and score one method on one case; one result per score."""
    learned, scored = case.learned, case.scored
    if method in TARGETED and case.target is not None:
        learned, scored = learned[:, [case.target]], scored[:, [case.target]]
    started = time.perf_counter()
    score = METHODS[method](learned, seed)
    fitted = time.perf_counter()
    scores = score(scored)
    done = time.perf_counter()
    held_out = _held_out_scores(learned, method, seed) if case.parted else {}
    seconds = {"fit_s": fitted - started, "score_s": done - fitted}
    nothing = np.empty(0)
    return [
        {"method": name, **case.judge(_finite(values), _finite(held_out.get(name, nothing))), **seconds}
        for name, values in scores.items()
    ]


def _finite(scores: Array) -> Array:
    return np.nan_to_num(scores, nan=np.inf, posinf=float(np.finfo(np.float32).max))


def _held_out_scores(learned: Array, method: str, seed: int) -> Scores:
    """Scores of rolling training windows, each by a detector fitted without its stretch and windows that touch it."""
    part = np.arange(len(learned)) * FOLDS // len(learned)
    pieces: list[Scores] = []
    for number in range(FOLDS):
        inside = np.flatnonzero(part == number)
        rest = np.ones(len(learned), dtype=bool)
        rest[max(inside[0] - LENGTH + 1, 0) : inside[-1] + LENGTH] = False
        pieces.append(METHODS[method](learned[rest], seed)(learned[inside]))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def tasks(
    sets: Iterable[str], methods: list[str] | None, seeds: int | None, quick: bool, half: str = "whole"
) -> Iterator[tuple[str, Case, str, int]]:
    """By default small sets with three seeds and all methods, large sets with one seed and without slow methods."""
    for name in sets:
        large = name in LARGE
        chosen = methods or (QUICK if quick else [method for method in METHODS if not (large and method in SLOW)])
        for number, case in enumerate(SETS[name]()):
            if (quick and number % 6) or half not in ("whole", half_of(name, case.name)):
                continue
            for method in chosen:
                if method in TARGETED and case.target is None:
                    continue
                for seed in range(1 if quick or method in SEEDLESS else seeds or (1 if large else 3)):
                    yield name, case, method, seed


def version_of(method: str) -> str:
    """What a result depends on besides its data."""
    settings = f"{FOLDS} parts, {sequence_methods.COEFFICIENTS} coefficients"
    if method not in OWN:
        return f"{code_version('iforest')} {settings}"
    return f"{code_version(OURS)} {SETTINGS} {LINEAR if method.startswith('linear') else ''} {settings}"


def run(todo: Iterable[tuple[str, Case, str, int]], store: Path, jobs: int) -> dict[str, str]:
    """Compute the results that are not stored yet; returns the version of each method, as it was at the start."""
    store.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["set"], r["case"], r["asked"], r["seed"], r["version"]) for r in kept_results(store)}
    versions = {method: version_of(method) for method in METHODS}
    asked = [
        {"set": name, "case": case.name, "asked": method, "seed": seed, "version": versions[method]}
        for name, case, method, seed in todo
    ]
    asked = [one for one in asked if tuple(one.values()) not in done]
    for number, (one, results) in enumerate(_answered(asked, jobs), start=1):
        print(f"{number}/{len(asked)} {one['set']} {one['case']}, {one['asked']}", flush=True)
        keep(store, [one | result for result in results])
    return versions


def _answered(asked: list[dict[str, Any]], jobs: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Results as they are ready, in this process or in several."""
    if jobs == 1:
        yield from ((one, _work(one)) for one in asked)
        return
    with ProcessPoolExecutor(jobs, initializer=_quietly, initargs=(sequence_methods.COEFFICIENTS,)) as pool:
        running = {pool.submit(_work, one): one for one in asked}
        yield from ((running[future], future.result()) for future in as_completed(running))


_CASES: dict[str, dict[str, Case]] = {}  # of a worker: a set is read once


def _work(asked: dict[str, Any]) -> list[dict[str, Any]]:
    name = asked["set"]
    if name not in _CASES:
        _CASES[name] = {one.name: one for one in SETS[name]()}
    return results_of(_CASES[name][asked["case"]], asked["asked"], asked["seed"])


def _quietly(coefficients: int) -> None:
    sequence_methods.COEFFICIENTS = coefficients
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET", help="default: all")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help="default: all, but for large sets (skab, smap, smd, asd) the fast ones",
    )
    parser.add_argument("--seeds", type=int, help="default: 1 on large sets, 3 on the others")
    parser.add_argument("--half", choices=HALVES, default="whole", help="run and print these cases alone")
    parser.add_argument(
        "--coefficients", type=int, default=3, help="of a signal, where a window is its shape; default: 3"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="a sixth of the recordings and some of the methods")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "sequences")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    _quietly(options.coefficients)
    out = options.out / "quick" if options.quick else options.out
    todo = tasks(options.sets, options.methods, options.seeds, options.quick, options.half)
    versions = run(todo, out / "results.jsonl", options.jobs)
    kept = [
        r
        for r in kept_results(out / "results.jsonl")
        if r["asked"] in (options.methods or METHODS) and r["version"] == versions[r["asked"]]
    ]
    text = [f"{made_at()}"]
    for name in options.sets:
        mine = of_set(pd.DataFrame(kept, columns=None if kept else ["set", "case"]), name, options.half)
        if mine.empty:
            print(f"\n{name}\nNo method runs on these cases.")
            continue
        parts = {"": summary(mine, name), "differences": differences(mine, name)}
        for part, table in parts.items():
            title = f"{name} {part}".rstrip()
            table = table.dropna(axis=1, how="all")
            if table.empty:  # without ours, or without others, there is no difference
                continue
            table.to_csv(out / f"{title.replace(' ', '-')}.csv")
            text.append(f"## {title}\n\n{markdown(table)}")
            print(f"\n{title}\n{table.round(3).to_string()}")
    (out / "tables.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(f"\nTables in {out}")


if __name__ == "__main__":
    main()
