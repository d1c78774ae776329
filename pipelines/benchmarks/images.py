"""Anomalous images: one digit is normal and the nine others are anomalous, for each of the ten digits in turn.

    python pipelines/benchmarks/images.py                          # about an hour on one core
    python pipelines/benchmarks/images.py --quick                  # a check with two digits and one seed
    python pipelines/benchmarks/images.py --features               # rows are features of a fixed network
    python pipelines/benchmarks/images.py --picture maps.png       # only a picture of the scores per pixel

The images are scikit-learn's digits: 1,797 of 8 x 8 pixels, divided by 16, the largest value of a pixel.

Protocols
    pixels      learn half of the images of one digit, chosen by the seed (87 to 91); score the other half and all
                images of the other digits (1,614 to 1,623)
    features    a classifier learns the digits 0 to 4 with their labels; its hidden layer turns any image into 64
                numbers. One of the digits 5 to 9 is normal, as above; its other half and the other four are scored.
                The classifier never saw these digits

No detector sees a label. Ours has the settings in a method's name, and else its defaults; its threshold is not used.
Each result is stored at once, so that an interrupted run resumes. To start again, delete its folder.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from results import ROOT, keep, kept_results, made_at, markdown
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.svm import OneClassSVM
from tabular import by_training_rows

from anomalyvae import VAEOutlierDetector
from anomalyvae.metrics import auroc

SHAPE = (1, 8, 8)
KNOWN = 5  # the classifier learns the digits below it
Rows = NDArray[np.float64]
Score = Callable[[Rows], dict[str, Rows]]


class Task(NamedTuple):
    """Rows to learn, rows to score, and which of these are anomalous."""

    learned: Rows
    scored: Rows
    novel: NDArray[np.bool_]


def task(rows: Rows, digits: NDArray[np.int64], normal: int, seed: int) -> Task:
    """Learn half of the rows of a digit; score its other half and all other digits."""
    own = np.random.RandomState(seed).permutation(np.flatnonzero(digits == normal))
    half = len(own) // 2
    scored = np.concatenate([own[half:], np.flatnonzero(digits != normal)])
    return Task(rows[own[:half]], rows[scored], digits[scored] != normal)


def ours(learned: Rows, seed: int, body: str = "mlp", likelihood: str = "auto", objective: str = "elbo") -> Score:
    """Our detector: its default score, and the density score of its objective."""
    shape = SHAPE if body == "conv2d" else None
    detector = VAEOutlierDetector(
        body=body,
        input_shape=shape,
        likelihood=likelihood,
        objective=objective,
        validation_fraction=0,
        random_state=seed,
    ).fit(learned)

    def score(rows: Rows) -> dict[str, Rows]:
        terms = detector.score_terms(rows)
        return {"": terms["novelty"].to_numpy()} | {
            f": {name}": terms[name].to_numpy() for name in ("elbo", "energy") if name in terms
        }

    return score


def pca(learned: Rows, seed: int) -> Score:
    """Squared reconstruction error with the components that explain 90 % of the variance."""
    components = PCA(0.9).fit(learned)
    return lambda rows: {"": np.square(rows - components.inverse_transform(components.transform(rows))).sum(axis=1)}


def ocsvm(learned: Rows, seed: int, nu: float = 0.5) -> Score:
    """The one-class support vector machine; scikit-learn's default takes half of the training rows for outliers."""
    machine = OneClassSVM(nu=nu).fit(learned)
    return lambda rows: {"": -machine.score_samples(rows)}


def knn(learned: Rows, seed: int) -> Score:
    """Mean distance to the five nearest."""
    neighbours = NearestNeighbors(n_neighbors=5).fit(learned)
    return lambda rows: {"": neighbours.kneighbors(rows)[0].mean(axis=1)}


def standardised(method: Callable[[Rows, int], Score]) -> Callable[[Rows, int], Score]:
    """A method on columns that are standardised by the training rows."""

    def fit(learned: Rows, seed: int) -> Score:
        score = method(by_training_rows(learned, learned), seed)
        return lambda rows: score(by_training_rows(rows, learned))

    return fit


PEERS: dict[str, Callable[[Rows, int], Score]] = {
    "pca": pca,
    "ocsvm": ocsvm,
    "ocsvm, nu=0.05": partial(ocsvm, nu=0.05),
    "knn": knn,
}
METHODS: dict[str, Callable[[Rows, int], Score]] = {
    **PEERS,
    **{f"{name}, standardised": standardised(method) for name, method in PEERS.items()},
    "anomalyvae": ours,
    **{
        f"anomalyvae, {body}, {likelihood}": partial(ours, body=body, likelihood=likelihood)
        for body in ("mlp", "conv2d")
        for likelihood in ("isotropic", "gaussian", "bernoulli")
    },
    "anomalyvae, mlp, isotropic, adversarial": partial(ours, likelihood="isotropic", objective="adversarial"),
}
FEATURES: dict[str, Callable[[Rows, int], Score]] = {
    **PEERS,
    "anomalyvae": ours,
    "anomalyvae, isotropic": partial(ours, likelihood="isotropic"),
}


