"""Known outliers: similar rows score higher, and normal rows keep their false-alarm rate."""

import numpy as np
import pandas as pd
import pytest
import torch

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.nets.memory import unlike_outliers

SMALL = {"hidden": (32,), "max_epochs": 80, "random_state": 0}


def normal(n, seed):
    """A cloud with a hollow: the first column keeps away from 1.5, and the second follows it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8 * n, 5))
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    return x[np.abs(x[:, 0] - 1.5) > 0.25][:n]


def faults(n, seed):
    """What happens in the hollow, well inside the range of every column."""
    x = 0.5 * np.random.default_rng(seed).normal(size=(n, 5))
    x[:, 0] = np.random.default_rng(seed + 1).uniform(1.4, 1.6, n)
    x[:, 1] = x[:, 0] + 0.2 * x[:, 1]
    return x


@pytest.mark.parametrize(
    ("objective", "criterion"),
    [
        ("elbo", "novelty"),
        ("elbo", "elbo"),
        pytest.param("reconstruction", "reconstruction", marks=pytest.mark.slow),
        pytest.param("reconstruction", "novelty", marks=pytest.mark.slow),
    ],
)
def test_known_outliers_raise_scores_of_similar_rows_without_more_false_alarms(objective, criterion):
    settings = {"objective": objective, "criterion": criterion, "validation_fraction": 0.3}
    x, new, anomalous = normal(600, 0), normal(600, 1), faults(100, 2)
    naive = VAEOutlierDetector(**SMALL, **settings).fit(x)
    informed = VAEOutlierDetector(**SMALL, **settings).fit(x, outliers=faults(60, 3))
    ranks = [(d.p_values(anomalous)).mean() for d in (naive, informed)]
    assert ranks[1] < 0.8 * ranks[0]
    assert (informed.predict(new) == -1).mean() < 0.1


def test_holes_weights_groups_and_a_single_outlier_are_welcome():
    x = normal(300, 0)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    known = np.array([[1.5, np.nan, 0, 0, 0], [np.nan] * 5])
    extra = {"sample_weight": np.arange(300) % 3, "groups": np.arange(300) % 12}
    detector = VAEOutlierDetector(**SMALL | {"max_epochs": 5}).fit(x, outliers=known, **extra)
    assert np.isfinite(detector.anomaly_score(x)).all()
    assert detector.training_["outliers"] == 1


def test_outliers_have_the_categories_of_the_training_rows():
    table = pd.DataFrame(normal(200, 0), columns=list("abcde")).assign(gear=["1", "2"] * 100)
    known = table.head(7).assign(gear="never seen", a=1.5)
    detector = VAEOutlierDetector(**SMALL | {"max_epochs": 5}).fit(table, outliers=known)
    assert detector.categories_ == {"gear": ["1", "2"]}
    with pytest.raises(ValueError, match="feature names"):
        VAEOutlierDetector(**SMALL).fit(table, outliers=known.drop(columns="b"))


def test_outliers_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="infinity"):
        VAEOutlierDetector(**SMALL).fit(normal(50, 0), outliers=[[np.inf, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="5 features"):
        VAEOutlierDetector(**SMALL).fit(normal(50, 0), outliers=[[0.0, 1.0]])


def test_a_bundle_remembers_that_there_were_outliers_but_not_which(tmp_path):
    detector = VAEOutlierDetector(**SMALL | {"max_epochs": 3}).fit(normal(100, 0), outliers=faults(9, 1))
    loaded = load(save(detector, tmp_path / "model"))
    assert loaded.training_ == detector.training_
    assert loaded.training_["outliers"] == 9
    np.testing.assert_array_equal(loaded.anomaly_score(faults(5, 4)), detector.anomaly_score(faults(5, 4)))
    assert "outliers" not in VAEOutlierDetector(**SMALL | {"max_epochs": 1}).fit(normal(100, 0)).training_


def test_rows_closer_to_their_neighbours_than_to_outliers_are_kept():
    line = torch.arange(12.0)[:, None]  # an inner row's five nearest: 1, 1, 2, 2, 3, on average 1.8
    anomalous = torch.tensor([[5.0], [40.0]])
    assert (~unlike_outliers(line, anomalous)).nonzero()[:, 0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("fraction", ["auto", 0.3])
def test_selected_rows_are_never_held_out(fraction):
    selected = np.arange(300) < 60
    detector = VAEOutlierDetector(**SMALL | {"max_epochs": 2}, validation_fraction=fraction)
    detector.fit(normal(300, 0), selected=selected)
    assert len(detector.calibration_.scores) == (240 if fraction == "auto" else 36)


@pytest.mark.slow
def test_selected_rows_are_learned_and_leave_the_threshold_to_the_others():
    """Held out, reviewed flags of high score would raise the threshold above the faults."""
    rng = np.random.default_rng(5)
    tail = np.concatenate([rng.normal(4, 0.7, size=(110, 5)), 3.5 * rng.normal(size=(40, 5))])
    x = np.concatenate([normal(600, 0), tail])
    chosen = np.arange(750) >= 600
    plain, counted, informed = (
        VAEOutlierDetector(**SMALL).fit(x[: 600 + 150 * more], selected=selected)
        for more, selected in ((False, None), (True, None), (True, chosen))
    )
    new = normal(4000, 1)
    flagged = [(detector.predict(new) == -1).mean() for detector in (plain, counted, informed)]
    assert flagged[1] < 0.4 * flagged[0]
    assert abs(flagged[2] - flagged[0]) < 0.012
    assert (informed.predict(tail) == -1).mean() < 0.6 * (plain.predict(tail) == -1).mean()


def test_selected_rows_alone_set_no_threshold():
    with pytest.raises(ValueError, match="all selected, expected others that set the threshold"):
        VAEOutlierDetector(**SMALL).fit(normal(50, 0), selected=np.ones(50, dtype=bool))
    none = VAEOutlierDetector(**SMALL | {"max_epochs": 2}).fit(normal(50, 0), selected=np.zeros(50, dtype=bool))
    assert none.offset_ == VAEOutlierDetector(**SMALL | {"max_epochs": 2}).fit(normal(50, 0)).offset_
