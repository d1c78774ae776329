"""The threshold keeps its promise of 5 % false alarms for repeated, weighted and grouped rows; ``make
bench-false-alarms`` measures more cases, with networks trained to the end.
"""

import numpy as np
import pandas as pd
import pytest
from false_alarms import counts, exact, grouped, repeated, rounded, weighted, with_categories

from anomalyvae import VAEOutlierDetector


def quick(criterion="novelty", seed=0, max_epochs=15):
    return VAEOutlierDetector(random_state=seed, max_epochs=max_epochs, criterion=criterion)


CASES = [
    *((n, share, by) for n, share in ((60, 0.0), (200, 0.0), (300, 0.5), (600, 0.9)) for by in ("novelty", "elbo")),
    (50, 0.95, "novelty"),  # a network of two distinct rows cannot say how unlike them a third is by elbo
]


def keeps_the_promise(make, criterion, fits=4, gives_recall_away=False, max_epochs=15):
    rates, least, variance = [], [], 0.0
    for seed in range(fits):
        case = make(seed)
        detector = quick(criterion, seed, max_epochs).fit(case.rows)
        scores = detector.anomaly_score(case.new)
        rates.append((scores > -detector.offset_).mean())
        expected = exact(case, detector, scores, seed)
        least.append(expected[0])
        variance += expected[1] / fits**2
    assert np.mean(rates) < 0.05 + 2 * variance**0.5
    if not gives_recall_away:
        assert np.mean(rates) > np.mean(least) - 2.5 * variance**0.5


@pytest.mark.parametrize(("n", "share", "criterion"), CASES)
def test_repeats_keep_the_promise(n, share, criterion):
    few = n * (1 - share) < 3  # two distinct rows and a third set no unit
    keeps_the_promise(repeated(n, share), criterion, gives_recall_away=few)


@pytest.mark.parametrize(
    ("levels", "columns", "numbers", "criterion"),
    [(900, 3, True, "novelty"), (60, 3, False, "novelty"), (30, 1, False, "novelty"), (30, 1, False, "elbo")],
)
def test_rare_levels_keep_the_promise(levels, columns, numbers, criterion):
    """A level of few rows is new to the network that learned none of them, and hardly ever to that of all rows."""
    keeps_the_promise(with_categories(300, levels, columns, numbers), criterion)


def test_counts_that_are_equal_by_chance_keep_the_promise():
    """New rows are equal to learned ones, too."""
    keeps_the_promise(counts(1000), "novelty", max_epochs="auto")


@pytest.mark.parametrize("steps", [(0.01,), (0.5, 1.0, 0.3)])
def test_rounded_numbers_keep_the_promise(steps):
    """They are equal by chance, too, however much the columns depend on each other."""
    keeps_the_promise(rounded(1000, *steps), "novelty")


@pytest.mark.parametrize("kind", ["mostly 0", "levels"])
def test_copies_of_unlike_columns_keep_the_promise(kind):
    """Some cells are often equal by chance, others hardly ever: that copies have both tells them."""
    rates = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        if kind == "levels":
            rows = pd.DataFrame({str(k): rng.integers(0, k, 4500).astype(str) for k in (2, 3, 8, 60)})
        else:
            rows = pd.DataFrame(np.where(rng.random((4500, 8)) < 0.85, 0, rng.lognormal(2, 1.2, (4500, 8)).round(2)))
        learned = rows.iloc[np.concatenate([np.arange(500), rng.integers(0, 500, 500)])]
        rates.append((quick(seed=seed).fit(learned).predict(rows[500:]) == -1).mean())
    assert np.mean(rates) < 0.06


@pytest.mark.parametrize("as_categories", [False, True])
def test_copies_of_answers_keep_the_promise(as_categories):
    """Rows drawn with replacement are copies: new rows equal learned ones by chance alone, which is less often."""
    rng, rates = np.random.default_rng(0), []
    for seed in range(4):
        opinion = 0.7 * rng.normal(size=(4500, 1))
        answers = pd.DataFrame(np.clip(np.round(3 + opinion + rng.normal(size=(4500, 5))), 1, 5)).add_prefix("answer ")
        answers = answers.astype("category") if as_categories else answers
        rows = answers.iloc[np.concatenate([np.arange(500), rng.integers(0, 500, 500)])]
        rates.append((quick("novelty", seed).fit(rows).predict(answers[500:]) == -1).mean())
    assert np.mean(rates) < 0.06


@pytest.mark.parametrize(
    ("n", "criterion"), [(4, "novelty"), (8, "novelty"), (14, "novelty"), (4, "memory"), (8, "elbo")]
)
def test_few_rows_are_held_out_too(n, criterion):
    """Their threshold is the highest score of a row that was held out: a new row exceeds it once in n + 1 times."""
    rates, found = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows, new = rng.normal(size=(n, 3)), rng.normal(size=(1000, 3))
        with pytest.warns(UserWarning, match=f"{n} rows can show no p-value below"):
            detector = quick(criterion, seed).fit(rows)
        rates.append((detector.predict(new) == -1).mean())
        found.append((detector.predict(new + 30) == -1).mean())
        assert len(detector.calibration_.scores) == n
    assert np.mean(rates) < 1 / (n + 1) + (1 / (n + 1) / 12) ** 0.5  # one standard error and more
    assert np.mean(found) > 0.99


