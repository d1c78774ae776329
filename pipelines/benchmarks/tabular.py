"""Detection on tables, compared with PyOD's detectors on the same rows.

The folder has ``.npz`` files with ``X`` (n, d) and ``y`` (n,), 1 = outlier, such as those of ADBench::

    python pipelines/benchmarks/tabular.py FOLDER            # or: make bench-tabular DATA=FOLDER

Protocols
    normal        learn half of the normal rows (at most 2,500); score the other half and all outliers
    contaminated  learn all rows (at most 2,500, unlabelled, outliers included) and score all; ours also with
                  contamination=0.1 (PyOD's own default), and with twice the epochs
    missing       as normal, but a fifth of the cells of the scored rows is missing at random; ours only, because
                  the others do not accept missing cells

Rows are standardised by the training rows. No detector sees a label, and every detector has its defaults. Each
result is stored at once, by data set, seed, method and version of the code, so that an interrupted run resumes.
"""

import argparse
import hashlib
import json
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import clone

import anomalyvae
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.pyod_adapter import OURS, PYOD_DETECTORS, pyod_detector

ROOT = Path(__file__).parents[2]
MOST_ROWS = 2500
MISSING = 0.2
TOLD = f"{OURS}, contamination=0.1"
LONGER = f"{TOLD}, twice the epochs"
SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    TOLD: {"contamination": 0.1},
    LONGER: {"contamination": 0.1},
    f"{OURS}, reconstruction": {"objective": "reconstruction"},
    f"{OURS}, adversarial": {"objective": "adversarial"},
}
Table = NDArray[np.float64]


class Task(NamedTuple):
    """Rows to learn, rows to score, and which of those are outliers."""

    learned: Table
    scored: Table
    outlier: NDArray[np.bool_]


def task(path: Path, protocol: str, seed: int) -> Task:
    """Split a data set by a protocol and a seed."""
    with np.load(path, allow_pickle=False) as file:
        x, outlier = file["X"].astype(np.float64), file["y"].ravel() == 1
    rng = np.random.RandomState(seed)
    if protocol in ("normal", "missing"):
        normal = rng.permutation(np.flatnonzero(~outlier))
        half = len(normal) // 2
        learned, scored = normal[:half][:MOST_ROWS], np.concatenate([normal[half:], np.flatnonzero(outlier)])
    else:
        learned, scored = rng.permutation(len(x))[:MOST_ROWS], np.arange(len(x))
    center, scale = x[learned].mean(axis=0), x[learned].std(axis=0)
    x = (x - center) / np.where(scale > 0, scale, 1)
    if protocol == "missing":
        hidden = rng.random_sample(x.shape) < MISSING
        hidden[learned] = False
        x[hidden] = np.nan
    return Task(x[learned], x[scored], outlier[scored])


def ours(name: str, seed: int) -> Callable[[Table], Callable[[Table], dict[str, Table]]]:
    """Our detector with the settings in its name, else its defaults, and each of its other scores."""

    def fit(learned: Table) -> Callable[[Table], dict[str, Table]]:
        detector = anomalyvae.VAEOutlierDetector(random_state=seed, **SETTINGS[name])
        if name == LONGER:
            epochs = len(clone(detector).set_params(validation_fraction=0.0).fit(learned).history_)
            detector.set_params(max_epochs=2 * epochs)
        detector.fit(learned)

        def score(rows: Table) -> dict[str, Table]:
            terms = detector.score_terms(rows)
            own = terms.pop("memory").to_numpy()
            return {name: own} | {f"{name}: {term}": s.to_numpy() for term, s in terms.items()}

        return score

    return fit


def pyod(name: str, seed: int) -> Callable[[Table], Callable[[Table], dict[str, Table]]]:
    """A detector of PyOD with its defaults."""
    detector = pyod_detector(name, seed)

    def fit(learned: Table) -> Callable[[Table], dict[str, Table]]:
        detector.fit(learned)
        return lambda rows: {name: detector.anomaly_score(rows)}

    return fit


def results_of(path: Path, protocol: str, seed: int, method: str) -> Iterator[dict[str, Any]]:
    """Fit and score one method on one task: one result per score."""
    learned, scored, outlier = task(path, protocol, seed)
    fit = pyod(method, seed) if method in PYOD_DETECTORS else ours(method, seed)
    started = time.perf_counter()
    score = fit(learned)
    fitted = time.perf_counter()
    scores = score(scored)
    done = time.perf_counter()
    for name, values in scores.items():
        finite = np.nan_to_num(values, nan=np.inf, posinf=np.finfo(float).max)
        yield {
            "protocol": protocol,
            "set": path.stem,
            "seed": seed,
            "method": name,
            "auroc": auroc(outlier, finite),
            "average_precision": average_precision(outlier, finite),
            "fit_s": fitted - started,
            "score_s": done - fitted,
        }


def code_version(method: str) -> str:
    """What a result depends on besides its data: our source, or the release of PyOD."""
    if method in PYOD_DETECTORS:
        return f"pyod {version('pyod')}"
    digest = hashlib.sha256()
    for source in sorted((ROOT / "anomalyvae").glob("*.py")) + sorted((ROOT / "anomalyvae" / "nets").glob("*.py")):
        if source.name in ("categories.py", "detector.py", "fitting.py", "rows.py") or source.parent.name == "nets":
            digest.update(source.read_bytes())
    return f"source {digest.hexdigest()[:12]}"


