"""Tables, and what else tests of exported Pipelines share."""

import re

import numpy as np
import pandas as pd
from sklearn import preprocessing as pre

from anomalyvae import VAEOutlierDetector


def detector(**settings):
    return VAEOutlierDetector(
        **{"random_state": 0, "max_epochs": 2, "validation_fraction": 0.3, "hidden": (8,)} | settings
    )


def named(step):
    """The id of a case: the step without memory addresses, which differ between processes."""
    return re.sub(r" at 0x\w+|\s+", "", repr(step))


def signals(n, seed):
    """Numbers of every size: seconds since 1970, nanovolts, counts, a long tail, a constant."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "time": 1.7e9 + rng.integers(0, 10**6, n),
            "tiny": 1e-9 * rng.standard_normal(n),
            "count": rng.poisson(2, n).astype(float),
            "tail": rng.exponential(3, n) ** 2,
            "still": np.full(n, 3.0),
            "plain": rng.normal(5, 2, n),
        }
    )


def drives(n, seed):
    """A table as it comes: numbers with holes, text, whole numbers, booleans, and a name that says nothing."""
    rng = np.random.default_rng(seed)
    cause = rng.standard_normal((n, 2))
    table = pd.DataFrame(
        {
            "time": 1.7e9 + 1e5 * cause[:, 0],
            "speed": 80 + 20 * cause[:, 0] + cause[:, 1],
            "load": np.exp(cause[:, 1]),
            "gear": rng.integers(1, 6, n),
            "road": np.where(cause[:, 0] > 0, "dry", np.where(rng.random(n) < 0.2, "ice", "wet")),
            "driver": rng.choice(["ann", "bob", "cem"], n),
            "braking": cause[:, 1] > 0,
            "trip": [f"trip {i}" for i in range(n)],
        }
    )
    table.loc[rng.random(n) < 0.1, ["speed", "road"]] = None
    return table


def one_hot(**settings):
    return pre.OneHotEncoder(handle_unknown="ignore", **settings)
