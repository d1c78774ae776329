"""Unbalanced data sets: whether the audit finds the rare group, and whether its weights close the gap.

    python pipelines/benchmarks/audit.py FOLDER          # of ADBench's .npz files; half an hour of one core

In each set, one group of normal rows is reduced to 3 % of the training rows, but not among the test rows:
gravel roads among simulated drives (2 s windows as they are, or mean, standard deviation and range of each signal),
the smaller of two clusters (k-means) of three ADBench sets, one of eight digits.
A detector learns the training rows without weights and with those of `anomalyvae.audit`, which does not see the
groups; with ``--all``, also with those of the debiasing VAE (a product of histograms of the latent units), and with
weights that know the groups and balance them: the best that can be reached. Columns: the false-alarm rates of the
others and of the rare group and the recall of outliers, at the detector's own threshold, and (``at .05``) at the
threshold that 5 % of the others pass, which separates the effect of the threshold from that of learning.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from results import ROOT, made_at, markdown
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.preprocessing import scale
from tabular import read_table

from anomalyvae import VAEOutlierDetector, metrics
from anomalyvae.audit import audit
from anomalyvae.audit.regions import effective_rows
from anomalyvae.datasets import load_recipe

THINNED = 0.03
MOST_ROWS = 7000  # normal rows of a set
CLUSTERED = ("28_pendigits", "19_landsat", "2_annthyroid")
IMU = ["acc_x_g", "acc_y_g", "acc_z_g", "gyro_x_radps", "gyro_y_radps", "gyro_z_radps"]
SAMPLES = 20  # of a window, 2 s
WEIGHTS = ("as they are", "audit", "histograms", "groups known")
GAP = 0.02  # a gap below this is none that could be closed

Floats = NDArray[np.float64]


class Task(NamedTuple):
    """Rows to learn and rows to score, each ``(n, d)``; which are of the rare group, and which are anomalous."""

    learned: Floats
    rare: NDArray[np.bool_]
    normal: Floats
    normal_rare: NDArray[np.bool_]
    anomalous: Floats


def unbalanced(normal: Floats, group: NDArray[np.bool_], anomalous: Floats, rng: np.random.Generator) -> Task:
    """Half of the normal rows to learn, of the group only so many that they make 3 % of them."""
    learned = rng.random(len(normal)) < 0.5
    many, few = np.flatnonzero(learned & ~group), np.flatnonzero(learned & group)
    kept = np.concatenate([many, few[: max(10, round(THINNED / (1 - THINNED) * len(many)))]])
    return Task(normal[kept], group[kept], normal[~learned], group[~learned], anomalous)


def clustered(path: Path, seed: int) -> Task:
    """An ADBench set, whose group is the smaller of two clusters."""
    x, outlier, _ = read_table(path)
    rng = np.random.default_rng(seed)
    normal = rng.permutation(x[~outlier])[:MOST_ROWS]
    cluster = KMeans(2, n_init=10, random_state=0).fit_predict(scale(normal))
    return unbalanced(normal, cluster == np.bincount(cluster).argmin(), x[outlier], rng)


def digits(seed: int) -> Task:
    """The digits 0 to 7, one of them rare; 8 and 9 are anomalous."""
    x, digit = load_digits(return_X_y=True)
    normal = digit < 8
    return unbalanced(x[normal], digit[normal] == seed % 8, x[~normal], np.random.default_rng(seed))


def drives(seed: int, summarised: bool) -> Task:
    """Windows of simulated drives on paved roads, a few of them on gravel; windows with an event are anomalous."""
    form = _summaries if summarised else _windows
    simulate = load_recipe("simulated").simulate_drive
    plain, kind, anomalous = [], [], []
    for number in range(24):
        gravel = number % 2 == 1
        rough = 3.0 if gravel else 1.0
        signals, _ = simulate(seed=(seed, number), roughness=rough)
        plain.append(form(signals))
        kind.append(np.full(len(plain[-1]), gravel))
        if number < 6:
            counts = {"pothole": 12, "hard_brake": 2, "swerve": 2}
            signals, events = simulate(seed=(seed, 100 + number), roughness=rough, events=counts)
            hit = np.unique((events["time_s"] / 2).astype(int))
            anomalous.append(form(signals)[hit[hit < len(signals) // SAMPLES]])
    return unbalanced(
        np.concatenate(plain), np.concatenate(kind), np.concatenate(anomalous), np.random.default_rng(seed)
    )


def _windows(signals: pd.DataFrame) -> Floats:
    """Windows that do not overlap, each a row of its signals one after the other."""
    count = len(signals) // SAMPLES
    cells = signals[IMU].to_numpy()[: count * SAMPLES].reshape(count, SAMPLES, len(IMU))
    return cells.transpose(0, 2, 1).reshape(count, -1)


def _summaries(signals: pd.DataFrame) -> Floats:
    """The mean, standard deviation and range of each signal in each window."""
    x = _windows(signals).reshape(-1, len(IMU), SAMPLES)
    return np.concatenate([x.mean(axis=2), x.std(axis=2), np.ptp(x, axis=2)], axis=1)


def histogram_density(codes: ArrayLike, *, bins: int = 10, alpha: float = 0.01) -> Floats:
    """The density of the debiasing VAE, relative to the median row: a product of histograms, one per latent unit.

    Parameters
    ----------
    codes : array-like of shape (n, latent_dim)
    bins : int, default=10
    alpha : float, default=0.01
        Added to each density: the larger, the nearer to 1 is the result.

    Returns
    -------
    ndarray of shape (n,)
        ``prod_i (Q_i(z_i) + alpha)``, with Q_i the histogram of latent unit i (Amini et al. 2019, Uncovering and
        Mitigating Algorithmic Bias through Learned Latent Structure, doi 10.1145/3306618.3314243, equation 5).
    """
    logs = np.zeros(len(np.asarray(codes)))
    for unit in np.asarray(codes, dtype=np.float64).T:
        height, edges = np.histogram(unit, bins=bins, density=True)
        logs += np.log(height[np.clip(np.searchsorted(edges, unit, side="right") - 1, 0, bins - 1)] + alpha)
    return np.exp(np.clip(logs - np.median(logs), -700, 700))


def results_of(given: Task, seed: int, fitted: Sequence[str]) -> Iterator[dict[str, float | str]]:
    """What becomes of a task under each kind of weights."""
    first = VAEOutlierDetector(random_state=seed, validation_fraction=0.0).fit(given.learned)
    found = audit(given.learned, first, random_state=seed)
    sparse = found.regions[found.regions["kind"] == "sparse"]
    share = {number: given.rare[found.region == number].mean() for number in sparse.index}
    named = next((place for place, number in enumerate(share, start=1) if share[number] > 0.5), np.nan)
    rare = given.rare.mean()
    sparsity = 1 / histogram_density(first.embed(given.learned))
    weights = (
        np.ones(len(given.learned)),
        found.weights.to_numpy(),
        sparsity / sparsity.mean(),  # the bare inverse of a density, as the debiasing VAE has it
        np.where(given.rare, 0.5 / rare, 0.5 / (1 - rare)),
    )
    for name, weight in zip(WEIGHTS, weights, strict=True):
        row: dict[str, float | str] = {
            "weights": name,
            "weight of rare": float(weight[given.rare].sum() / weight.sum()),
            "effective rows": effective_rows(weight) / len(weight),
            "rank of region": float(named) if name == "audit" else np.nan,
        }
        if name not in fitted:
            yield row
            continue
        model = VAEOutlierDetector(random_state=seed).fit(given.learned, sample_weight=weight)
        false = model.predict(given.normal) == -1
        score = model.anomaly_score(np.concatenate([given.normal, given.anomalous]))
        line = np.quantile(score[: len(given.normal)][~given.normal_rare], 0.95)
        label = np.repeat([False, True], [len(given.normal), len(given.anomalous)])
        yield row | {
            "others": float(false[~given.normal_rare].mean()),
            "rare": float(false[given.normal_rare].mean()),
            "recall": float((model.predict(given.anomalous) == -1).mean()),
            "auroc": metrics.auroc(label, score),
            "rare at .05": float((score[: len(given.normal)][given.normal_rare] > line).mean()),
            "recall at .05": float((score[len(given.normal) :] > line).mean()),
        }


def recovered(results: pd.DataFrame) -> pd.DataFrame:
    """Share of the gap that weights close, by set and in all, with the 95 % interval over seeds (bootstrap).

    The gap is the false-alarm rate of the rare group minus that of the others. The gap that the weights leave counts by
    its absolute value. Sets whose mean gap is below .02 have none to close.
    """
    gaps = results.assign(gap=results["rare"] - results["others"]).pivot_table(
        index=["set", "seed"], columns="weights", values="gap", sort=False
    )
    before, name = gaps.pop("as they are"), gaps.index.get_level_values("set")
    wide = (before.groupby("set").transform("mean") >= GAP).to_numpy()
    parts = {"in all": wide} | {one: wide & (name == one) for one in name.unique()}
    rows = [
        {"weights": weights, "set": label, **_closed(before[part].to_numpy(), left[part].to_numpy(), name[part])}
        for weights, left in gaps.abs().items()
        for label, part in parts.items()
        if part.any()
    ]
    return pd.DataFrame(rows)


def _closed(before: Floats, left: Floats, name: pd.Index) -> dict[str, float]:
    """The share of the gaps that is closed; seeds are redrawn within each set."""
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(name == one) for one in name.unique()]
    drawn = np.concatenate([rng.choice(place, (2000, len(place))) for place in places], axis=1)
    low, high = np.percentile(1 - left[drawn].sum(axis=1) / before[drawn].sum(axis=1), [2.5, 97.5])
    return {"closed": 1 - left.sum() / before.sum(), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of .npz files with X and y")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--all", action="store_true", help="learn with all four kinds of weights")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "audit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[int], Task]] = {
        "drives, summarised": partial(drives, summarised=True),
        "drives, as they are": partial(drives, summarised=False),
        "digits": digits,
    }
    makers |= {name: partial(clustered, options.folder / f"{name}.npz") for name in CLUSTERED}
    fitted = (*WEIGHTS[:2], *(WEIGHTS[2:] if options.all else ()))
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        for name, make in makers.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results += [{"set": name, "seed": seed, **row} for row in results_of(make(seed), seed, fitted)]
            pd.DataFrame(results).to_csv(options.out / "results.csv", index=False)
            print(pd.DataFrame(results[-4:]).round(3).to_string(index=False, header=len(results) == 4), flush=True)
    table = pd.DataFrame(results)
    means = table.drop(columns="seed").groupby(["set", "weights"], sort=False).mean()
    means.index = [f"{name}: {weights}" for name, weights in means.index]
    closed = recovered(table)
    text = [f"# Unbalanced sets\n\n{made_at()}, seeds {options.seeds}.", markdown(means), "## Share of the gap closed"]
    text.append(markdown(closed.set_index(closed.pop("weights") + ", " + closed.pop("set"))))
    (options.out / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(text[1:]))


if __name__ == "__main__":
    main()