def features(images: Rows, digits: NDArray[np.int64]) -> dict[str, Rows]:
    """Three ways to turn images into rows: pixels, the classifier's hidden layer, the same with random weights."""
    known = digits < KNOWN
    classifier = MLPClassifier((64,), max_iter=300, random_state=0).fit(images[known], digits[known])
    untaught = np.random.RandomState(0).standard_normal((images.shape[1], 64)) / 8
    hidden = images @ classifier.coefs_[0] + classifier.intercepts_[0]
    return {
        "pixels": images,
        "learned features": np.maximum(hidden, 0),
        "random features": np.maximum(images @ untaught, 0),
    }


def run(
    kinds: dict[str, Rows], digits: NDArray[np.int64], normal: list[int], seeds: list[int], methods: list[str],
    table: dict[str, Callable[[Rows, int], Score]], store: Path,
) -> pd.DataFrame:  # fmt: skip
    """Compute the results that are not stored yet, and return all."""
    store.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["rows"], r["digit"], r["seed"], r["asked"]) for r in kept_results(store)}
    todo = [(kind, digit, seed, name) for name in methods for kind in kinds for seed in seeds for digit in normal]
    todo = [one for one in todo if one not in done]
    for number, (kind, digit, seed, name) in enumerate(todo, start=1):
        print(f"{number}/{len(todo)} {kind}, digit {digit}, seed {seed}, {name}", flush=True)
        given = task(kinds[kind], digits, digit, seed)
        scores = table[name](given.learned, seed)(given.scored)
        asked = {"rows": kind, "digit": digit, "seed": seed, "asked": name}
        keep(store, [asked | {"method": name + term, "auroc": auroc(given.novel, s)} for term, s in scores.items()])
    results = pd.DataFrame(kept_results(store))
    return results[results["asked"].isin(methods) & results["seed"].isin(seeds) & results["digit"].isin(normal)]


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """A row per method: the mean AUROC, the minimum over the digits, and the AUROC of each digit."""
    per_digit = results.pivot_table(index="method", columns=["rows", "digit"], values="auroc")
    kinds = {f"{kind}: mean": per_digit[kind].mean(axis=1) for kind in results["rows"].unique()}
    kinds |= {f"{kind}: hardest": per_digit[kind].min(axis=1) for kind in results["rows"].unique()}
    return pd.DataFrame(kinds).sort_values(next(iter(kinds)), ascending=False)


def draw_maps(images: Rows, digits: NDArray[np.int64], path: Path) -> None:
    """Draw images, their reconstruction by a detector of one digit, and the score of each pixel."""
    from matplotlib.figure import Figure

    given = task(images, digits, 3, 0)
    detector = VAEOutlierDetector(likelihood="isotropic", body="conv2d", input_shape=SHAPE, random_state=0)
    detector.fit(given.learned)
    others = [np.flatnonzero(digits == digit)[0] for digit in (8, 9, 5, 2, 1)]
    rows = np.concatenate([given.scored[:2], images[others]])
    pixels = np.asarray(detector.feature_scores(rows)).reshape(-1, *SHAPE)  # (n, channels, height, width)
    panels = [rows.reshape(-1, *SHAPE), np.asarray(detector.reconstruct(rows)).reshape(-1, *SHAPE), pixels]
    figure = Figure(figsize=(1.3 * len(rows), 4.3), layout="constrained")
    axes = figure.subplots(3, len(rows))
    limits = [(0, 1, "gray"), (0, 1, "gray"), (float(pixels.min()), float(np.quantile(pixels, 0.995)), "inferno")]
    for line, panel, (low, high, colours) in zip(axes, panels, limits, strict=True):
        for one, image in zip(line, panel, strict=True):
            one.imshow(image[0], vmin=low, vmax=high, cmap=colours)
            one.set(xticks=[], yticks=[])
    for one, p in zip(axes[0], detector.p_values(rows), strict=True):
        one.set_title(f"p = {p:.2f}", fontsize=9)
    for line, label in zip(axes, ("image", "reconstruction", "score per pixel"), strict=True):
        line[0].set_ylabel(label)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", choices=range(10), help="normal digits (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS | FEATURES, metavar="METHOD", help="default: all")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    if options.picture:
        return draw_maps(images, digits, options.picture)
    if options.quick:
        options.digits, options.seeds, options.out = [6, 8], [0], options.out / "quick"
    table, kinds, normal, known = METHODS, {"pixels": images}, range(10), digits
    if options.features:
        unseen = digits >= KNOWN
        kinds = {name: rows[unseen] for name, rows in features(images, digits).items()}
        table, normal, known, options.out = FEATURES, range(KNOWN, 10), digits[unseen], options.out / "features"
    wanted = [digit for digit in normal if digit in (options.digits or normal)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = options.methods or list(table)
        results = run(kinds, known, wanted, options.seeds, methods, table, options.out / "results.jsonl")
    means = summary(results)
    text = f"# Digits\n\n{made_at()}, normal {wanted}, seeds {options.seeds}.\n\n{markdown(means)}\n"
    (options.out / "images.md").write_text(text, encoding="utf-8")
    print(means.round(4).to_string())
    print(f"\nEach result in {options.out / 'results.jsonl'}")
    return None


if __name__ == "__main__":
    main()
