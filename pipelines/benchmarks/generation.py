"""Quality of samples, imputed cells and densities, compared with simple methods.

    python pipelines/benchmarks/generation.py FOLDER             # samples, then imputation, of each table
    python pipelines/benchmarks/generation.py FOLDER --drives    # and of the windows of the pothole drives
    python pipelines/benchmarks/generation.py --density          # log-densities against the known truth

``FOLDER`` holds ``.npz`` files with ``X`` (n, d) and ``y`` (n,), 1 = outlier, such as ADBench's; only normal rows are
used. Half of them (at most 2,500) are learned, a quarter is the test set, and the last quarter shows what real rows
reach. Each of the drives is the test set of a model fitted to the others, without windows near a pothole.

Samples
    ours            ``sample(n)``; and with ``prior="standard"``, from N(0, I)
    gaussian        mean and full covariance
    mixture         of up to twelve Gaussians with full covariances, as many as the BIC asks for
    bootstrap       resampled training rows: as good as real rows by every figure but ``copying``
    real            held-out rows
Imputation
    a fifth of the cells of the test rows is hidden. Root mean squared and mean absolute error of the imputed
    cells in standard deviations of the training rows: ours by ``impute`` and ``reconstruct``, the column means, and
    scikit-learn's IterativeImputer (Bayesian ridge regressions; on tables wider than 40 columns each on 30 of them).
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from ablation import pothole_windows
from numpy.typing import NDArray
from results import made_at, markdown
from scipy.stats import multivariate_normal, norm
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.mixture import GaussianMixture
from tabular import read_table

from anomalyvae import VAEOutlierDetector
from anomalyvae.nets.elbo import Elbo, log_density, sobol_points
from anomalyvae.study import sample_quality

MOST_LEARNED, MOST_JUDGED = 2500, 1000
COMPONENTS = (1, 2, 3, 5, 8, 12)
HIDDEN = 0.2
REPEATS = {3: 50, 30: 20, 300: 4, 3000: 1}  # sets of points over which a bound with so many codes is averaged
Table = NDArray[np.float64]


class Rows(NamedTuple):
    """Rows to learn, rows to test with, and other real rows to compare with (none for a drive)."""

    learned: Table
    judging: Table
    real: Table | None


def table(path: Path, seed: int) -> Rows:
    """Normal rows of a table, in three parts."""
    x, outlier, _ = read_table(path)
    x = np.random.RandomState(seed).permutation(x[~outlier])
    half, quarter = len(x) // 2, len(x) // 4
    return Rows(
        x[:half][:MOST_LEARNED],
        x[half : half + quarter][:MOST_JUDGED],
        x[half + quarter :][: min(quarter, MOST_JUDGED)],
    )


def drives() -> Iterator[tuple[str, Rows]]:
    """Each pothole drive, and the others, without their potholes."""
    x, recording, anomalous = pothole_windows()
    for name in np.unique(recording):
        inside = recording == name
        yield str(name), Rows(x[~inside & ~anomalous][:MOST_LEARNED], x[inside & ~anomalous][:MOST_JUDGED], None)


def best_mixture(x: Table, seed: int) -> GaussianMixture:
    """The mixture with the lowest BIC (Schwarz 1978)."""
    fits = [
        GaussianMixture(k, reg_covar=1e-4, random_state=seed).fit(x) for k in COMPONENTS if k == 1 or 10 * k <= len(x)
    ]
    return min(fits, key=lambda mixture: mixture.bic(x))


def samples_of(given: Rows, detector: VAEOutlierDetector, seed: int) -> dict[str, Table]:
    """Samples of each method, as many as test rows."""
    learned, n, rng = given.learned, len(given.judging), np.random.RandomState(seed)
    center, scale = learned.mean(axis=0), learned.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    standardised = (learned - center) / scale
    gaussian = GaussianMixture(1, reg_covar=1e-6, random_state=seed).fit(standardised)
    samples = {
        "ours": np.asarray(detector.sample(n, random_state=seed)),
        "ours, prior='standard'": np.asarray(detector.sample(n, prior="standard", random_state=seed)),
        "gaussian": gaussian.sample(n)[0] * scale + center,
        "mixture": best_mixture(standardised, seed).sample(n)[0] * scale + center,
        "bootstrap": learned[rng.randint(len(learned), size=n)],
    }
    return samples if given.real is None else samples | {"real": given.real}


def imputation(given: Rows, detector: VAEOutlierDetector, seed: int) -> Iterator[dict[str, float | str]]:
    """Errors of imputed cells, in standard deviations of the training rows."""
    learned, truth = given.learned, given.judging[:500]
    scale = np.where(learned.std(axis=0) > 0, learned.std(axis=0), 1)
    hidden = np.random.RandomState(seed).random_sample(truth.shape) < HIDDEN
    holed = np.where(hidden, np.nan, truth)
    nearest = 30 if learned.shape[1] > 40 else None
    filled = {
        "ours": np.asarray(detector.impute(holed)),
        "ours, reconstruct": np.asarray(detector.reconstruct(holed)),
        "IterativeImputer": IterativeImputer(random_state=seed, n_nearest_features=nearest)
        .fit(learned)
        .transform(holed),
        "column means": np.broadcast_to(learned.mean(axis=0), truth.shape),
    }
    for method, rows in filled.items():
        error = ((rows - truth) / scale)[hidden]
        yield {"method": method, "rmse": float(np.sqrt((error**2).mean())), "mae": float(np.abs(error).mean())}


# Known densities: rows, and their log-densities


def gaussian(rng: np.random.Generator, n: int) -> tuple[Table, Table]:
    """Six columns with two causes, in units from 0.001 to 100."""
    loading = np.random.default_rng(5).normal(size=(2, 6))
    units = 10.0 ** np.arange(-3, 3)
    x = rng.normal(size=(n, 2)) @ loading + 0.3 * rng.normal(size=(n, 6))
    truth = multivariate_normal(cov=loading.T @ loading + 0.09 * np.eye(6)).logpdf(x)
    return x * units, truth - np.log(units).sum()


def mixture(rng: np.random.Generator, n: int) -> tuple[Table, Table]:
    """Three round clouds of different size in four columns."""
    centers = np.array([[-3.0, 0, 0, 0], [3, 2, 0, 1], [0, -3, 2, -1]])
    widths = np.array([0.5, 1.0, 0.7])
    chosen = rng.integers(3, size=n)
    x = centers[chosen] + widths[chosen, None] * rng.normal(size=(n, 4))
    clouds = zip(centers, widths, strict=True)
    return x, np.log(np.mean([multivariate_normal(c, w**2 * np.eye(4)).pdf(x) for c, w in clouds], axis=0))


def curved(rng: np.random.Generator, n: int) -> tuple[Table, Table]:
    """A parabola with noise, and a skewed column that follows it."""
    u = rng.normal(size=n)
    v = u**2 + 0.3 * rng.normal(size=n)
    w = np.exp(0.15 * v + 0.2 * rng.normal(size=n))
    truth = norm.logpdf(u) + norm.logpdf(v, u**2, 0.3) + norm.logpdf(np.log(w), 0.15 * v, 0.2) - np.log(w)
    return np.stack([u, v, w], axis=1), truth


DENSITIES: dict[str, Callable[[np.random.Generator, int], tuple[Table, Table]]] = {
    "gaussian, 6 columns": gaussian,
    "mixture, 4 columns": mixture,
    "curved, 3 columns": curved,
}


def bound(detector: VAEOutlierDetector, x: Table, codes: int) -> float:
    """Mean of `log_density` with a number of codes, averaged over several sets of points if they are few.

    All rows share the points, and so an error that averages over rows do not reduce.
    """
    network = detector.network_
    assert isinstance(network, Elbo)  # noqa: S101
    sets = [sobol_points(codes, network.latent_dim, seed) for seed in range(REPEATS[codes])]
    return float(np.mean([float(log_density(network, torch.from_numpy(x), points).mean()) for points in sets]))


def gaps(seeds: list[int]) -> pd.DataFrame:
    """Mean of the true log-density minus its estimate, in nats per row and in the units of the rows."""
    results = []
    for name, draw in DENSITIES.items():
        test, truth = draw(np.random.default_rng(1), 300)
        for masking in (0.5, 0.0):
            for seed in seeds:
                learned, _ = draw(np.random.default_rng(100 + seed), 4000)
                detector = VAEOutlierDetector(
                    criterion="elbo", validation_fraction=0.2, random_state=seed, masking=masking
                ).fit(learned)
                found = {f"{codes} codes": truth.mean() - bound(detector, test, codes) for codes in REPEATS}
                given = f"{name}, masking={masking}"
                results.append({"density": given, "true mean": truth.mean(), **found})
                print(given, seed, flush=True)
    return pd.DataFrame(results).groupby("density", sort=False).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of .npz files with X and y")
    parser.add_argument("--sets", nargs="+", default=["*"], metavar="PATTERN", help="of their names")
    parser.add_argument("--drives", action="store_true", help="the pothole drives, too")
    parser.add_argument("--density", action="store_true", help="known densities, too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.density:
        print(f"\n{made_at()}, seeds {options.seeds}\n\n{markdown(gaps(options.seeds))}\n", flush=True)
    found = (
        {path for pattern in options.sets for path in options.folder.glob(f"{pattern}.npz")} if options.folder else ()
    )
    quality, filled = [], []
    for seed in options.seeds:
        tasks = [("tables", path.stem, table(path, seed)) for path in sorted(found)]
        tasks += [("drives", *one) for one in drives()] if options.drives else []
        for kind, name, given in tasks:
            print(f"{name}, seed {seed}", flush=True)
            detector = VAEOutlierDetector(random_state=seed, validation_fraction=0.0).fit(given.learned)
            for method, samples in samples_of(given, detector, seed).items():
                figures = sample_quality(samples, given.judging, given.learned, random_state=seed)["value"]
                quality.append({"kind": kind, "set": name, "method": method, **figures})
            filled += [{"kind": kind, "set": name, **one} for one in imputation(given, detector, seed)]
    if not quality:
        return
    print(f"\n{made_at()}, seeds {options.seeds}")
    for kind in dict.fromkeys(one["kind"] for one in quality):
        for title, results in (("samples", quality), ("imputation", filled)):
            frame = pd.DataFrame(results).query("kind == @kind").drop(columns="kind")
            means = frame.drop(columns="set").groupby("method", sort=False).mean()
            print(f"\n## {kind}: {title}\n\n{markdown(means)}")
        for title, results, figure in (("coverage", quality, "coverage"), ("rmse", filled, "rmse")):
            frame = pd.DataFrame(results).query("kind == @kind")
            per_set = frame.pivot_table(index="set", columns="method", values=figure, sort=False)
            print(f"\n### {kind}: {title} per set\n\n{markdown(per_set)}")


if __name__ == "__main__":
    main()
