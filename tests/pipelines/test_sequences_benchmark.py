"""The benchmark of recordings holds out rows, counts as described, and continues where it stopped."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyod")
import sequence_methods
import sequence_report
import sequences
from tabular_report import HALVES, half_of, interval
from volume import evaluation_window, vus

from anomalyvae import WindowRecipe
from anomalyvae.datasets import write_parts
from anomalyvae.evaluate.baselines import BASELINES
from anomalyvae.pyod_adapter import OURS
from anomalyvae.recordings import log_from_frame

FAST = [*sequence_methods.SEEDLESS, "iforest", "kmeans"]


def series(rows=200, anomalous=slice(150, 170)):
    """Two signals, one of them with an anomaly."""
    x = np.random.default_rng(0).normal(size=(rows, 2))
    x[anomalous, 1] += 8
    label = np.zeros(rows, dtype=bool)
    label[anomalous] = True
    return x, label


def toy():
    """A set of one case in the manner of SKAB, and one in the manner of the drives."""
    x, label = series()
    windows, learned = sequences.rolling(x), sequences.rolling(x[:100])
    yield sequences.Case("parted", learned, windows, True, partial(sequences._counts, label))


def toy_drives():
    x, _ = series()
    windows, learned = sequences.rolling(x), sequences.rolling(x[:100])
    start = np.arange(len(windows), dtype=float)
    spans = pd.DataFrame({"recording": "trip", "start_s": start, "end_s": start + sequences.LENGTH})
    events = pd.DataFrame({"recording": ["trip"], "start_s": [150.0], "end_s": [170.0]})
    anomalous = {"": sequences._half_inside(spans, events)}
    yield sequences.Case("trip", learned, windows, False, partial(sequences._ranked, anomalous, spans, events, 0.0))


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(sequences, "SETS", {"skab": toy, "jair_jr": toy_drives})
    monkeypatch.setattr(sequences, "FIRST", 100)
    monkeypatch.setattr(sequences, "_CASES", {})


def test_a_row_has_the_mean_of_its_windows_or_the_last_that_ended():
    scores = np.random.default_rng(0).normal(size=30)
    rows = sequences.of_points(scores)
    for row in range(49):
        covering = [scores[begin] for begin in range(30) if begin <= row < begin + sequences.LENGTH]
        assert rows[""][row] == pytest.approx(np.mean(covering))
    np.testing.assert_array_equal(rows["causal_"], [*[scores[0]] * 19, *scores])


def test_held_out_windows_share_no_row_with_those_that_are_learned(monkeypatch):
    meetings = []

    def spying(learned, seed):
        def score(windows):
            meetings.append(len(np.intersect1d(learned, windows)))
            return {"spy": windows[:, 0, 0]}

        return score

    monkeypatch.setitem(sequences.METHODS, "spy", spying)
    numbered = sequences.rolling(np.arange(200.0)[:, None])  # each row has its own value
    scores = sequences._held_out_scores(numbered, "spy", 0)["spy"]
    assert meetings == [0] * sequences.FOLDS
    np.testing.assert_array_equal(scores, np.arange(len(numbered)))  # each window once, in order


def test_counts_are_of_all_rows_and_of_those_after_the_training_rows(monkeypatch):
    monkeypatch.setattr(sequences, "FIRST", 30)
    label = np.arange(60) >= 50
    scores = np.where(np.arange(41) >= 31, 9.0, 0.0)  # windows that touch the last ten rows
    scores[15] = 50.0  # one loud window: with those that begin to touch the last rows, it flags rows 15 to 49
    counts = sequences._counts(label, scores, np.linspace(0, 1, 100))
    assert [counts[f"all_{kind}"] for kind in ("tp", "fp", "fn", "tn")] == [10, 35, 0, 15]
    assert counts["tp"] + counts["fn"] == label[30:].sum()
    assert counts["fp"] + counts["tn"] == (~label[30:]).sum()
    assert counts["causal_tp"] == 10
    assert counts["all_causal_fp"] == 1


def test_a_window_counts_as_inside_when_half_of_it_is():
    spans = pd.DataFrame({"recording": ["a", "a", "a", "b"], "start_s": [0.0, 1, 2, 0], "end_s": [2.0, 3, 4, 2]})
    events = pd.DataFrame({"recording": ["a", "a"], "start_s": [0.0, 3.5], "end_s": [1.0, 9.0]})
    assert sequences._half_inside(spans, events).tolist() == [True, False, False, False]


def test_the_target_signal_is_seen_alone_and_only_where_a_set_has_one(monkeypatch):
    x, label = series()
    learned, scored, judge = sequences.rolling(x[:100]), sequences.rolling(x), partial(sequences._volumes, label, 10)
    targeted = sequences.Case("a", learned, scored, False, judge, target=0)
    untargeted = sequences.Case("a", learned, scored, False, judge)
    alone = sequences.Case("a", learned[:, :1], scored[:, :1], False, judge)
    (found,) = sequences.results_of(targeted, "target", 0)
    (expected,) = sequences.results_of(alone, "row_norm", 0)
    assert found["vus_pr"] == expected["vus_pr"] < 0.5  # the anomaly is in the other signal
    monkeypatch.setattr(sequences, "SETS", {"with": lambda: [targeted], "without": lambda: [untargeted]})
    asked = sequences.tasks(["with", "without"], ["target", "knn"], None, False)
    assert [(name, method) for name, _, method, _ in asked] == [("with", "target"), ("with", "knn"), ("without", "knn")]


def test_a_half_runs_alone(monkeypatch):
    windows = sequences.rolling(np.zeros((30, 1)))
    names = [f"trip{number}" for number in range(8)]
    cases = [sequences.Case(name, windows, windows, False, dict) for name in names]
    monkeypatch.setattr(sequences, "SETS", {"potholes": lambda: cases})
    run = {
        half: [c.name for _, c, _, _ in sequences.tasks(["potholes"], ["knn"], None, False, half)] for half in HALVES
    }
    assert sorted(run["chosen"] + run["unseen"]) == run["whole"] == names
    assert all(half_of("potholes", name) == "chosen" for name in run["chosen"])


def results(name, values):
    """Stored results from a table: case, method, then figures."""
    rows = [
        {"set": name, "case": case, "asked": method, "seed": seed, "version": "1", "method": method}
        | figures | {"fit_s": 1.0, "score_s": 2.0}
        for case, method, seed, figures in values
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_figures_and_differences_are_told_on_all_cases_and_on_each_half():
    cases = ["trip1", "trip2", "trip3", "trip5"]  # unseen, chosen, chosen, unseen
    assert [half_of("potholes", case) for case in cases] == ["unseen", "chosen", "chosen", "unseen"]
    figures = {
        "anomalyvae": ([0.9, 0.7, 0.8, 0.6], [0.7, 0.7, 0.8, 0.6]),  # two seeds
        "knn": ([0.9, 0.5, 0.6, 0.8],),
        "pca": ([0.6, 0.6, 0.6, 0.6],),
        "kmeans": ([0.99, 0.99],),  # not all cases: no rival
    }
    table = results(
        "potholes",
        [
            (case, method, seed, {"auroc": value, "ap": value / 2, "event_recall": 1.0})
            for method, seeds in figures.items()
            for seed, values in enumerate(seeds)
            for case, value in zip(cases, values, strict=False)
        ],
    )
    told = sequence_report.summary(table, "potholes")
    assert told.loc["anomalyvae", ["auroc", "auroc chosen", "auroc unseen"]].tolist() == pytest.approx(
        [0.725, 0.75, 0.7]
    )
    assert told.loc["anomalyvae", ["fit_s", "cases"]].tolist() == [1, 4]
    assert told.loc["kmeans", "cases"] == 2
    compared = sequence_report.differences(table, "potholes").set_index("figure").loc["auroc"]
    assert compared["other"] == "knn"
    assert compared["cases"] == 4
    paired = [0.8 - 0.9, 0.7 - 0.5, 0.8 - 0.6, 0.6 - 0.8]
    assert compared[["whole", "chosen", "unseen"]].tolist() == pytest.approx([0.025, 0.2, -0.15])
    assert compared["warning"] == "leads on the chosen half alone"
    assert compared[["low", "high"]].tolist() == pytest.approx(interval(paired))


def test_differences_of_counts_are_of_all_rows_together():
    def counts(tp, fp, fn, tn):
        found = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
        return {f"{part}{name}": float(n) for part in sequence_report.COUNTED for name, n in found.items()}

    cases = ["other-1", "other-2", "other-3"]
    ours, pca = [counts(8, 2, 2, 88), counts(1, 1, 9, 89), counts(90, 0, 0, 10)], [counts(5, 5, 5, 85)] * 3
    found = {"anomalyvae": ours, "pca": pca}
    stored = [(case, m, 0, c) for m, each in found.items() for case, c in zip(cases, each, strict=True)]
    table = results("skab", stored)
    told = sequence_report.summary(table, "skab")
    assert told.loc["anomalyvae", "all_f1"] == pytest.approx(99 / (99 + (3 + 11) / 2))
    assert told.loc["pca", "all_false"] == pytest.approx(5 / 90)
    chosen = [c for case, c in zip(cases, ours, strict=True) if half_of("skab", case) == "chosen"]
    tp, wrong = sum(c["tp"] for c in chosen), sum(c["fp"] + c["fn"] for c in chosen)
    assert told.loc["anomalyvae", "all_f1 chosen"] == pytest.approx(tp / (tp + wrong / 2))
    compared = sequence_report.differences(table, "skab").set_index("figure")
    assert list(compared.index) == ["all_f1", "f1"]
    assert compared.loc["all_f1", "whole"] == pytest.approx(99 / 106 - 0.5)
    low, high = compared.loc["all_f1", ["low", "high"]]
    assert low == pytest.approx(1 / 6 - 0.5)  # three times the worst experiment: one draw in 27
    assert high == pytest.approx(1 - 0.5)


def test_series_are_cases_that_learn_their_train_part_and_are_scored_by_volumes(tmp_path, monkeypatch):
    x, label = series()
    rows = pd.DataFrame(x, columns=["f0", "f1"])
    parts = [("1", "train", rows[:100], label[:100]), ("1", "test", rows, label)]
    table = pd.concat(part.assign(series=s, split=w, time=np.arange(len(part)), label=y) for s, w, part, y in parts)
    write_parts(tmp_path, table, {"f0": "a", "f1": "b"})
    monkeypatch.setattr(sequences, "get_dataset", lambda name: tmp_path)
    (case,) = sequences.split_set("asd")
    assert (case.name, case.target) == ("1", None)
    np.testing.assert_array_equal(case.learned, sequences.rolling(x[:100]))
    np.testing.assert_array_equal(case.scored, sequences.rolling(x))
    (found,) = sequences.results_of(case, "knn", 0)
    scores = BASELINES["knn"](*map(sequence_methods.raw, (case.learned, case.scored)))
    volume = vus(label, sequences.of_points(scores)[""], evaluation_window(np.append(x[:100, 0], x[:, 0])))
    assert (found["vus_pr"], found["vus_roc"]) == (volume.pr, volume.roc)
    assert 0 < found["causal_vus_pr"] < 1


def test_shape_is_what_a_recipe_with_coefficients_gives():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["x", "y"])
    log = log_from_frame(table.assign(time_s=np.arange(20.0)), "drive")
    recipe = WindowRecipe(("x", "y"), 1, 20, 1, 1, coefficients=sequence_methods.COEFFICIENTS)
    np.testing.assert_allclose(
        sequence_methods.shape(sequences.rolling(table.to_numpy())), recipe.windows(log).rows, atol=1e-12
    )


def test_the_matrix_profile_is_blind_to_size_and_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    noise, wave = rng.normal(size=(300, 1, 20)), np.sin(np.arange(20) / 3)
    learned = np.concatenate([noise[:250], rng.normal(0, 0.1, (50, 1, 20)) + wave])
    scored = np.concatenate([noise[250:], 9 * (rng.normal(0, 0.1, (5, 1, 20)) + wave)])
    scores = {
        name: next(iter(sequences.METHODS[name](learned, 0)(scored).values()))
        for name in ("matrix_profile", "plain_profile")
    }
    assert scores["matrix_profile"][50:].max() < scores["matrix_profile"][:50].min()
    assert scores["plain_profile"][50:].min() > scores["plain_profile"][:50].max()


@pytest.mark.parametrize("method", sorted(FAST))
def test_simple_methods_find_the_anomaly(method, toys):
    (case,) = toy_drives()
    (result,) = sequences.results_of(case, method, 0)
    # to the matrix profile a step in noise is noise; differences see its edges alone
    assert result["auroc"] > {"matrix_profile": 0, "squared_difference": 0.7}.get(method, 0.8)


def test_ours_without_settings_finds_it(toys):
    (case,) = toy_drives()
    (result,) = sequences.results_of(case, OURS, 0)
    assert result["method"] == OURS
    assert result["auroc"] > 0.8


@pytest.mark.parametrize("method", sorted({*sequence_methods.OWN} - {OURS}))
def test_ours_gives_two_scores_and_finds_it(method, toys, monkeypatch):
    monkeypatch.setitem(sequence_methods.SETTINGS, "max_epochs", 30)
    (case,) = toy_drives()
    found = {result["method"]: result["auroc"] for result in sequences.results_of(case, method, 0)}
    assert [name.partition(": ")[2] for name in found] == ["", "energy" if method == "adversarial" else "elbo"]
    assert min(found.values()) > 0.8


def test_a_run_goes_on_where_it_stopped_and_sums_up(toys, tmp_path, capsys):
    store = tmp_path / "results.jsonl"
    methods = ["knn", "row_norm"]
    todo = list(sequences.tasks(["skab", "jair_jr"], methods, None, False))
    assert len(todo) == 4
    sequences.run(todo[:3], store, 1)
    with store.open("a") as file:
        file.write('{"set": "skab", "ca')  # a kill while writing
    capsys.readouterr()
    sequences.run(todo, store, 1)
    assert capsys.readouterr().out == "1/1 jair_jr trip, row_norm\n"
    results = pd.DataFrame(sequences.kept_results(store))
    skab, drives = (sequences.summary(results, name) for name in ("skab", "jair_jr"))
    assert sorted(skab.index) == sorted(drives.index) == methods
    (counts,) = results[(results["set"] == "skab") & (results["method"] == "knn")].to_dict("records")
    assert skab.loc["knn", "all_missed"] == counts["all_fn"] / 20
    assert skab.loc["knn", "all_f1"] == pytest.approx(
        2 * counts["all_tp"] / (2 * counts["all_tp"] + counts["all_fp"] + counts["all_fn"])
    )
    assert drives["auroc"].notna().all()


def test_seeds_go_where_they_matter(toys):
    def count(name, method, seeds):
        return len(list(sequences.tasks([name], [method], seeds, False)))

    assert [count("skab", "linear", seeds) for seeds in (None, 3)] == [1, 3]
    assert [count("jair_jr", "linear", seeds) for seeds in (None, 1)] == [3, 1]
    assert count("jair_jr", "knn", 3) == 1
