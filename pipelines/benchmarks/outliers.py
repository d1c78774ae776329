"""Detection of outliers if some other outliers are known: with and without ``fit(X, outliers=...)``.

    python pipelines/benchmarks/outliers.py FOLDER            # ADBench's tables; with --drives also the pothole drives

Tables: learn half of the normal rows (at most 1,500) with half of the outliers as known ones, and score the rest.
Drives: learn the other drives without their potholes, with the windows of these potholes as known outliers, and
score each drive. ``memory alone`` and ``push alone`` each leave out one of the two effects of known outliers.
``false`` and ``found`` are the shares of normal and of anomalous rows beyond the detector's own threshold.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from ablation import pothole_windows
from numpy.typing import NDArray
from results import markdown
from tabular import read_table

from anomalyvae import VAEOutlierDetector, metrics
from anomalyvae.nets import reconstruction

MOST_ROWS = 1500
VARIANTS: dict[str, dict[str, Any] | None] = {
    "not given": None,
    "given": {},
    "memory alone": {"_PUSH": 0.0},
    "push alone": {"unlike_outliers": lambda u, outliers: torch.ones(len(u), dtype=torch.bool)},
}


class Task(NamedTuple):
    """Training rows with their groups, known outliers, rows to score, and which of these are outliers."""

    learned: NDArray[np.float64]
    groups: NDArray[Any] | None
    known: NDArray[np.float64]
    scored: NDArray[np.float64]
    outlier: NDArray[np.bool_]


def table(path: Path, seed: int) -> Task:
    """A task of a table: half of its normal rows to learn, half of its outliers as known ones."""
    x, outlier, _ = read_table(path)
    rng = np.random.RandomState(seed)
    normal, anomalous = (rng.permutation(np.flatnonzero(mask)) for mask in (~outlier, outlier))
    half, known = len(normal) // 2, len(anomalous) // 2
    rest = np.concatenate([normal[half:], anomalous[known:]])
    return Task(x[normal[:half][:MOST_ROWS]], None, x[anomalous[:known]], x[rest], outlier[rest])


def drives() -> Iterator[tuple[str, Task]]:
    """One task per pothole drive: score it, learn the others."""
    x, recording, anomalous = pothole_windows()
    for name in np.unique(recording):
        inside = recording == name
        normal = ~inside & ~anomalous
        yield name, Task(x[normal], recording[normal], x[~inside & anomalous], x[inside], anomalous[inside])


def figures(given: Task, seed: int, variant: str, score: str) -> dict[str, float]:
    """Fit a variant and measure it."""
    changed = VARIANTS[variant]
    detector = VAEOutlierDetector(random_state=seed, criterion=score)
    with patch.multiple(reconstruction, **changed or {"_PUSH": reconstruction._PUSH}):
        detector.fit(given.learned, groups=given.groups, outliers=None if changed is None else given.known)
    anomaly_score = detector.anomaly_score(given.scored)
    flagged = anomaly_score > -detector.offset_
    return {
        "auroc": metrics.auroc(given.outlier, anomaly_score),
        "ap": metrics.average_precision(given.outlier, anomaly_score),
        "false": float(flagged[~given.outlier].mean()),
        "found": float(flagged[given.outlier].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of .npz files with X and y")
    parser.add_argument("--sets", nargs="+", default=["*"], metavar="PATTERN", help="patterns of table names")
    parser.add_argument("--drives", action="store_true", help="also use the pothole drives")
    parser.add_argument("--scores", nargs="+", default=["novelty", "elbo"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    files = sorted({path for pattern in options.sets for path in options.folder.glob(f"{pattern}.npz")})
    results = []
    for seed in options.seeds:
        tasks = [("tables", path.stem, table(path, seed)) for path in files]
        tasks += [("drives", *one) for one in drives()] if options.drives else []
        for kind, name, given in tasks:
            for score in options.scores:
                for variant in VARIANTS if score == "novelty" else ("not given", "given"):
                    found = figures(given, seed, variant, score)
                    print(f"{name}, seed {seed}, {score}, {variant}: AP {found['ap']:.3f}", flush=True)
                    results.append({"on": f"{kind}, criterion='{score}', {variant}", **found})
    print(f"\n{markdown(pd.DataFrame(results).groupby('on', sort=False).mean())}")


if __name__ == "__main__":
    main()
