"""Few labels: anomalies found within a budget of labels, and detection afterwards, beside active learners.

    python pipelines/benchmarks/labels.py FOLDER             # or: make bench-labels DATA=FOLDER

The tables, their halves (chosen, unseen) and the protocol `contaminated` are those of tabular.py: a model learns all
rows, at most 2,500, outliers included and without labels. Then an oracle takes the place of a reviewer. A method names
one row at a time, gets its label, and may change its scores before it names the next. It may ask for half of the
outliers and half of the normal rows, the same for all methods. The other half is never asked: it measures the scores
afterwards, so that a method that finds the clear outliers is not left with the hard ones.

Figures, at 10, 25, 50 and 100 labels
    found              outliers among the rows asked, as a share of the most that the budget could find
    auroc, average_precision   of the scores after these labels, on the half that is never asked

Methods
-------
    ours               our detector; its scores change with each verdict: `anomalyvae.review.verdicts`
    plain              our first scores, never changed
    random             rows at random; its scores are our first scores
    aad, pine          AADForest and PineForest (package coniferest) with their defaults, asked as in its Session: the
                       most anomalous row of unknown label, and a refit after each label

Of rows with equal scores, one is drawn by the seed. Many of the files hold their outliers first or last, and forests
score many rows alike: the first of them in the file would tell AADForest where the outliers are.

The bars: found and average_precision at least those of the better of aad and pine, at every budget; at 25 and 50
labels, with a 95 % interval above 0 (bootstrap over tables).

Each result is stored at once, as in tabular.py: an interrupted run resumes. The last line times the review
page with a queue of 100,000 events.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from results import ROOT, keep, kept_results, made_at, markdown
from tabular import Source, Table, Task, code_version, sources, task
from tabular_report import HALVES, half_of, interval

import anomalyvae
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.pyod_adapter import OURS
from anomalyvae.review import Queue
from anomalyvae.review.listing import Filter, Listing
from anomalyvae.review.verdicts import VerdictScores

BUDGETS = (10, 25, 50, 100)
FIGURES = ("found", "auroc", "average_precision")
RIVALS = {"aad": ("coniferest.aadforest", "AADForest"), "pine": ("coniferest.pineforest", "PineForest")}
METHODS = (OURS, "plain", "random", *RIVALS)
PROTOCOL = 2  # raise it with each change of what is asked or measured, so that older results do not count
WINDOWS = 100_000
Mask = NDArray[np.bool_]
Scores = Callable[[list[int], Mask], Table]
"""Rows asked so far and whether each is an outlier -> the scores of all rows."""


# --- the methods ------------------------------------------------------------------------------------------


def rival(name: str, given: Task, seed: int) -> Scores:
    """A forest of coniferest that is fitted again to the labels."""
    module, kind = RIVALS[name]
    model = getattr(importlib.import_module(module), kind)(random_seed=seed, n_jobs=1).fit(given.learned)

    def scores(asked: list[int], outlier: Mask) -> Table:
        if asked:
            model.fit_known(given.learned, given.scored[asked], np.where(outlier, -1, 1))  # -1: an anomaly
        return -np.asarray(model.score_samples(given.scored), dtype=np.float64)

    return scores


def method(name: str, given: Task, seed: int) -> Scores:
    """A method by its name."""
    if name in RIVALS:
        return rival(name, given, seed)
    detector = anomalyvae.VAEOutlierDetector(random_state=seed).fit(given.learned)
    first = detector.anomaly_score(given.scored)
    if name in ("plain", "random"):
        return lambda asked, outlier: first
    ranking = VerdictScores(first, given.scored, random_state=seed)
    return lambda asked, outlier: ranking(asked, outlier)


# --- the loop ---------------------------------------------------------------------------------------------


def askable(outlier: Mask, seed: int) -> Mask:
    """Half of the rows of each class, drawn by the seed: those that may be asked."""
    rng, may = np.random.RandomState(1000 + seed), np.zeros(len(outlier), dtype=bool)
    for kind in (False, True):
        rows = rng.permutation(np.flatnonzero(outlier == kind))
        may[rows[: (len(rows) + 1) // 2]] = True
    return may


def asked_for(
    scores: Scores, outlier: Mask, may: Mask, seed: int, at_random: bool = False
) -> dict[int, dict[str, float]]:
    """Ask for the most anomalous row again and again; the figures at each budget that the rows allow, and at 0.

    Of rows with equal scores, the seed draws one; with ``at_random``, of all rows.
    """
    asked: list[int] = []
    now = scores(asked, outlier[asked])
    figures = {0: _figures(now, outlier, may, asked)}
    order = np.random.RandomState(2000 + seed).permutation(len(may))
    for number in range(1, min(BUDGETS[-1], int(may.sum())) + 1):
        open_rows = may.copy()
        open_rows[asked] = False
        wanted = np.where(open_rows, 0.0 if at_random else now, -np.inf)
        asked.append(int(order[np.argmax(wanted[order])]))
        now = scores(asked, outlier[asked])
        if number in BUDGETS:
            figures[number] = _figures(now, outlier, may, asked)
    return figures


def _figures(now: Table, outlier: Mask, may: Mask, asked: list[int]) -> dict[str, float]:
    most = max(min(len(asked), int(outlier[may].sum())), 1)
    finite = np.nan_to_num(now, nan=np.inf, posinf=np.finfo(float).max)[~may]
    figures = (float(outlier[asked].sum() / most), auroc(outlier[~may], finite))
    return dict(zip(FIGURES, (*figures, average_precision(outlier[~may], finite)), strict=True))


def results_of(source: Source, seed: int, name: str) -> list[dict[str, Any]]:
    """The figures of one method on one table: one result per budget."""
    torch.set_num_threads(1)
    given = task(source.path, "contaminated", seed)
    may, started = askable(given.outlier, seed), time.perf_counter()
    head = {
        "collection": source.collection, "table": source.tables[0],
        "half": half_of(source.collection, source.tables[0]), "seed": seed, "method": name, "failure": "",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            figures = asked_for(method(name, given, seed), given.outlier, may, seed, at_random=name == "random")
        except Exception as error:  # a method that fails is a row of the table: it scores all rows alike
            failed = " ".join(f"{type(error).__name__}: {error}".split())
            none = {"found": 0.0, "auroc": 0.5, "average_precision": float(given.outlier[~may].mean())}
            head, figures = head | {"failure": failed}, dict.fromkeys((0, *BUDGETS), none)
    head["seconds"] = time.perf_counter() - started
    return [head | {"budget": budget} | each for budget, each in figures.items()]


def version_of(name: str) -> str:
    """What a result depends on besides its data."""
    if name in RIVALS:
        return f"coniferest {version('coniferest')}, protocol {PROTOCOL}"
    digest = hashlib.sha256((ROOT / "anomalyvae" / "review" / "verdicts.py").read_bytes()).hexdigest()
    return code_version(OURS) + (f" {digest[:12]}" if name == OURS else "") + f", protocol {PROTOCOL}"


def run(found: list[Source], seeds: list[int], methods: list[str], store: Path) -> pd.DataFrame:
    """Compute the results that are not stored yet, and return all that are wanted."""
    store.parent.mkdir(parents=True, exist_ok=True)
    keys = ("collection", "table", "seed", "method", "version")
    versions = {name: version_of(name) for name in methods}
    done = {tuple(result[key] for key in keys) for result in kept_results(store)}
    wanted = [(source, seed, name) for seed in seeds for source in found for name in methods]
    asked = {(s.collection, s.tables[0], seed, name, versions[name]): (s, seed, name) for s, seed, name in wanted}
    for number, (key, job) in enumerate(asked.items(), start=1):
        if key in done:
            continue
        results = results_of(*job)
        keep(store, [result | {"version": key[-1]} for result in results])
        print(f"{number}/{len(asked)} {key[0]} {key[1]}, seed {key[2]}, {key[3]} {results[0]['failure']}", flush=True)
    kept = {(*(r[k] for k in keys), r["budget"]): r for r in kept_results(store)}
    return pd.DataFrame([result for key, result in kept.items() if key[:-1] in asked])


def means(results: pd.DataFrame) -> pd.DataFrame:
    """A row per budget and method: the mean over tables of each figure, in the halves and the whole."""
    rows = []
    for (budget, name), part in results.groupby(["budget", "method"]):
        row = {"budget": budget, "method": name, "tables": part["table"].nunique()}
        for half in HALVES:
            tables = part[(half == "whole") | (part["half"] == half)].groupby(["collection", "table"])
            row |= {f"{figure} {half}": value for figure, value in tables[list(FIGURES)].mean().mean().items()}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(results: pd.DataFrame) -> pd.DataFrame:
    """A row per budget, peer and figure: ours minus the peer, paired over tables, with a 95 % interval of the whole."""
    keys, rows = ["collection", "table", "half", "seed"], []
    for (budget, name), part in results[results["method"] != OURS].groupby(["budget", "method"]):
        ours = results[(results["method"] == OURS) & (results["budget"] == budget)].set_index(keys)
        gap = (ours[list(FIGURES)] - part.set_index(keys)[list(FIGURES)]).dropna().groupby(keys[:3]).mean()
        for figure in FIGURES if len(gap) else ():
            each = {half: gap[(half == "whole") | (gap.index.get_level_values("half") == half)] for half in HALVES}
            low, high = interval(gap[figure])
            row = {"budget": budget, "peer": name, "figure": figure, "tables": len(gap)}
            rows.append(row | {half: part[figure].mean() for half, part in each.items()} | {"low": low, "high": high})
    return pd.DataFrame(rows)


def bars(results: pd.DataFrame) -> pd.DataFrame:
    """A row per half, figure and budget: ours minus the rival with the better mean, and a 95 % interval over tables."""
    rows = []
    for half in ("chosen", "unseen"):
        part = results[(results["half"] == half) & (results["budget"] > 0)]
        for figure, budget in itertools.product(("found", "average_precision"), sorted(part["budget"].unique())):
            wide = part[part["budget"] == budget].pivot_table(figure, ["collection", "table"], "method")
            rivals = [name for name in RIVALS if name in wide]
            if OURS in wide and rivals:
                wide = wide[[OURS, *rivals]].dropna()  # the tables that all of them have
                best = wide[rivals].mean().idxmax()
                gap = wide[OURS] - wide[best]
                row = {"half": half, "figure": figure, "budget": budget, "better rival": best, "tables": len(gap)}
                row |= {"ours": wide[OURS].mean(), "rival": wide[best].mean(), "difference": gap.mean()}
                rows.append(row | dict(zip(("low", "high"), interval(gap), strict=True)))
    return pd.DataFrame(rows)


def page_seconds(windows: int = WINDOWS, columns: int = 16) -> tuple[float, float]:
    """Seconds until a review page of so many events is read, and until the 100th verdict shows in its list.

    The second is that of the server: the verdict is saved, the events have a new order, and the answer is written.
    """
    rng, start_s = np.random.default_rng(0), 2.0 * np.arange(windows)
    event = {
        "model_id": "m", "source": "/drives", "file": "d.csv", "recording": [f"d{i // 200}" for i in range(windows)],
        "start_s": start_s, "end_s": start_s + 2, "peak_start_s": start_s, "peak_end_s": start_s + 2,
        "peak_score": -start_s, "p_value": 0.01, "windows": 1, "signals": [["x", "y"]] * windows,
        "shares": [[0.7, 0.3]] * windows, "outside": [{}] * windows, "nearest": None, "nearest_distance": np.nan,
        "latent": rng.normal(size=(windows, columns)).round(6).tolist(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Queue(Path(folder) / "queue.db") as queue:
        queue.add(pd.DataFrame(event))
        started, listing = time.perf_counter(), Listing(queue)
        listing.prepare()
        names = [row["event_id"] for row in listing.part(Filter("open"))["events"]]
        read = time.perf_counter() - started
        for name in names[: BUDGETS[-1] - 1]:
            queue.give(name, "noise", "ada")
        listing.part(Filter("open"))
        started = time.perf_counter()
        queue.give(names[BUDGETS[-1]], "fault", "ada")
        json.dumps(listing.part(Filter("open"), names[BUDGETS[-1] + 1]))
        return read, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that holds the collections, each in a folder of its own")
    parser.add_argument("--collections", nargs="+", default=["adbench", "oddbench"], metavar="NAME")
    parser.add_argument("--half", choices=HALVES, default="whole", help="run and print these tables alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "labels", help="folder of results and report")
    options = parser.parse_args()
    methods = list(options.methods)
    try:
        version("coniferest")
    except PackageNotFoundError:
        methods = [name for name in methods if name not in RIVALS]
        print("Left out: aad, pine; their package coniferest is not installed.", flush=True)
    try:
        found = sources(options.folder, options.collections, options.half)
    except FileNotFoundError as error:
        parser.error(str(error))
    results = run(found, options.seeds, methods, options.out / "results.jsonl")
    parts = {
        "Means over tables": means(results), "Ours - peer, paired over tables": differences(results),
        "Ours - the better of aad and pine, paired over tables": bars(results),
    }  # fmt: skip
    read, shown = page_seconds()
    timed = f"A queue of {WINDOWS:,} events is read in {read:.1f} s; the 100th verdict shows in {shown:.2f} s."
    lines = [f"# Few labels\n\n{made_at()}, seeds {options.seeds}.", timed]
    for title, part in parts.items():
        if part.empty:  # ours or the rivals were left out
            continue
        part = part.dropna(axis=1, how="all")
        print(f"\n{title}\n{part.round(3).to_string(index=False)}")
        lines.append(f"## {title}\n\n{markdown(part.set_index(part.columns[0]))}")
    print(f"\n{timed}")
    (options.out / "report.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