def test_a_threshold_from_learned_rows_is_named():
    x = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.warns(UserWarning, match="Got 2 distinct rows, too few to hold some out.* too low for new ones"):
        quick().fit(x[:2])
    with pytest.warns(UserWarning, match="Got 10 distinct rows, too few to hold some out.*validation_fraction=0.4"):
        quick().set_params(validation_fraction=0.4).fit(x)
    with pytest.warns(UserWarning, match="Got 1 groups, too few"):
        quick().fit(x, groups=np.zeros(10))


def test_windows_keep_the_promise_beside_selected_ones():
    """The networks of the folds learn fewer of the other windows, and as many selected ones."""
    rates = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=(3000, 4))
        level[:150] = 3.5 * level[:150]
        x = (level[:, :, None] + 0.3 * rng.normal(size=(3000, 4, 12))).reshape(3000, -1)
        detector = quick(seed=seed).set_params(input_shape=(4, 12)).fit(x[:600], selected=np.arange(600) < 150)
        rates.append((detector.predict(x[600:]) == -1).mean())
    assert np.mean(rates) < 0.07


def test_a_row_that_recurs_is_never_the_most_anomalous():
    case = repeated(600, 0.9)(0)
    detector = quick().fit(case.rows)
    values, counts = np.unique(case.rows, axis=0, return_counts=True)
    idle = values[counts.argmax()][None]
    assert detector.anomaly_score(idle)[0] <= np.quantile(detector.anomaly_score(case.new), 0.5)
    assert detector.p_values(idle)[0] > 0.9


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_a_constant_weight_changes_nothing(factor):
    case = weighted(60, lambda n, rng: np.full(n, factor))(0)
    plain, constant = quick().fit(case.rows), quick().fit(case.rows, **case.more)
    np.testing.assert_array_equal(plain.p_values(case.new), constant.p_values(case.new))
    assert plain.offset_ == constant.offset_


def test_uneven_weights_do_not_claim_more_evidence_than_there_is():
    case = weighted(200, lambda n, rng: rng.lognormal(size=n))(0)
    detector = quick().fit(case.rows, **case.more)
    assert detector.calibration_.evidence == pytest.approx(case.weight.sum(), rel=0.01)


def test_weights_of_classes_keep_the_promise_and_the_outliers():
    """Rows of a heavy kind were stored often, so that other ones of its kind were far from them, and outliers not."""
    rates, found = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        heavy = rng.random(4400) < 0.5
        x = rng.normal(size=(4400, 4)) + 8 * heavy[:, None] * np.array([1, 1, 0, 0])
        weight = np.where(heavy, 10.3, 1.0)[:400]
        detector = quick(seed=seed).fit(x[:400], sample_weight=weight)
        rates.append(np.average(detector.predict(x[400:]) == -1, weights=np.where(heavy[400:], 10.3, 1.0)))
        away = rng.normal(size=(500, 4))
        away *= 5 / np.linalg.norm(away, axis=1, keepdims=True)
        found.append([(detector.predict(away + at) == -1).mean() for at in ([0, 0, 0, 0], [8, 8, 0, 0])])
    assert np.mean(rates) < 0.05 + 2 * (0.05 / 200 / 3) ** 0.5  # 200 rows are heavy
    assert np.min(found) > 0.9


def test_whole_weights_that_look_like_those_of_classes_are_named():
    x = np.random.default_rng(0).normal(size=(60, 3))
    with pytest.warns(UserWarning, match="15 rows have a sample_weight of 9, and whole weights say how often.*mean"):
        quick().fit(x, sample_weight=np.where(np.arange(60) < 15, 9, 1))


def test_levels_of_one_group_do_not_flag_every_new_group():
    """A new machine has a new name; those of the machines that were learned say nothing of it."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    x = pd.DataFrame(rng.normal(size=(600, 3)), columns=list("abc"))
    x["machine"], x["site"] = group.astype(str), np.array(["north", "south", *map(str, range(60))])[2 + group]
    x.loc[group % 3 > 0, "site"] = np.where(rng.random(400) < 0.5, "north", "south")
    known = group < 40
    with pytest.warns(UserWarning, match="almost every value is unique or of one group: 'machine'. Nothing can be"):
        detector = quick().fit(x[known], groups=group[known])
    assert detector.categories_ == {"machine": [], "site": ["north", "south"]}
    assert (detector.predict(x[~known]) == -1).mean() < 0.12


def test_a_dominating_group_does_not_leave_a_network_without_rows():
    case = grouped(lambda rng: np.array([399, 1]))(0)
    with (
        pytest.warns(UserWarning, match="One of 2 groups has 399 of the 400 distinct rows"),
        pytest.warns(UserWarning, match=r"2 groups can show no p-value below 0\.33.*an estimate.*takes 19 groups"),
    ):
        detector = quick().fit(case.rows, **case.more)
    assert -detector.offset_ < 100 * np.median(detector.anomaly_score(case.new))


def test_missing_cells_in_a_column_that_had_none_are_named():
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[0, 2] = np.nan
    detector = quick().fit(x)
    gaps = np.array([[np.nan, 0, 0], [0, 0, np.nan], [0, 0, 0]])
    with pytest.warns(UserWarning, match=r"1 of 3 rows have missing cells .* such as column 0\. .* not calibrated"):
        detector.predict(gaps)