def kept_results(store: Path) -> list[dict[str, Any]]:
    """The results of earlier runs. A line that a kill cut short is ignored."""
    results = []
    for line in store.read_text(encoding="utf-8").splitlines() if store.exists() else []:
        try:
            results.append(json.loads(line))
        except ValueError:
            continue
    return results


def run(files: list[Path], protocol: str, seeds: list[int], methods: list[str], store: Path) -> pd.DataFrame:
    """Compute the results that are not stored yet, and return all."""
    store.parent.mkdir(parents=True, exist_ok=True)
    if store.exists() and not store.read_bytes().endswith(b"\n"):
        with store.open("a", encoding="utf-8") as file:
            file.write("\n")
    versions = {method: code_version(method) for method in methods}
    done = {(r["protocol"], r["set"], r["seed"], r["asked"], r["version"]) for r in kept_results(store)}
    todo = [(p, s, m) for s in seeds for p in files for m in methods]
    todo = [(p, s, m) for p, s, m in todo if (protocol, p.stem, s, m, versions[m]) not in done]
    for number, (path, seed, method) in enumerate(todo, start=1):
        print(f"{number}/{len(todo)} {path.stem}, seed {seed}, {method}", flush=True)
        asked = {"asked": method, "version": versions[method]}
        lines = [json.dumps(result | asked) + "\n" for result in results_of(path, protocol, seed, method)]
        with store.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
    names, stems = set(versions.items()), {path.stem for path in files}
    return pd.DataFrame(
        r for r in kept_results(store)
        if (r["asked"], r["version"]) in names
        and (r["set"] in stems and r["seed"] in seeds and r["protocol"] == protocol)
    )  # fmt: skip


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """A row per method: means over sets and seeds, and the mean rank by AUROC among the main methods."""
    means = results.groupby("method")[["auroc", "average_precision", "fit_s", "score_s"]].mean()
    means.insert(2, "rank", _main_methods(results).rank(axis=1, ascending=False).mean())
    return means.sort_values("auroc", ascending=False)


def write_report(results: pd.DataFrame, folder: Path, protocol: str) -> None:
    """Write the tables as Markdown and the ranks as a picture, with the commit of the code."""
    table = summary(results)
    per_set = results.pivot_table(index="set", columns="method", values="auroc")[list(table.index)]
    text = (
        f"# Tables, protocol `{protocol}`\n\n{results['set'].nunique()} sets, seeds "
        f"{sorted(results['seed'].unique().tolist())}, {made_at()}, PyOD {version('pyod')}.\n\n"
        f"{markdown(table)}\n\n## AUROC per set\n\n{markdown(per_set)}\n"
    )
    (folder / f"{protocol}.md").write_text(text, encoding="utf-8")
    draw_ranks(results, folder / f"{protocol}.png")


def made_at() -> str:
    """The commit of the code, for a report."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return f"commit {commit or 'unknown'}"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, with three decimals."""
    lines = [[str(table.index.name or ""), *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    for name, row in zip(table.index, table.to_numpy(), strict=True):
        lines.append([str(name), *("" if pd.isna(value) else f"{value:.3f}" for value in row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _main_methods(results: pd.DataFrame) -> pd.DataFrame:
    """AUROC per set and seed, a column per method, without the other scores of our networks."""
    main = results[~results["method"].str.contains(": ")]
    return main.pivot_table(index=["set", "seed"], columns="method", values="auroc")


def draw_ranks(results: pd.DataFrame, path: Path) -> None:
    """Mean ranks on a line, with the Nemenyi critical difference at 5 % (Demsar 2006, section 3.2.2)."""
    from matplotlib.figure import Figure
    from scipy.stats import studentized_range

    table = _main_methods(results).groupby("set").mean()
    ranks = table.rank(axis=1, ascending=False).mean().sort_values()
    methods, sets = len(ranks), len(table)
    difference = (
        studentized_range.ppf(0.95, methods, np.inf) / np.sqrt(2) * np.sqrt(methods * (methods + 1) / (6 * sets))
    )
    figure = Figure(figsize=(7, 0.36 * methods + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["#d55e00" if name.startswith(OURS) else "#5b6b7a" for name in ranks.index]
    axes.barh(ranks.index, ranks, color=colours, height=0.6)
    axes.axvspan(ranks.iloc[0], ranks.iloc[0] + difference, color="#eef1f4", zorder=0)
    axes.invert_yaxis()
    axes.set_xlabel("mean rank by AUROC; shaded: no significant difference from the first (Nemenyi, 5 %)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of .npz files with X and y")
    parser.add_argument("--protocol", choices=("normal", "contaminated", "missing"), default="normal")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=(*SETTINGS, *PYOD_DETECTORS), metavar="METHOD", help="default: all"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tabular")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.npz"))
    if not files:
        parser.error(f"Got {options.folder}, expected a folder of .npz files with X and y.")
    everybody = {
        "normal": [OURS, *PYOD_DETECTORS],
        "contaminated": [OURS, TOLD, LONGER, *PYOD_DETECTORS],
        "missing": [OURS],
    }
    methods = options.methods or everybody[options.protocol]
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = run(files, options.protocol, options.seeds, methods, options.out / "results.jsonl")
    write_report(results, options.out, options.protocol)
    print(summary(results).round(3).to_string())
    print(f"\nTables and figure in {options.out}")


if __name__ == "__main__":
    main()
