"""Sweeps of beta and of the latent size, and their pictures."""

import sys

import latent_space
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector
from anomalyvae.study import LatentSpace

ONE_NETWORK = {"validation_fraction": 0}


@pytest.fixture(scope="module")
def betas(normal, strange):
    detector = VAEOutlierDetector(latent_dim=4, max_epochs=150, **ONE_NETWORK)
    return latent_space.sweep(detector, "beta", [0.01, 1.0, 100.0], normal, outliers=strange)


@pytest.mark.slow
def test_beta_lowers_kl_at_the_cost_of_reconstruction(betas):
    assert betas["kl"].is_monotonic_decreasing
    assert betas["reconstruction"].is_monotonic_increasing
    assert betas["coverage"].is_monotonic_increasing
    assert betas["elbo"].idxmin() == 1.0
    assert betas["active_units"].iloc[-1] == 0
    assert betas["auroc"].between(0.5, 1).all()


@pytest.mark.slow
def test_a_wider_bottleneck_loses_less_until_all_causes_fit(normal):
    table = latent_space.sweep(VAEOutlierDetector(max_epochs=150, **ONE_NETWORK), "latent_dim", [1, 2, 4], normal)
    loss = table["reconstruction"]
    assert loss[1] - loss[2] > 2 > 0.5 > abs(loss[2] - loss[4])  # the rows have two causes
    assert table["active_units"].tolist() == [1, 2, 2]


def test_a_sweep_repeats_and_measures_held_out_rows(normal, monkeypatch):
    def measures(model, rows, _):
        return {"rows": len(rows), "score": model.anomaly_score(rows).sum()}

    monkeypatch.setattr(latent_space, "measures", measures)
    detector = VAEOutlierDetector(max_epochs=1)
    first, again = (latent_space.sweep(detector, "beta", [1], normal[:240]) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert first.loc[1, "rows"] == 60


def test_without_a_prior_there_is_no_completeness(normal):
    detector = VAEOutlierDetector(objective="reconstruction", max_epochs=3, **ONE_NETWORK)
    table = latent_space.sweep(detector, "latent_dim", [2], normal)
    assert {"reconstruction", "active_units", "detour"} <= {*table}
    assert not {"kl", "plausible", "auroc"} & {*table}
    assert len(latent_space.draw_sweep(table).axes) == 3


@pytest.mark.slow
def test_the_picture_of_a_sweep_has_a_panel_per_measure(betas):
    figure = latent_space.draw_sweep(betas)
    assert len(figure.axes) == 5
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.01", "1", "100"]
    loss = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(loss["kl"], betas["kl"])


def test_the_picture_of_planes_is_written(normal, tmp_path):
    plane = LatentSpace(VAEOutlierDetector(latent_dim=2, random_state=0, max_epochs=10).fit(normal), normal)
    figure = latent_space.draw_planes({"one": plane, "other": plane})
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.savefig(tmp_path / "planes.png")
    assert (tmp_path / "planes.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_script_writes_the_pictures_of_the_documentation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latent_space, "BETAS", (1.0,))
    monkeypatch.setattr(latent_space, "SIZES", (2,))
    monkeypatch.setattr(latent_space, "driving", lambda: pd.DataFrame(np.random.default_rng(0).normal(size=(120, 3))))
    monkeypatch.setattr(sys, "argv", ["latent_space.py", str(tmp_path)])
    latent_space.main()
    assert {path.name for path in tmp_path.iterdir()} == {"latent-planes.png", "latent-beta.png"}
    assert "latent_dim" in capsys.readouterr().out
