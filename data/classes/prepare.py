"""The tables that scikit-learn contains, with each class in turn as the outliers.

Written are ``digits-0.npz`` and so on with ``X`` (rows, columns) and ``y`` (1: of the class that is unknown), and
``one_unit`` where all columns have one unit, as pixels have. They are not recordings.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

ABOUT = {
    "what": "18 tables of scikit-learn, in which one class is unknown; rows, not recordings",
    "licence": "BSD-3-Clause (scikit-learn); the data: CC BY 4.0",
    "source": "scikit-learn, no download",
    "size_mb": 0.9,
}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    for load in (load_breast_cancer, load_digits, load_iris, load_wine):
        x, kind = load(return_X_y=True)
        name = load.__name__.removeprefix("load_")
        unit = {"one_unit": True} if load is load_digits else {}
        for unknown in np.unique(kind):
            np.savez_compressed(folder / f"{name}-{unknown}.npz", X=x, y=kind == unknown, **unit)
