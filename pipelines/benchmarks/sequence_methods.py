"""The methods that `sequences.py` compares: windows to learn -> windows to score -> their scores.

Every method has the same settings on all sets. `OURS` is the detector as `anomalyvae fit` makes it of recordings, with
no settings at all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from anomalyvae import VAEOutlierDetector
from anomalyvae.evaluate.baselines import BASELINES, ONE_LINERS
from anomalyvae.pyod_adapter import OURS, pyod_detector
from anomalyvae.recordings.dct import cosines

SETTINGS: dict[str, Any] = {"masking": 0.0, "scaling": "standard", "validation_fraction": 0.0}
LINEAR: dict[str, Any] = {"hidden": ()}  # code and reconstruction are linear: a factor analysis
COEFFICIENTS = 3
STEPS = 1000

Array = NDArray[np.float64]  # windows: (n, signals, samples); scores: (n,)
Scores = dict[str, Array]
Fit = Callable[[Array, int], Callable[[Array], Scores]]


def raw(windows: Array) -> Array:
    """Windows as they are, a row each."""
    return windows.reshape(len(windows), -1)


def shape(windows: Array) -> Array:
    """Level, slope and bend of each signal of a window, as `WindowRecipe` with ``coefficients=3`` gives them.

    Windows of few recordings are few rows for many columns, most of them noise; this keeps what moves slowly.
    """
    return raw(windows @ cosines(windows.shape[2], COEFFICIENTS).T)


def by_default(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """Our detector of windows, without settings."""
    detector = VAEOutlierDetector(input_shape=learned.shape[1:], random_state=seed).fit(raw(learned))
    return lambda windows: {OURS: -detector.score_samples(raw(windows))}


def ours(name: str, rows: Callable[[Array], Array], **changed: Any) -> Fit:
    """Our detector with each of its scores that rank."""

    def fit(learned: Array, seed: int) -> Callable[[Array], Scores]:
        detector = VAEOutlierDetector(random_state=seed, **SETTINGS | changed).fit(rows(learned))

        def score(windows: Array) -> Scores:
            terms = detector.score_terms(rows(windows))
            density = "elbo" if "elbo" in terms else "energy"
            return {name: terms["novelty"].to_numpy(), f"{name}: {density}": terms[density].to_numpy()}

        return score

    return fit


def plain(name: str, rows: Callable[[Array], Array]) -> Fit:
    """One of `anomalyvae.evaluate.baselines`."""
    label = name if rows is raw else f"{name}, shape"
    return lambda learned, seed: lambda windows: {label: BASELINES[name](rows(learned), rows(windows))}


def one_liner(name: str) -> Fit:
    """One of `anomalyvae.evaluate.baselines` that see samples."""
    return lambda learned, seed: lambda windows: {name: ONE_LINERS[name](learned, windows)}


def target(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """The norm of the target signal alone; see `TARGETED`."""
    return lambda windows: {"target signal": BASELINES["row_norm"](raw(learned), raw(windows))}


def lagged(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """Mahalanobis distance over the last five samples of a window."""

    def lags(windows: Array) -> Array:
        return raw(windows[:, :, -5:])

    return lambda windows: {"mahalanobis, 5 lags": BASELINES["mahalanobis"](lags(learned), lags(windows))}


def iforest(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """PyOD's isolation forest with its defaults."""
    detector = pyod_detector("iforest", seed).fit(raw(learned))
    return lambda windows: {"iforest": detector.anomaly_score(raw(windows))}


def kmeans(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """KMeansAD of the TSB-AD benchmark: distance from the nearest of 20 centres, signals in their own units."""
    model = KMeans(n_clusters=20, n_init=1, random_state=seed).fit(raw(learned))
    return lambda windows: {"kmeans": model.transform(raw(windows)).min(axis=1)}


def matrix_profile(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """Distance from the nearest training window, each signal of a window standardised by itself (an AB join).

    This is the definition of the matrix profile, and it ignores the size of a movement. Quiet windows get high scores:
    standardised noise is far from everything (De Paepe, Janssens & Van Hoecke 2019, Eliminating noise in the matrix
    profile), while large movements are smooth and similar.
    """

    def standardised(windows: Array) -> Array:
        spread = windows.std(axis=2, keepdims=True)
        return raw((windows - windows.mean(axis=2, keepdims=True)) / np.where(spread > 1e-9, spread, 1))

    nearest = NearestNeighbors(n_neighbors=1).fit(standardised(learned))
    return lambda windows: {"matrix profile": nearest.kneighbors(standardised(windows))[0][:, 0]}


def plain_profile(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """The matrix profile with signals in standard deviations of the training part (AAMP, Akbarinia & Cloez 2019)."""
    center, spread = learned.mean(axis=(0, 2)), learned.std(axis=(0, 2))

    def scaled(windows: Array) -> Array:
        return raw((windows - center[:, None]) / np.where(spread > 0, spread, 1)[:, None])

    nearest = NearestNeighbors(n_neighbors=1).fit(scaled(learned))
    return lambda windows: {"matrix profile, plain": nearest.kneighbors(scaled(windows))[0][:, 0]}


def lstm(learned: Array, seed: int) -> Callable[[Array], Scores]:
    """PyOD's LSTMAD: Mahalanobis distance between the last sample of a window and its prediction."""
    from pyod.models.ts_lstm import LSTMAD

    center, scale = learned.mean(axis=(0, 2)), learned.std(axis=(0, 2))

    def pairs(windows: Array) -> tuple[Array, Array]:
        steps = ((windows.transpose(0, 2, 1) - center) / np.where(scale > 0, scale, 1)).copy()
        return steps[:, :-1], steps[:, -1]

    inputs, targets = pairs(learned)
    model = LSTMAD(window_size=inputs.shape[1], epochs=-(-STEPS * 32 // len(inputs)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model._train_model(inputs, targets, inputs.shape[2])
    _, mean, inverse = model._mahalanobis_scores(targets - model._predict_model(network, inputs))

    def score(windows: Array) -> Scores:
        inputs, targets = pairs(windows)
        error = targets - model._predict_model(network, inputs) - mean
        return {"lstm (PyOD)": ((error @ inverse) * error).sum(axis=1)}

    return score


METHODS: dict[str, Fit] = {
    OURS: by_default,
    "shape": ours(f"{OURS}, shape", shape),
    "linear": ours(f"{OURS}, linear shape", shape, **LINEAR),
    "linear-raw": ours(f"{OURS}, linear", raw, **LINEAR),
    "adversarial": ours(f"{OURS}, adversarial shape", shape, objective="adversarial"),
    "mlp": ours(f"{OURS}, mlp", raw),
    **{name: plain(name, raw) for name in BASELINES},
    **{f"{name}-shape": plain(name, shape) for name in BASELINES},
    **{name: one_liner(name) for name in ONE_LINERS},
    "target": target,
    "lagged": lagged,
    "iforest": iforest,
    "kmeans": kmeans,
    "matrix_profile": matrix_profile,
    "plain_profile": plain_profile,
    "lstm": lstm,
}
OWN = (OURS, "shape", "linear", "linear-raw", "adversarial", "mlp")
SLOW = ("lstm",)
SEEDLESS = {*BASELINES, *(f"{name}-shape" for name in BASELINES), *ONE_LINERS, "target", "lagged", "matrix_profile"}
SEEDLESS |= {"plain_profile"}
TARGETED = ("target",)  # they see the target signal alone, on sets that have one
QUICK = [OURS, "shape", "linear", "row_norm", "row_norm-shape", "knn", "knn-shape", "mahalanobis", "lagged", "kmeans"]
QUICK += [*ONE_LINERS, "target"]
