"""False and true discoveries of `outliers_among`, on simulated tables, and on those of tabular.py.

Run::

    python pipelines/benchmarks/discoveries.py [FOLDER]    # or: make bench-discoveries

The folder holds the collections of tabular.py, with protocol `contaminated`. There, ``false`` counts all rows without
the label of an outlier, also those that are unusual in another way than the label means.

Each kind of table is made clean, and with a twentieth of its rows six standard deviations away from the mean in every
column, in a random direction. ``clean tables`` is the share of clean tables in which a row is called an outlier. With
outliers, ``false`` is the share of the rows called outliers that are normal, on average over tables (5 % is the
target), and ``found`` is the share of the outliers that are called so.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tabular import sources, task

from anomalyvae import VAEOutlierDetector

Floats = NDArray[np.float64]
SIZES = ((50, 3), (200, 5), (1000, 5), (1000, 20), (3000, 3))  # rows, columns
OUTLIERS, AWAY = 0.05, 6.0


def clusters(rng: np.random.Generator, n: int, d: int) -> Floats:
    return 4 * rng.normal(size=(5, d))[rng.integers(5, size=n)] + rng.normal(size=(n, d))


def uneven(rng: np.random.Generator, n: int, d: int) -> Floats:
    """A large cluster, and two small ones of other widths."""
    kind = rng.choice(3, size=n, p=[0.85, 0.1, 0.05])
    return np.array([0.0, 6, 12])[kind][:, None] + np.array([1, 2, 0.3])[kind][:, None] * rng.normal(size=(n, d))


TABLES: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "Gaussian": lambda rng, n, d: rng.normal(size=(n, d)) @ rng.normal(size=(d, d)),
    "t, 5 degrees": lambda rng, n, d: rng.standard_t(5, size=(n, d)),
    "t, 3 degrees": lambda rng, n, d: rng.standard_t(3, size=(n, d)),
    "lognormal": lambda rng, n, d: rng.lognormal(size=(n, d)),
    "uniform": lambda rng, n, d: rng.uniform(size=(n, d)),
    "two factors": lambda rng, n, d: rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + 0.1 * rng.normal(size=(n, d)),
    "five clusters": clusters,
    "uneven clusters": uneven,
    "counts": lambda rng, n, d: rng.poisson(2, size=(n, d)).astype(float),
    "binary": lambda rng, n, d: (rng.uniform(size=(n, d)) < rng.uniform(0.02, 0.98, size=d)).astype(float),
}


def called(rows: Floats) -> NDArray[np.bool_]:
    """The rows that are called outliers."""
    detector = VAEOutlierDetector(random_state=0, validation_fraction=0)  # without a threshold, which is not used
    with warnings.catch_warnings(action="ignore"):  # about the threshold
        return detector.fit(rows).outliers_among(rows)["outlier"].to_numpy()


def figures(kind: str, tables: int) -> dict[str, float | str]:
    """The three figures of a kind of table, over all sizes and so many tables of each."""
    clean, false, found = [], [], []
    for n, d in SIZES:
        for seed in range(tables):
            rng = np.random.default_rng(seed)
            rows = TABLES[kind](rng, n, d)
            clean.append(called(rows).any())
            count = max(2, round(OUTLIERS * n))
            rows[:count] = rows.mean(axis=0) + AWAY * rows.std(axis=0) * rng.choice([-1, 1], size=(count, d))
            outlier = called(rows)
            false.append(outlier[count:].sum() / max(outlier.sum(), 1))
            found.append(outlier[:count].mean())
    return {
        "table": kind, "clean tables": float(np.mean(clean)), "false": float(np.mean(false)),
        "found": float(np.mean(found)),
    }  # fmt: skip


def of_collection(folder: Path, collection: str) -> dict[str, float | str]:
    """Two of the figures, over the tables of a collection."""
    false, found = [], []
    for source in sources(folder, [collection]):
        _, rows, is_outlier = task(source.path, "contaminated", 0)
        outlier = called(rows)
        false.append((outlier & ~is_outlier).sum() / max(outlier.sum(), 1))
        found.append((outlier & is_outlier).sum() / max(is_outlier.sum(), 1))
    return {"table": collection, "false": float(np.mean(false)), "found": float(np.mean(found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of adbench, oddbench and others; see tabular.py")
    parser.add_argument("--collections", nargs="+", default=["adbench", "oddbench"], metavar="NAME")
    parser.add_argument("--tables", type=int, default=8, help="tables of each kind and size (default: 8)")
    options = parser.parse_args()
    if options.folder is not None:
        found = [of_collection(options.folder, name) for name in options.collections]
        print(pd.DataFrame(found).round(3).to_string(index=False), flush=True)
    lines = []
    for kind in TABLES:
        lines.append(figures(kind, options.tables))
        print(f"{kind} done", flush=True)
    table = pd.DataFrame(lines)
    mean = {"table": "all", **table.drop(columns="table").mean().to_dict()}
    print(pd.concat([table, pd.DataFrame([mean])]).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
