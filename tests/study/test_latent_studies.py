"""Studies of beta and of the latent size: what each buys and costs, the same twice; and the pictures of all that."""

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector
from anomalyvae.study.latent import LatentSpace
from anomalyvae.study.pictures import draw_map, draw_path, draw_plane, draw_traversals
from anomalyvae.study.sweeps import sweep_beta, sweep_latent_dim

ONE_NETWORK = {"validation_fraction": 0.2, "patience": 1000}


@pytest.fixture(scope="module")
def betas(normal, strange):
    model = VAEOutlierDetector(latent_dim=4, max_epochs=150, **ONE_NETWORK)
    return sweep_beta(normal, [0.01, 1.0, 100.0], detector=model, outliers=strange)


@pytest.fixture(scope="module")
def plane(normal):
    return LatentSpace(VAEOutlierDetector(latent_dim=2, random_state=0, max_epochs=10).fit(normal), normal)


def test_beta_buys_a_lower_kl_at_the_cost_of_reconstruction(betas):
    table = betas.table
    assert table["kl"].is_monotonic_decreasing
    assert table["reconstruction"].is_monotonic_increasing
    assert table["coverage"].is_monotonic_increasing
    assert table["elbo"].idxmin() == 1.0
    assert table["active_units"].iloc[-1] == 0
    assert table["auroc"].between(0.5, 1).all()
    assert table.index.name == "beta"


def test_held_out_rows_are_held_out_and_measured(betas, normal):
    """The table's figures are those of a quarter of the rows, which none of the detectors has learned."""
    detector = betas.detectors[1.0]
    assert detector.beta == 1.0
    assert detector.training_["rows"] == 450


def test_a_wider_bottleneck_loses_less_until_there_is_nothing_left_to_tell(normal):
    model = VAEOutlierDetector(max_epochs=150, **ONE_NETWORK)
    table = sweep_latent_dim(normal, [1, 2, 4], detector=model).table
    lost = table["reconstruction"]
    assert lost[1] - lost[2] > 2 > 0.5 > abs(lost[2] - lost[4])  # the rows have two causes
    assert table["active_units"].tolist() == [1, 2, 2]


def test_a_study_repeats(normal):
    rows, groups = normal[:240], np.arange(240) // 20
    model = VAEOutlierDetector(max_epochs=3)
    first, again, other = (
        sweep_latent_dim(rows, [2], detector=model, groups=groups, random_state=seed).table for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_without_a_prior_there_is_no_completeness(normal):
    model = VAEOutlierDetector(objective="reconstruction", max_epochs=3, **ONE_NETWORK)
    sweep = sweep_latent_dim(normal, [2], detector=model)
    assert {"reconstruction", "active_units", "detour"} <= {*sweep.table.columns}
    assert not {"kl", "plausible", "auroc"} & {*sweep.table.columns}
    assert len(sweep.plot().axes) == 3
    with pytest.raises(ValueError, match=r"Got objective='reconstruction'.*Pass a detector with 'elbo'"):
        sweep_beta(normal, detector=model)


def test_a_study_of_nothing_is_refused(normal):
    with pytest.raises(ValueError, match="Got no values of latent_dim"):
        sweep_latent_dim(normal, [])


def test_progress_is_told_on_request(normal, capsys):
    sweep_latent_dim(normal[:100], [2], detector=VAEOutlierDetector(max_epochs=1, **ONE_NETWORK), verbose=True)
    assert "latent_dim=2" in capsys.readouterr().out


# Pictures


def test_a_study_is_drawn_panel_by_panel(betas, tmp_path):
    figure = betas.plot()
    assert len(figure.axes) == 5
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.01", "1", "100"]
    loss = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(loss["kl"], betas.table["kl"])


def test_every_picture_can_be_written(plane, normal, strange, tmp_path):
    pictures = [
        draw_plane({"one": plane, "other": plane}),
        draw_traversals(plane, steps=3),
        draw_path(plane, normal.iloc[0], normal.iloc[1]),
        draw_map(
            plane.map("latent"), {"flagged": strange[:9], "new_normal": strange[:2], "mine": normal[:3], "none": []}
        ),
    ]
    for number, picture in enumerate(pictures):
        assert isinstance(picture, matplotlib.figure.Figure)
        picture.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5000


def test_a_path_is_drawn_with_its_scores(plane, normal):
    _, scores = plane.interpolate(normal.iloc[0], normal.iloc[1], steps=41)
    threshold, line, *_ = draw_path(plane, normal.iloc[0], normal.iloc[1]).axes[1].lines
    np.testing.assert_array_equal(line.get_ydata(), scores["anomaly_score"])
    assert threshold.get_ydata()[0] == -plane.detector.offset_


def test_a_plane_is_flat(normal):
    space = LatentSpace(VAEOutlierDetector(latent_dim=3, random_state=0, max_epochs=1).fit(normal), normal)
    with pytest.raises(ValueError, match=r"Got latent_dim=3, expected planes. Fit with latent_dim=2"):
        draw_plane(space)
