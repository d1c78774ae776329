"""What p-values cannot show, and which rows they do not hold for: said wherever they are read."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from anomalyvae import VAEOutlierDetector, save, score_folder
from anomalyvae.bundle import read_card
from anomalyvae.calibration import caution_of, few_calibrate
from anomalyvae.cli import main
from anomalyvae.recordings import WindowRecipe
from anomalyvae.scoring import Scorer
from anomalyvae.train import train

THREE = "3 groups can show no p-value below 0.25, so 5% false alarms in new groups are not guaranteed"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A model of three groups, and its detector; column b has missing cells in training, a and kind have none."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=90), "b": rng.normal(size=90), "kind": rng.choice(["x", "y"], 90)})
    rows.loc[:9, "b"] = np.nan
    with pytest.warns(UserWarning, match=THREE):
        detector = VAEOutlierDetector(max_epochs=2, hidden=(8,), random_state=0).fit(rows, groups=np.arange(90) % 3)
    return save(detector, tmp_path_factory.mktemp("few") / "bundle"), detector


@pytest.fixture
def gaps():
    cells = {"a": [0.0, np.nan, 0.0, np.nan], "b": [np.nan, 0.0, 0.0, 0.0], "kind": ["x", "x", "y", None]}
    return pd.DataFrame(cells)


def test_the_rate_that_is_supported_begins_at_19():
    assert few_calibrate(19, "groups") is None
    assert few_calibrate(18, "groups").endswith("The guarantee takes 19 groups that are held out.")
    assert few_calibrate(9, "drives").startswith("9 drives can show no p-value below 0.1, so 5% false alarms in new")


@pytest.mark.parametrize(("one", "many"), [("group", "groups"), ("stretch of recordings", "stretches of recordings")])
def test_one_that_calibrates_is_named_in_the_singular(one, many):
    assert few_calibrate(1.2, many).startswith(
        f"1 {one} can show no p-value below 0.45, so 5% false alarms in new {many}"
    )


def test_a_model_of_few_groups_says_so(few):
    bundle, detector = few
    assert Scorer(bundle).caution.startswith(THREE)
    card = read_card(bundle)
    assert caution_of(card) == Scorer(bundle).caution
    assert caution_of(card | {"windowing": None}).startswith("3 groups")
    assert caution_of(card | {"windowing": {"stride_s": 1}}).startswith("3 recordings can show")
    assert caution_of(card | {"training": {}}).startswith("3 rows (or groups) can show")
    assert caution_of(card | {"calibration": {"evidence": 19.0}}) is None
    assert detector.p_values(pd.DataFrame({"a": [1e9], "b": [1e9], "kind": ["x"]})) == pytest.approx(0.25)


def test_new_gaps_are_named_row_by_row(few, gaps):
    bundle, detector = few
    expected = [None, "a", None, "a, kind"]
    assert detector.new_gaps(gaps) == [[], ["a"], [], ["a", "kind"]]
    assert Scorer(bundle).new_gaps(gaps).tolist() == expected
    with pytest.warns(UserWarning, match=r"2 of 4 rows have missing cells .* such as a\. .* not calibrated"):
        Scorer(bundle).p_values(gaps)
    found = Scorer(bundle).score(gaps, ["p_value", "new_gaps"])  # no warning: the caller asks
    assert found["new_gaps"].tolist() == expected
    assert np.isfinite(found["p_value"]).all()


def test_a_matrix_of_several_batches(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[0, 2] = np.nan
    scorer = Scorer(save(VAEOutlierDetector(max_epochs=1, random_state=0).fit(x), tmp_path / "bundle"), threads=2)
    rows = np.zeros((40_000, 3))
    rows[[5, 39_999], 0] = rows[7, 2] = np.nan
    found = scorer.new_gaps(rows)
    assert np.flatnonzero(found != None).tolist() == [5, 39_999]  # noqa: E711
    assert found[5] == "column 0"


def test_score_says_both(few, gaps, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    gaps.to_parquet(tmp_path / "in/rows.parquet")
    assert main(["score", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(few[0])]) == 0
    said = capsys.readouterr().err
    assert THREE in said
    assert "2 rows or windows have missing cells in columns that had none in training" in said
    assert pq.read_table(tmp_path / "out/rows.parquet")["new_gaps"].to_pylist() == [None, "a", None, "a, kind"]
    again = score_folder(few[0], tmp_path / "in", tmp_path / "out")
    assert (again["kept"], again["new_gaps"], again["smallest_p_value"]) == (1, 2, pytest.approx(0.25))
    assert again["caution"].startswith(THREE)
    assert main(["score", str(tmp_path / "in"), str(tmp_path / "one.csv"), "--model", str(few[0])]) == 0
    assert THREE in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "one.csv")["new_gaps"].fillna("").tolist() == ["", "a", "", "a, kind"]


def test_signals_that_a_window_lacks_are_named(tmp_path):
    """A sensor drops out for a whole recording; none did in training."""
    recipe = WindowRecipe(("a", "b"), rate_hz=1, length_s=4, stride_s=4, max_gap_s=2, missing=0.5)

    def write(name, lost=False):
        table = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["a", "b"])
        (tmp_path / name).mkdir()
        table.assign(time_s=np.arange(80.0), b=np.nan if lost else table["b"]).to_csv(tmp_path / name / "drive.csv")

    write("drives")
    write("lost", lost=True)
    detector = VAEOutlierDetector(max_epochs=2, hidden=(8,), random_state=0)
    with pytest.warns(UserWarning, match="can show no p-value"):
        train([tmp_path / "drives" / "drive.csv"], recipe, detector, tmp_path / "model")
    for folder, gaps in (("drives", {None}), ("lost", {"b"})):
        summary = score_folder(tmp_path / "model", tmp_path / folder, tmp_path / "out" / folder)
        found = pq.read_table(tmp_path / "out" / folder / "drive.csv.parquet")["new_gaps"].to_pylist()
        assert (set(found), summary["new_gaps"]) == (gaps, 20 * (folder == "lost"))
