"""The audit of a data set: sparse regions get larger weights, duplicates and leaks are found, groups compared."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.pipeline import make_pipeline

from anomalyvae import VAEOutlierDetector, metrics, save
from anomalyvae.audit import as_html, as_markdown, as_text, audit
from anomalyvae.audit.duplicates import Duplicates, standardised
from anomalyvae.audit.groups import group_figures, held_out_excess, wilson
from anomalyvae.audit.regions import (
    describe_regions,
    distinguishing_columns,
    effective_rows,
    inverse_density_weights,
    neighbour_density,
)
from anomalyvae.audit.report import _groups
from anomalyvae.cli import main
from anomalyvae.nets.memory import sample_by_weight

RECIPE = VAEOutlierDetector(random_state=0, max_epochs=15, hidden=(16,), latent_dim=2)
NAMES = ["speed", "load", "heat", "noise"]


def towns(city, rural, seed):
    """Rows of two kinds, each with two hidden causes of its own."""
    causes = np.random.default_rng(0)
    mixing, centre = causes.normal(size=(2, 2, 4)), np.array([[0.0, 0, 0, 0], [0, 2, 3, 0]])
    rng = np.random.default_rng(seed)
    parts = [
        centre[kind] + rng.normal(size=(count, 2)) @ mixing[kind] + 0.2 * rng.normal(size=(count, 4))
        for kind, count in enumerate((city, rural))
    ]
    table = pd.DataFrame(np.concatenate(parts), columns=NAMES)
    return table.assign(place=np.repeat(["city", "rural"], [city, rural]))


@pytest.fixture(scope="module")
def lopsided():
    return towns(490, 30, seed=1)


def test_rows_of_any_kind_are_audited_alike(lopsided):
    few = lopsided[NAMES][-60:].reset_index(drop=True)
    few.loc[7, "load"] = np.nan
    model = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)).fit(few)
    expected = audit(few, model)
    pd.testing.assert_series_equal(audit(pa.Table.from_pandas(few), model).density, expected.density)
    array = few.to_numpy()
    masked = np.ma.array(np.nan_to_num(array, nan=9.0), mask=np.isnan(array))
    model = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)).fit(array)
    pd.testing.assert_series_equal(audit(masked, model).density, audit(array, model).density)


@pytest.mark.parametrize("made_of", [lambda x: x.map(Decimal), lambda x: x.to_numpy(object), lambda x: x * 2.0**600])
def test_numbers_of_any_type_and_size_are_audited_as_numbers(made_of, lopsided):
    """Decimals were levels of a category, and rows of huge numbers counted as duplicates of each other."""
    few = lopsided[NAMES][-60:].reset_index(drop=True).set_axis([*"0123"], axis=1)
    model = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,))
    plain, other = audit(few, model), audit(made_of(few), model)
    pd.testing.assert_frame_equal(other.columns, plain.columns)
    pd.testing.assert_frame_equal(other.duplicates, plain.duplicates)


def test_rows_of_long_doubles_are_searched_for_duplicates():
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.longdouble)
    x[9] = x[4]
    found = audit(x, VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)))
    assert found.duplicates[["row", "duplicate_of", "kind"]].to_numpy().tolist() == [[9, 4, "exact"]]


def test_rows_keep_names_of_several_levels():
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"])
    x.iloc[9] = x.iloc[4]
    x.index = pd.MultiIndex.from_product([["mon", "tue"], range(20)])
    tables = audit(x, VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,))).tables()
    assert tables["rows"]["row"].tolist() == x.index.tolist()
    assert tables["duplicates"].iloc[0][["row", "duplicate_of"]].tolist() == [("mon", 9), ("mon", 4)]


def test_a_column_may_have_the_name_of_missing_cells():
    table = pd.DataFrame({"a": [1.0, np.nan, 2.0, 3.0], "a missing": [5.0, 6.0, 7.0, 9.0], "b": [1.0, 2.0, 3.0, 4.0]})
    cells = standardised(table)
    assert list(cells) == ["a", "a missing", "a missing", "b"]
    assert set(np.sign(cells.iloc[:, 1])) == {-1.0, 1.0}
    assert distinguishing_columns(np.array([1, 1, 2, 2]), cells).shape == (6, 4)


@pytest.fixture(scope="module")
def found(lopsided):
    return audit(lopsided, RECIPE, group="place", reweighted=True)


# Density and weights


def test_a_sparse_group_has_a_low_density_and_an_outlier_does_not():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(600, 3)), rng.normal(size=(20, 3)) + 15, [[-25.0, -25.0, -25.0]]])
    density = neighbour_density(points)
    assert np.median(density[600:620]) < 0.1
    assert density[620] > 3 * np.median(density[600:620])


def test_density_counts_rows_that_are_there_several_times():
    points = np.random.default_rng(0).normal(size=(300, 2))
    east = points[:, 0] > 0
    density = neighbour_density(points)
    thick = neighbour_density(np.concatenate([points, points[east], points[east]]))[:300]
    ratio = (thick / density)[np.abs(points[:, 0]) > 1]
    side = east[np.abs(points[:, 0]) > 1]
    assert np.median(ratio[side]) / np.median(ratio[~side]) == pytest.approx(3, rel=0.05)


def test_density_of_uniform_points_is_even_in_any_dimension():
    for width in (1, 3):
        density = neighbour_density(np.random.default_rng(0).uniform(size=(2000, width)))
        assert np.quantile(density, 0.9) / np.quantile(density, 0.1) < 3


def test_weights_are_even_bounded_and_inverse():
    density = np.exp(np.random.default_rng(0).normal(0, 5, size=500))
    weight = inverse_density_weights(density, bound=10)
    assert weight.mean() == pytest.approx(1)
    assert weight.max() / weight.min() <= 100 * (1 + 1e-9)
    assert (np.diff(weight[np.argsort(density)]) <= 0).all()
    assert len(np.unique(weight[density < np.median(density)])) > 200  # few are clipped
    assert (inverse_density_weights(density, bound=1) == 1).all()
    assert effective_rows([1, 1, 1, 0]) == pytest.approx(3)
    with pytest.raises(ValueError, match=r"bound=0.5 is below 1. Pass"):
        inverse_density_weights(density, bound=0.5)


def test_the_memory_is_drawn_by_weight_and_as_before_without():
    def draw(weight, seed):
        return sample_by_weight(torch.from_numpy(weight), 20, torch.Generator().manual_seed(seed))[0]

    even = np.full(200, 2.0)
    assert torch.equal(draw(even, 7), torch.randperm(200, generator=torch.Generator().manual_seed(7))[:20])
    assert torch.equal(draw(even[:15], 7), torch.randperm(15, generator=torch.Generator().manual_seed(7)))
    heavy = np.where(np.arange(200) < 20, 9.0, 1.0)  # as heavy together as all others
    share = np.mean([(draw(heavy, seed) < 20).double().mean().item() for seed in range(200)])
    assert 0.35 < share < 0.5  # half of the first draw, less as they run out
    assert len(draw(heavy, 0).unique()) == 20


# Regions


def test_the_rare_group_is_found(found, lopsided):
    sparsest = found.regions[found.regions["kind"] == "sparse"].iloc[0]
    assert (sparsest["group"], sparsest["group_share"]) == ("rural", 1.0)
    assert lopsided["place"][sparsest["medoid"]] == "rural"
    differing = found.columns[found.columns["region"] == sparsest.name]
    assert {"load", "heat"} & set(differing["column"][:2])
    assert (differing["direction"] == np.where(differing["difference"] > 0, "higher", "lower")).all()
    assert found.regions["rows"].sum() == len(lopsided)
    assert (found.region.value_counts().sort_index() == found.regions["rows"].sort_index()).all()


def test_weights_follow_the_index_and_favour_the_rare_group(lopsided):
    labelled = lopsided.set_axis([f"r{i}" for i in range(len(lopsided))], axis=0).drop(columns="place")
    first, second = (audit(labelled, RECIPE) for _ in range(2))
    pd.testing.assert_series_equal(first.weights, second.weights)
    assert first.weights.index.equals(labelled.index)
    assert first.weights[490:].mean() > 3 * first.weights[:490].mean()
    assert first.groups is first.leaks is first.reweighted is None


def test_weights_close_most_of_the_gap(found):
    def gap(figures):
        rate = figures[figures["figure"] == "alarm rate"].set_index("group")["value"]
        return rate["rural"] - rate["city"]

    assert gap(found.groups) > 0.15
    assert abs(gap(found.reweighted)) < 0.5 * gap(found.groups)


def test_a_group_is_learned_only_if_asked(lopsided):
    copied = lopsided[440:].copy()
    copied.loc[519, NAMES] = copied.loc[440, NAMES]  # equal but for the place
    assert audit(copied, RECIPE, split="place").duplicates["kind"].tolist() == ["exact"]
    assert audit(copied, RECIPE, split=copied["place"]).duplicates.empty


# Outliers


def test_outliers_are_named_most_anomalous_first(lopsided):
    spoiled = lopsided[NAMES].rename(index="row {}".format)
    spoiled.loc[["row 3", "row 40"]] = [[9.0] * len(NAMES), [-30.0] * len(NAMES)]
    found = audit(spoiled, RECIPE).outliers
    assert found["row"].tolist()[:2] == ["row 40", "row 3"]
    assert audit(spoiled[:19], RECIPE).outliers is None


# Duplicates and leaks


def duplicates_of(table):
    return Duplicates.of(table, standardised(table))


def test_equal_and_nearly_equal_rows_are_found_and_no_others():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(400, 4)), columns=NAMES)
    table["heat"] = table["heat"].mask(np.arange(400) % 10 == 0)
    table["kind"] = np.where(np.arange(400) % 2, "a", "b")
    assert duplicates_of(table).within().empty
    table.loc[30] = table.loc[10]  # one cell of both is missing
    table.iloc[31, :4] = table.iloc[11, :4].to_numpy() + 1e-4
    table.iloc[32, :4] = table.iloc[13, :4]  # of the other kind
    pairs = duplicates_of(table).within()
    assert pairs[["row", "duplicate_of", "kind"]].to_numpy().tolist() == [[30, 10, "exact"], [31, 11, "near"]]
    assert 0 < pairs["distance"][1] < 0.01


def test_leaks_are_duplicates_across_the_split():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 4)), columns=NAMES)
    split = pd.Series(np.where(np.arange(300) < 200, "train", "test"))
    table.loc[[250, 20]] = table.loc[[10, 10]].to_numpy()  # one on the other side, one on the same
    table.loc[251] = table.loc[11] + 1e-4
    leaks = duplicates_of(table).across(split)
    test = leaks[leaks["split"] == "test"]
    assert test[["row", "duplicate_of", "kind", "duplicate_split"]].to_numpy().tolist() == [
        [250, 10, "exact", "train"],
        [251, 11, "near", "train"],
    ]
    assert set(leaks["row"][leaks["split"] == "train"]) == {10, 11, 20}


def test_recordings_in_several_parts_are_named(lopsided):
    given = {"split": np.where(np.arange(520) < 300, "train", "test"), "recording": np.arange(520) // 80}
    shared = audit(lopsided.drop(columns="place"), RECIPE, **given).shared_recordings
    assert shared.to_numpy().tolist() == [["3", "test, train"]]


# Groups


def test_intervals_are_the_published_ones():
    group = pd.Series(np.repeat(["a", "b"], [70, 80]))
    alarm = np.concatenate([np.arange(70) < 56, np.arange(80) < 48])
    figures = group_figures(np.where(alarm, 1.0, -1.0), group).set_index("group").loc["a"]
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II: 56/70 against 48/80, method 10
    assert figures["difference"] == pytest.approx(0.2)
    assert figures["difference_low"] == pytest.approx(0.0524, abs=5e-5)
    assert figures["difference_high"] == pytest.approx(0.3339, abs=5e-5)
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # there, part one, table I


def test_intervals_are_wider_if_alarms_cluster_in_recordings():
    group = pd.Series(np.repeat(["a", "b"], 200))
    recording = pd.Series(np.arange(400) // 20)
    bursts = np.where(recording % 5 == 0, 1.0, -1.0)

    def width(excess, **known):
        figures = group_figures(excess, group, **known).iloc[0]
        return figures["high"] - figures["low"]

    assert width(bursts, recording=recording) > 2 * width(bursts)
    assert width(-np.ones(400), recording=recording) > 2 * width(-np.ones(400))  # not one alarm in ten recordings


def test_quality_by_group_is_that_of_its_rows(monkeypatch):
    monkeypatch.setattr("anomalyvae.audit.groups._RESAMPLES", 50)
    rng = np.random.default_rng(0)
    group, outlier = pd.Series(np.repeat(["a", "b"], 150)), np.arange(300) % 3 == 0
    excess = rng.normal(size=300) + np.where(outlier, np.repeat([3.0, 0.0], 150), 0)
    figures = group_figures(excess, group, outlier=outlier).set_index(["figure", "group"])
    for name, inside in (("a", slice(0, 150)), ("b", slice(150, 300))):
        auroc = figures.loc["auroc", name]
        assert auroc["value"] == metrics.auroc(outlier[inside], excess[inside])
        assert auroc["low"] < auroc["value"] < auroc["high"]
    assert figures.loc[("auroc", "a"), "difference_low"] > 0.2
    assert figures.loc[("recall", "b"), "rows"] == 50
    assert figures.loc[("false alarm rate", "b"), "value"] == (excess[150:][~outlier[150:]] > 0).mean()


def test_rows_are_scored_by_detectors_fitted_without_them(lopsided, monkeypatch):
    learned = []

    def spy(self, X, y=None, sample_weight=None, groups=None):
        learned.append((set(X.index), sample_weight, groups))
        return self

    monkeypatch.setattr(VAEOutlierDetector, "fit", spy)
    monkeypatch.setattr(VAEOutlierDetector, "decision_function", lambda self, X: -np.asarray(X.index, dtype=float))
    recording, outlier, weight = pd.Series(np.arange(520) // 40), np.arange(520) % 7 == 0, np.arange(520.0)
    excess = held_out_excess(lopsided, RECIPE, outlier=outlier, recording=recording, weight=weight)
    np.testing.assert_array_equal(excess, np.arange(520))
    for rows, weights, groups in learned:
        held_out = set(range(520)) - rows - set(np.flatnonzero(outlier))
        assert rows.isdisjoint(np.flatnonzero(outlier))
        assert set(recording[list(rows)]).isdisjoint(recording[list(held_out)])
        assert sorted(weights) == sorted(rows)
        assert set(groups) == set(recording[list(rows)])
    assert len(learned) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"group": "town"}, r"group='town' is no column of X, which has speed, .*place. Correct the name."),
        ({"y": "speed"}, r"The labels are .*, expected 0 and 1 \(or False and True\). Pass labels == VALUE"),
        ({"reweighted": True}, r"reweighted=True compares groups, and no group was given. Pass group."),
        ({"group": np.zeros(520)}, r"All rows are in one group, '0'. Leave group out"),
        (
            {"group": "place", "recording": np.arange(520) // 260},
            r"Got 2 recordings; .* needs at least 3. Leave group out, or pass more.",
        ),
        ({"split": np.zeros(3)}, r"Got split of shape \(3,\) for 520 rows, expected a value per row, or the name"),
        ({"group": 3}, r"Got group of shape \(\) for 520 rows, expected a value per row, or the name of a column"),
        ({"y": ["0", "1"] * 260}, r"The labels are '0', '1', expected 0 and 1"),
        ({"y": np.ones(520)}, r"The labels leave 0 normal rows to learn, expected at least 2. Correct y."),
        ({"regions": 0}, r"Got regions=0, expected an integer of at least 1. Leave it out"),
        ({"bound": 0.5}, r"bound=0.5 is below 1"),
        ({"detector": make_pipeline(RECIPE)}, r"Got a Pipeline, expected a VAEOutlierDetector.*take the last step"),
    ],
)
def test_errors_say_what_to_do(lopsided, arguments, said):
    with pytest.raises(ValueError, match=said):
        audit(lopsided if "y" not in arguments else lopsided.drop(columns="place"), **{"detector": RECIPE} | arguments)


# The report


def test_the_report_escapes_its_cells(found):
    table = found.groups.replace({"rural": "<script>|"})
    changed = type(found)(**{**found.__dict__, "groups": table})
    assert "rural: alarm rate" in as_text(found)
    assert "<script>" not in as_html(changed)
    assert "&lt;script&gt;" in as_html(changed)
    assert r"| &lt;script>\| | alarm rate" in as_markdown(changed)


@pytest.fixture(scope="module")
def rows_csv(lopsided, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "rows.csv"
    lopsided.to_csv(path, index=False)
    return path


SETTINGS = ["--set", "max_epochs=2", "--set", "hidden=[8]"]


def run(capsys, *arguments):
    code = main(["audit", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_command_prints_and_writes(rows_csv, tmp_path, capsys):
    weights, out = tmp_path / "weights.csv", tmp_path / "audit"
    code, said, _ = run(
        capsys, rows_csv, "--label", "place", "--positive", "rural", "--weights", weights, "--out", out, *SETTINGS
    )
    assert code == 0
    assert "REGIONS" in said
    assert "DUPLICATES" in said
    written = pd.read_csv(weights)
    assert list(written) == ["row", "sample_weight"]
    assert written["sample_weight"].mean() == pytest.approx(1)
    assert {path.name for path in out.iterdir()} == {
        "regions.csv", "columns.csv", "rows.csv", "outliers.csv", "duplicates.csv", "report.md"
    }  # fmt: skip
    assert len(pd.read_csv(out / "rows.csv")) == 520
    assert "place" not in (out / "columns.csv").read_text()


def test_the_command_uses_a_model(rows_csv, lopsided, tmp_path, capsys):
    save(RECIPE.__sklearn_clone__().set_params(max_epochs=2).fit(lopsided[NAMES[:3]]), tmp_path / "model")
    code, said, _ = run(
        capsys, rows_csv, "--model", tmp_path / "model", "--split", "place", "--out", tmp_path / "report.html"
    )
    assert code == 0
    assert "LEAKS" in said
    assert "noise" not in said  # which the model has not learned
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_whole_numbers_of_a_file_are_named_as_they_are_written(lopsided, tmp_path, capsys):
    """They are read as 0.0 and 2.0."""
    table = lopsided[NAMES].assign(fault=np.where(np.arange(520) % 40, 0, 2), site=np.arange(520) % 2 + 7)
    table.loc[5:20, "site"] = np.nan
    table.to_csv(tmp_path / "rows.csv", index=False, float_format="%g")
    options = ["--label", "fault", "--positive", "2", "--group", "site"]
    code, said, _ = run(capsys, tmp_path / "rows.csv", *options, *SETTINGS)
    assert code == 0
    assert {line.split()[0] for line in said.splitlines() if " recall " in line} == {"(missing)", "7", "8"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "town"], "has no column town. Use one of speed, load, heat, noise"),
        (["--out", "audit.pdf"], "audit.pdf is neither a folder nor an .html or .md file. Rename it."),
        (
            ["--label", "place", "--positive", "sea"],
            "Column place has no value sea (--positive). Use one of city, rural.",
        ),
        (["--positive", "sea"], "--positive is given without --label."),
        (["--weights", "weights.txt"], "weights.txt is not a .parquet or .csv file. Rename it."),
    ],
)
def test_errors_of_the_command(rows_csv, capsys, arguments, said):
    code, _, error = run(capsys, rows_csv, *arguments, *SETTINGS)
    assert code == 1
    assert said in error


def test_noise_is_no_finding():
    """Groups drawn by lot: of many comparisons some intervals exclude no difference by chance, and none is called."""
    rng = np.random.default_rng(0)
    called = single = 0
    for seed in range(20):
        group = pd.Series(rng.integers(12, size=1200).astype(str))
        excess = np.where(rng.random(1200) < 0.1, 1.0, -1.0)
        figures = group_figures(excess, group, seed=seed)
        single += int(((figures["difference_low"] > 0) | (figures["difference_high"] < 0)).any())
        called += "No group differs" not in _groups("Groups", figures).text
    assert single >= 5
    assert called <= 3
    figures = group_figures(np.where(group == "3", 1.0, excess), group)
    assert "3: alarm rate 1.000" in _groups("Groups", figures).text


def test_a_region_is_sparse_only_if_its_interval_says_so():
    """Twelve rows with weights about 2, which chance explains, and 200 rows whose weights are above 2."""
    rng = np.random.default_rng(1)
    region = np.repeat([0, 1, 2], [500, 12, 200])
    weight = np.concatenate([np.full(500, 0.7), rng.choice([0.2, 4.5], size=12), rng.normal(3, 0.5, size=200)])
    weight[500:512] += 2.2 - weight[500:512].mean()
    described = describe_regions(region, rng.normal(size=(712, 2)), 1 / weight.clip(0.1), weight)
    assert described["kind"].to_dict() == {0: "", 1: "", 2: "sparse"}


def test_the_report_says_what_it_is_about():
    rng = np.random.default_rng(0)
    found = audit(pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"]), RECIPE)
    page = as_html(found, "rows<1>.csv")
    assert "<title>Bias audit of rows&lt;1&gt;.csv</title>" in page
    asked = "which kinds of rows are rare or frequent, which rows are unlike all others and which rows are there twice"
    assert f"The audit asks of 60 rows {asked}." in page
    assert as_markdown(found, "rows.csv").startswith("# Bias audit of rows.csv\n\nThe audit asks of 60 rows")
    assert as_text(found).startswith("Bias audit. The audit asks of 60 rows")
