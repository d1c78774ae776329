"""Recordings whose windows cover few of their seconds are said, with the reason; others are not."""

import re

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe
from anomalyvae.cli import main
from anomalyvae.recordings import read_windows, stream_windows
from anomalyvae.recordings.coverage import sparse_in_words
from anomalyvae.train import train

RECIPE = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)


def drive(folder, name, kept=1.0, seconds=100):
    """A drive of which signal b has values in the first share of its time alone."""
    time_s = np.arange(0, seconds, 0.2)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"time_s": time_s, "a": rng.normal(size=len(time_s)), "b": rng.normal(size=len(time_s))})
    table["b"] = table["b"].where(time_s < kept * seconds)
    path = folder / f"{name}.parquet"
    table.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("rows", [7, 65536])
@pytest.mark.parametrize(
    ("kept", "change", "said"),
    [
        (1.0, {}, None),
        (0.6, {}, None),
        (
            0.2,
            {},
            "cover 20 s of its 99.8 s. Gaps are longer than max_gap_s = 1 s; .* and 'b' has values for about 20 s",
        ),
        (0.2, {"where": "a > -9"}, None),  # a condition leaves some out on purpose
        (0.05, {"where": "a > -9"}, "or a signal is missing. Gaps"),
        (1.0, {"stride_s": 10}, None),
    ],
)
def test_what_is_mostly_left_out_is_said_with_the_reason(tmp_path, rows, kept, change, said):
    path = drive(tmp_path, "d", kept)
    recipe = WindowRecipe(**RECIPE.to_dict() | change)
    whole = read_windows(path, recipe)
    batches = list(stream_windows(path, recipe, rows=rows))
    assert all(not batch.sparse for batch in batches[:-1])
    assert batches[-1].sparse == whole.sparse
    assert sum(map(len, batches)) == len(whole)
    if said is None:
        assert whole.sparse == {}
    else:
        assert re.search(said, whole.sparse["d"])


def test_how_many_there_are_is_said():
    assert sparse_in_words({"a": "Why."}) == "1 recording is mostly without windows, such as a: Why."
    assert sparse_in_words({"a": "Why.", "b": ""}).startswith(
        "2 recordings are mostly without windows, such as a: Why."
    )


@pytest.mark.filterwarnings("ignore:.*groups can show no p-value")
def test_fit_and_score_count_them_also_when_scores_are_kept(tmp_path, capsys):
    (tmp_path / "drives").mkdir()
    paths = [drive(tmp_path / "drives", name, kept) for name, kept in (("d0", 1.0), ("d1", 1.0), ("d2", 0.2))]
    detector = VAEOutlierDetector(random_state=0, max_epochs=1, hidden=(4,))
    with pytest.warns(UserWarning, match=r"1 recording is mostly without windows, such as d2: Its windows cover 20 s"):
        train(paths[:1] + paths[2:], RECIPE, detector, tmp_path / "model")
    for _ in range(2):
        score = ["score", str(tmp_path / "drives"), str(tmp_path / "scores"), "--model", str(tmp_path / "model")]
        assert main(score) == 0
        assert "warning: 1 recording is mostly without windows, such as d2.parquet: Its" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [7, 65536])
def test_infinite_samples_count_as_missing_and_are_named(tmp_path, rows):
    path = drive(tmp_path, "drive")
    table = pd.read_parquet(path)
    table.loc[[3, 40, 300], "b"] = np.inf, -np.inf, np.nan
    table.to_parquet(path, index=False)
    said = r"Recording 'drive' has samples that are infinite, which count as missing: b \(2\)\."
    with pytest.warns(UserWarning, match=said):
        whole = read_windows(path, RECIPE)
    with pytest.warns(UserWarning, match=said) as caught:
        parts = list(stream_windows(path, RECIPE, rows=rows))
    assert len(caught) == 1
    pd.testing.assert_frame_equal(pd.concat([part.rows for part in parts], ignore_index=True), whole.rows)


def test_a_signal_that_is_always_infinite_has_no_value(tmp_path):
    path = drive(tmp_path, "drive")
    pd.read_parquet(path).assign(b=np.inf).to_parquet(path, index=False)
    with pytest.warns(UserWarning, match=r"infinite, which count as missing: b \(500\)"):
        assert read_windows(path, RECIPE).without == {"drive": "It has no window: it has no value of 'b'."}
