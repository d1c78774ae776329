"""Scores that change with each verdict at once, without a fit, and the queue in their order."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist, pdist
from scipy.stats import rankdata

TRUST = 0.3  # of the first scores, before any verdict
_TRUST_SPREAD = 0.2  # variance of that trust: verdicts teach how far the first scores may be believed
_LEAST_TRUST = 0.1  # few normal rows among the highest scores must not turn the order of all others around
_RATE_SPREAD = 0.3  # variance of a constant: verdicts teach how frequent anomalies are among the rows asked
_NOISE = 0.1  # variance of a verdict
_TREES, _TREE_ROWS = 100, 256
_LEAVES, _RANKS = 0.7, 0.3  # parts of the two ways in which rows are alike
_REFERENCE = 300  # rows whose median distance is the unit

ANOMALOUS = {"fault": True, "new_normal": False, "noise": False}
"""What a verdict says of events that are like its own; ``unsure`` says nothing."""

Floats = NDArray[np.float64]


class VerdictScores:
    """Rank rows by their first scores and by the verdicts on rows that are like them.

    A Gaussian process (Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, equation 2.25): a
    confirmed anomaly is +1, a row that was found normal is -1, and the prior mean is 0.3 times the first score, as a
    rank in nats from -1 to 1. Two rows are alike if they share the leaves of random trees (as in an isolation forest;
    Liu et al. 2008; leaves of less depth count more), and if they have near ranks in each column. A further part, the
    product of two first scores, lets verdicts change the trust in these.

    Parameters
    ----------
    scores : array-like of shape (n,)
        First anomaly scores; only their order counts.
    features : array-like of shape (n, k)
        What rows are compared by, such as standardised rows or latent codes, without missing values.
    random_state : int, default=0
        Seeds the trees.
    """

    def __init__(self, scores: ArrayLike, features: ArrayLike, *, random_state: int = 0) -> None:
        first, rows = np.asarray(scores, dtype=np.float64), np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or first.shape != (len(rows),) or not np.isfinite(rows).all():
            raise ValueError(
                f"Got scores of shape {first.shape} and features of shape {rows.shape}, expected (n,) and (n, k) "
                "without missing values. Pass a row of finite features per score."
            )
        rng = np.random.default_rng(random_state)
        self._prior = _in_nats(first)
        self._ranks = _ranks(rows) if rows.size else rows
        self._unit = _unit(self._ranks[rng.permutation(len(rows))[:_REFERENCE]])
        self._leaf, self._depth = _leaves(rows, random_state)
        self._known: dict[int, Floats] = {}

    def __call__(self, rows: ArrayLike, anomalous: ArrayLike) -> Floats:
        """The scores ``(n,)`` after verdicts on some rows, by position: whether each is an anomaly.

        Without verdicts, they have the order of the first scores. From 1 (like confirmed anomalies) to -1, roughly.
        """
        indices, said = np.asarray(rows, dtype=np.intp), np.asarray(anomalous, dtype=bool)
        if indices.shape != said.shape or indices.ndim != 1:
            raise ValueError(
                f"Got {indices.size} rows and {said.size} verdicts, expected a verdict per row. Pass both in one order."
            )
        if not len(indices):
            return TRUST * self._prior
        new = np.array([index for index in dict.fromkeys(indices.tolist()) if index not in self._known], dtype=np.intp)
        self._known.update(zip(new.tolist(), self._alike(new).T, strict=True))
        columns, first = [self._known[index] for index in indices.tolist()], self._prior[indices]
        shared = _TRUST_SPREAD * np.outer(first, first) + _RATE_SPREAD  # what all rows have in common
        factor = cho_factor(np.array([column[indices] for column in columns]) + shared + _NOISE * np.eye(len(indices)))
        weights = cho_solve(factor, np.where(said, 1.0, -1.0) - TRUST * first)
        scores = max(TRUST + _TRUST_SPREAD * float(first @ weights), _LEAST_TRUST) * self._prior
        for column, weight in zip(columns, weights, strict=True):
            scores += weight * column
        return scores

    def _alike(self, indices: NDArray[np.intp]) -> Floats:
        """How alike all rows and some are, ``(n, m)``."""
        alike = _RANKS * np.exp(-cdist(self._ranks, self._ranks[indices], "cityblock") / self._unit)
        for column, index in enumerate(indices):
            shared = self._leaf == self._leaf[index]
            alike[:, column] += _LEAVES * np.where(shared, self._depth, 0.0) @ self._depth[index]
        return alike


class QueueOrder:
    """Put the open events of a queue in an order in which all its verdicts take part.

    The open events of a model exchange their places in the queue, by `VerdictScores` of their latent codes and of the
    shares of the signals behind their scores. Scores, p-values and flags stay, and so do the places of reviewed events
    and of those of other models. Events are prepared once; a further verdict costs a fraction of that.
    """

    def __init__(self) -> None:
        self._prepared: dict[str, tuple[list[str], VerdictScores | None]] = {}

    def __call__(self, events: pd.DataFrame) -> tuple[NDArray[np.intp], int]:
        """The order of events, as positions, and how many verdicts changed it.

        ``events`` are all events of a queue, as `Queue.events` gives them.
        """
        order, counted = np.arange(len(events)), 0
        said = events["verdict"].map(ANOMALOUS).to_numpy(dtype=object)
        judged, waiting = ~pd.isna(said), events["verdict"].isna().to_numpy()
        for model_id in events["model_id"].unique():
            own = np.flatnonzero(events["model_id"] == model_id)
            reviewed, free = own[judged[own]], own[waiting[own]]
            if not len(reviewed) or len(free) < 2:
                continue
            ranking = self._of(model_id, events.iloc[own])
            if ranking is not None:
                scores = ranking(np.searchsorted(own, reviewed), said[reviewed].astype(bool))
                order[free] = free[np.argsort(-scores[np.searchsorted(own, free)], kind="stable")]
                counted += len(reviewed)
        return order, counted

    def prepare(self, events: pd.DataFrame) -> None:
        """Prepare all events of a queue before the first verdict."""
        for model_id, own in events.groupby("model_id", sort=False):
            if len(own) > 1:
                self._of(str(model_id), own)

    def _of(self, model_id: str, events: pd.DataFrame) -> VerdictScores | None:
        """The scores of a model's events before any verdict, prepared again when events were added.

        None if they cannot be compared, as in a queue that was edited.
        """
        names = events["event_id"].tolist()
        if self._prepared.get(model_id, ([], None))[0] != names:
            features = _features(events)
            self._prepared[model_id] = (
                names, None if features is None else VerdictScores(-np.arange(len(names)), features)
            )  # fmt: skip
        return self._prepared[model_id][1]


def _features(events: pd.DataFrame) -> Floats | None:
    """Latent codes and shares of signals; None if the codes have not one size, or are not finite."""
    codes = [np.asarray(code, dtype=np.float64) for code in events["latent"]]
    if len({code.shape for code in codes}) > 1 or not np.isfinite(codes).all():
        return None
    column_of = {name: i for i, name in enumerate(sorted({name for names in events["signals"] for name in names}))}
    shares = np.zeros((len(events), len(column_of)))
    for row, names, parts in zip(shares, events["signals"], events["shares"], strict=True):
        row[[column_of[name] for name in names[: len(parts)]]] = parts[: len(names)]
    return np.column_stack([np.array(codes), shares])


def _in_nats(scores: Floats) -> Floats:
    """Minus the log share of rows that score higher, from -1 to 1."""
    if not len(scores):
        return scores
    nats = -np.log(1 - _ranks(scores) * len(scores) / (len(scores) + 1))
    return np.asarray(2 * nats / max(float(nats.max()), 1e-9) - 1)


def _ranks(values: Floats) -> Floats:
    """The middle of the share of values, of each column, below and up to each."""
    return np.asarray((2 * rankdata(values, axis=0) - 1) / (2 * len(values)))


def _unit(rows: Floats) -> float:
    """The median city-block distance between rows; 1 if there is none."""
    distances = pdist(rows, "cityblock")
    return float(np.median(distances)) or 1.0 if len(distances) else 1.0


def _leaves(rows: Floats, random_state: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The leaf of each row in each tree, and its weight: the inverse of its depth, scaled to a mean square of 1."""
    if not rows.size:
        return np.empty((len(rows), 1), np.int16), np.zeros((len(rows), 1), np.float32)
    from sklearn.ensemble import IsolationForest

    sample = min(_TREE_ROWS, max(len(rows) // 4, 2))  # so that a leaf of a short queue holds some rows, too
    forest = IsolationForest(n_estimators=_TREES, max_samples=sample, random_state=random_state).fit(rows)
    cells = rows.astype(np.float32)
    leaf = np.empty((len(rows), _TREES), np.int16)
    weight = np.empty((len(rows), _TREES), np.float32)
    for number, tree in enumerate(each.tree_ for each in forest.estimators_):
        leaf[:, number] = tree.apply(cells)
        weight[:, number] = (1 / tree.compute_node_depths())[leaf[:, number]]
    return leaf, weight / np.sqrt(np.square(weight).sum(axis=1).mean())
