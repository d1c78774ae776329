import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from anomalyvae.alarms import false_discovery
from anomalyvae.calibration import Calibration, auto_threshold, contamination_threshold

TRUTHS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "heavy": stats.t(3),
    "uniform": stats.uniform(),
}
SCORES = arrays(float, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


def draws(name, rng, shape):
    if name == "integers":
        return rng.poisson(3, shape).astype(float)
    if name == "half tied":
        return np.maximum(rng.normal(size=shape), 0)
    return TRUTHS[name].rvs(shape, random_state=rng)


# --- thresholds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_a_new_row_exceeds_the_threshold_with_probability_alpha(alpha):
    rng = np.random.default_rng(0)
    m, trials = 200, 4000
    held_out = rng.normal(size=(trials, m))
    crossed = [rng.normal() > auto_threshold(row, np.ones(m), alpha) for row in held_out]
    error = np.sqrt(alpha * (1 - alpha) / trials)
    assert np.mean(crossed) < alpha + 3 * error
    assert np.mean(crossed) > alpha - 1 / m - 3 * error


def test_too_few_rows_for_alpha_give_the_largest_score():
    assert auto_threshold(np.array([3.0, 1.0, 2.0]), np.ones(3), 0.01) == 3.0


@given(arrays(float, st.integers(2, 60), elements=st.floats(-10, 10)), st.integers(1, 30))
def test_contamination_flags_its_share_up_to_ties(scores, percent):
    weight = np.ones(len(scores))
    line = contamination_threshold(scores, weight, percent / 100)
    flagged = (scores > line).sum()
    wanted = int(percent / 100 * len(scores) + 1e-9)
    next_value = np.max(scores[scores <= line])
    assert flagged <= wanted < flagged + (scores == next_value).sum()


def test_contamination_does_not_separate_scores_that_tie():
    scores, ones = np.array([0.0, 1e-5, 2e-5, 1.0, 1.1, 1.1 + 1e-12]), np.ones(6)
    ties = scores + np.array([1e-4, 1e-4, 1e-4, 1e-9, 1e-9, 1e-9])
    assert contamination_threshold(scores[:3], ones[:3], 0.4, ties[:3]) == ties[2]  # all are equal: none is flagged
    assert contamination_threshold(scores, ones, 0.2, ties) == ties[-1]  # two are equal, and more than allowed
    assert contamination_threshold(scores, ones, 0.35, ties) == pytest.approx(1.05)
    assert contamination_threshold(scores, ones, 0.5, ties) == pytest.approx(0.50001)


def test_contamination_separates_adjacent_floats():
    scores = np.array([np.nextafter(10, 0), 10.0, *np.zeros(8)])
    assert (scores > contamination_threshold(scores, np.ones(10), 0.1)).sum() == 1


@given(arrays(float, 20, elements=st.floats(-10, 10)), arrays(int, 20, elements=st.integers(1, 4)))
def test_a_weight_is_a_number_of_copies(scores, copies):
    repeated = np.repeat(scores, copies)
    ones = np.ones(len(repeated))
    assert auto_threshold(scores, copies.astype(float), 0.1) == auto_threshold(repeated, ones, 0.1)
    assert contamination_threshold(scores, copies.astype(float), 0.2) == contamination_threshold(repeated, ones, 0.2)


# --- p-values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("name", [*TRUTHS, "integers", "half tied"])
def test_false_alarms_of_new_rows_stay_within_the_binomial_interval(name, alpha):
    rng = np.random.default_rng(1)
    trials, m = 3000, 99
    held_out, new = draws(name, rng, (trials, m)), draws(name, rng, (trials, 1))
    alarms = sum(
        Calibration.from_rows(scores).p_values(row)[0] <= alpha for scores, row in zip(held_out, new, strict=True)
    )
    low, high = stats.binom(trials, alpha).interval(0.999)
    assert alarms <= high
    if name in TRUTHS:  # tied scores may alarm less often; others keep to the rate from both sides
        assert alarms >= low


@pytest.mark.parametrize("name", [*TRUTHS, "integers", "half tied"])
def test_over_seeded_splits_the_false_alarm_rate_is_alpha_up_to_its_standard_error(name):
    rng = np.random.default_rng(2)
    splits, m = 200, 1000
    levels = np.array([0.01, 0.05, 0.1])
    rates = np.empty((splits, 3))
    for split in range(splits):
        rows = draws(name, rng, 2 * m)
        p = Calibration.from_rows(rows[:m]).p_values(rows[m:])
        rates[split] = (p[:, None] <= levels).mean(axis=0)
    error = rates.std(axis=0) / np.sqrt(splits)
    assert (rates.mean(axis=0) <= levels + 2 * error).all()
    if name in TRUTHS:
        assert (rates.mean(axis=0) >= levels - 1 / (m + 1) - 2 * error).all()


def grouped_scores(rng, trials, groups, rows):
    """Rows of a group share its level and drift on from one to the next."""
    level = 2 * rng.normal(size=(trials, groups, 1))
    steps = rng.normal(size=(trials, groups, rows))
    for i in range(1, rows):
        steps[..., i] = 0.8 * steps[..., i - 1] + 0.6 * steps[..., i]
    return level + steps


@pytest.mark.parametrize(("groups", "alpha"), [(10, 0.01), (10, 0.1), (19, 0.05), (19, 0.075)])
def test_grouped_p_values_hold_for_a_new_group_where_ungrouped_ones_fail(groups, alpha):
    rng = np.random.default_rng(3)
    trials, rows = 4000, 20
    scores = grouped_scores(rng, trials, groups + 1, rows)
    group = np.repeat(np.arange(groups), rows)
    by_group, by_row = np.empty(trials), np.empty(trials)
    for i in range(trials):
        held_out, new = scores[i, :-1].ravel(), scores[i, -1]
        by_group[i] = (Calibration.from_rows(held_out, group=group).p_values(new) <= alpha).mean()
        by_row[i] = (Calibration.from_rows(held_out).p_values(new) <= alpha).mean()
    assert by_group.mean() <= alpha + 2 * by_group.std() / np.sqrt(trials)
    assert (by_group.mean() > 0) == (alpha >= 1 / (groups + 1))
    assert by_row.mean() > alpha + 3 * by_row.std() / np.sqrt(trials)


def test_a_long_group_counts_as_much_as_a_short_one():
    calibration = Calibration.from_rows([1.0, 5.0, 5.0, 5.0, 5.0], group=["short", "long", "long", "long", "long"])
    assert calibration.evidence == 2
    np.testing.assert_allclose(calibration.p_values([5.0, 1.0, 6.0]), [2 / 3, 1, 1 / 3])


def test_the_rows_of_a_group_share_its_evidence_by_their_weights():
    calibration = Calibration.from_rows([1.0, 2.0, 3.0], weight=[3, 1, 7], group=[0, 0, 1])
    np.testing.assert_allclose(calibration.weight, [0.75, 0.25, 1])


@given(SCORES, arrays(float, 30, elements=st.floats(-1e6, 1e6)), st.sampled_from([None, 1, 3]))
def test_p_values_lie_in_their_range_and_fall_as_scores_rise(held_out, new, groups):
    group = None if groups is None else np.arange(len(held_out)) % groups
    calibration = Calibration.from_rows(held_out, group=group)
    new = np.sort(np.concatenate([new, held_out, [-np.inf, np.inf]]))
    p = calibration.p_values(new)
    assert p[0] == 1
    assert p[-1] == pytest.approx(1 / (1 + calibration.evidence))
    assert (np.diff(p) <= 0).all()


@given(SCORES, st.randoms(use_true_random=False))
def test_p_values_do_not_depend_on_the_order_or_the_scale_of_scores(held_out, random):
    weight = np.array([random.uniform(0.1, 3) for _ in held_out])
    p = Calibration(held_out, weight).p_values(held_out)
    order = random.sample(range(len(held_out)), len(held_out))
    np.testing.assert_array_equal(Calibration(held_out[order], weight[order]).p_values(held_out), p)
    ranks = np.unique(held_out, return_inverse=True)[1].astype(float)  # as strictly increasing as a transform can be
    np.testing.assert_array_equal(Calibration(ranks, weight).p_values(ranks), p)


@given(arrays(float, 30, elements=st.floats(-1e3, 1e3)), arrays(int, 30, elements=st.integers(1, 4)))
def test_a_calibration_row_of_weight_two_is_the_row_given_twice(held_out, copies):
    new = np.concatenate([held_out, held_out.max() + np.array([1e-3, 1.0, 1e3])])
    for tail in ("conformal", "pareto"):
        weighted = Calibration.from_rows(held_out, weight=copies).p_values(new, tail)
        np.testing.assert_allclose(weighted, Calibration.from_rows(np.repeat(held_out, copies)).p_values(new, tail))


@given(SCORES, arrays(float, 30, elements=st.floats(-1e6, 1e6)), st.integers(20, 500))
def test_alarms_at_alpha_are_the_rows_beyond_the_automatic_threshold(held_out, new, thousandths):
    alpha = thousandths / 1000
    if alpha * (len(held_out) + 1) < 1:
        return  # the threshold then falls back on the largest score
    beyond = new > auto_threshold(held_out, np.ones(len(held_out)), alpha)
    np.testing.assert_array_equal(Calibration.from_rows(held_out).alarms(new, alpha=alpha), beyond)


def test_its_two_arrays_are_all_of_a_calibration():
    rng = np.random.default_rng(4)
    scores, weight, new = rng.normal(size=60), rng.uniform(0.5, 2, 60), rng.normal(size=30) + 2
    calibration = Calibration.from_rows(scores, weight, group=np.arange(60) % 25)
    for again in (Calibration(calibration.scores, calibration.weight), pickle.loads(pickle.dumps(calibration))):  # noqa: S301
        for tail in ("conformal", "pareto"):
            np.testing.assert_array_equal(again.p_values(new, tail), calibration.p_values(new, tail))


# --- the tail -------------------------------------------------------------------------------------------


def crossing(calibration, truth, alpha, tail):
    """How often a normal row has p <= alpha, from the distribution itself."""
    chances = np.logspace(-1, -8, 1500)
    reached = calibration.p_values(truth.isf(chances), tail) <= alpha
    return chances[np.argmax(reached)] if reached.any() else 0.0


# How far the median p-value may lie above and below the truth, and the false alarms that a promise of one may become.
@pytest.mark.parametrize(
    ("name", "above", "below", "excess"),
    [("exponential", 5, 1, 1.0), ("normal", 8, 1, 1.0), ("heavy", 4, 2, 2.0), ("uniform", 10.1, 1, 1.0)],
)
def test_a_decade_beyond_the_calibration_the_tail_stays_near_the_truth(name, above, below, excess):
    rng = np.random.default_rng(5)
    truth, m = TRUTHS[name], 1000
    finest = 0.1 / (m + 1)
    ratio, kept = [], []
    for _ in range(150):
        calibration = Calibration.from_rows(truth.rvs(m, random_state=rng))
        ratio.append(float(calibration.p_values(truth.isf(finest), "pareto")) / finest)
        kept.append(crossing(calibration, truth, finest, "pareto") / finest)
    assert 1 / below <= np.median(ratio) <= above
    assert np.mean(kept) <= excess


@pytest.mark.parametrize("name", ["exponential", "normal", "heavy"])
def test_far_beyond_the_calibration_the_tail_goes_on_where_conformal_stops(name):
    rng = np.random.default_rng(6)
    truth, m = TRUTHS[name], 300
    scores = [Calibration.from_rows(truth.rvs(m, random_state=rng)) for _ in range(100)]
    far = truth.isf(1e-3 / (m + 1))
    assert all(calibration.p_values(far) == 1 / (m + 1) for calibration in scores)
    assert np.median([float(calibration.p_values(far, "pareto")) for calibration in scores]) < 0.25 / (m + 1)


@pytest.mark.parametrize("name", ["exponential", "normal", "heavy", "uniform"])
@pytest.mark.parametrize("groups", [None, 30])
def test_whatever_the_tail_it_takes_off_less_than_one_piece_of_evidence(name, groups):
    rng = np.random.default_rng(7)
    held_out = TRUTHS[name].rvs(600, random_state=rng)
    calibration = Calibration.from_rows(held_out, group=None if groups is None else np.arange(600) % groups)
    new = np.linspace(held_out.min(), 3 * held_out.max(), 5000)
    conformal, pareto = calibration.p_values(new), calibration.p_values(new, "pareto")
    one = 1 / (1 + calibration.evidence)
    assert (pareto <= conformal).all()
    assert (pareto >= conformal - one * (1 + 1e-9)).all()
    assert (np.diff(pareto) <= 0).all()
    assert (pareto > 0).all()
    coarse = conformal >= 2 * one
    np.testing.assert_array_equal(pareto[coarse], conformal[coarse])
    if groups is None:
        inside = new <= held_out.max()
        np.testing.assert_array_equal(pareto[inside], conformal[inside])
        just_beyond = np.nextafter(held_out.max(), np.inf)
        assert calibration.p_values(just_beyond, "pareto") == pytest.approx(one)  # it begins where conformal stops


def test_the_tail_of_groups_is_valid_for_rows_of_new_groups():
    rng = np.random.default_rng(8)
    groups, rows, trials = 20, 50, 200
    alpha = 0.2 / (groups + 1)
    rates = []
    for _ in range(trials):
        scores = grouped_scores(rng, 1, groups, rows)[0]
        calibration = Calibration.from_rows(scores.ravel(), group=np.repeat(np.arange(groups), rows))
        rates.append(crossing(calibration, stats.norm(scale=np.sqrt(5)), alpha, "pareto"))
        assert calibration.p_values(1e4, "pareto") < alpha
    assert np.mean(rates) <= alpha


@pytest.mark.parametrize(
    "held_out",
    [np.zeros(50), np.r_[np.zeros(30), np.ones(20)], np.r_[np.zeros(49), 1.0], np.r_[np.zeros(46), np.ones(4)]],
    ids=["constant", "tied tail", "one above", "four tied above"],
)
@pytest.mark.parametrize("tail", ["conformal", "pareto"])
def test_tied_calibration_scores_give_ordinary_p_values(held_out, tail):
    p = Calibration.from_rows(held_out).p_values([-1.0, 0.0, 0.5, 1.0, 1.5, 1e300, np.inf], tail)
    assert p[0] == 1
    assert (p > 0).all()
    assert (np.diff(p) <= 0).all()


def test_the_tail_is_refused_where_there_is_too_little_to_read_it_from():
    with pytest.raises(ValueError, match=r"Got tail='pareto' with 19 calibration rows .*at least 20.*tail='conformal'"):
        Calibration.from_rows(np.arange(19.0)).p_values([1.0], "pareto")
    many_rows_of_few_groups = Calibration.from_rows(np.arange(500.0), group=np.arange(500) % 3)
    with pytest.raises(ValueError, match=r"Got tail='pareto' with 3 calibration rows \(or groups\)"):
        many_rows_of_few_groups.p_values([1.0], "pareto")


# --- alarms ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The alarm target fdr=0.1")  # of a batch in which no row stands out enough
@pytest.mark.parametrize("storey", [False, True])
def test_the_false_discovery_rate_stays_below_its_target(storey):
    rng = np.random.default_rng(9)
    batches, m, n, outliers = 300, 1000, 200, 20
    false, found = np.empty(batches), np.empty(batches)
    for i in range(batches):
        calibration = Calibration.from_rows(rng.exponential(size=m))
        new = rng.exponential(size=n)
        new[:outliers] += 5
        flagged = calibration.alarms(new, fdr=0.1, storey=storey)
        false[i] = flagged[outliers:].sum() / max(flagged.sum(), 1)
        found[i] = flagged[:outliers].mean()
    assert false.mean() <= 0.1 + false.std() / np.sqrt(batches)
    assert found.mean() > 0.3


def test_a_batch_of_normal_rows_is_rarely_flagged():
    rng = np.random.default_rng(10)
    flagged = []
    for _ in range(400):
        p = Calibration.from_rows(rng.normal(size=999)).p_values(rng.normal(size=50))
        flagged.append([false_discovery(p, 0.1).any(), false_discovery(p, 0.1, storey=True).any()])
    assert (np.mean(flagged, axis=0) <= 0.1 + 2 * np.sqrt(0.09 / 400)).all()


def test_storey_finds_more_among_many_anomalous_rows():
    rng = np.random.default_rng(11)
    p = Calibration.from_rows(rng.normal(size=1000)).p_values(np.r_[rng.normal(size=100), rng.normal(2, 1, 100)])
    plain, adaptive = false_discovery(p, 0.1), false_discovery(p, 0.1, storey=True)
    assert adaptive[plain].all()
    assert adaptive.sum() > plain.sum()


def test_storey_never_believes_that_no_row_is_normal():
    np.testing.assert_array_equal(false_discovery([0.3, 0.3, 0.3, 0.3], 0.1, storey=True), [False] * 4)
    np.testing.assert_array_equal(false_discovery([0.2, 0.2, 0.2, 0.2], 0.1, storey=True), [True] * 4)


def test_benjamini_and_hochberg_on_their_own_example():
    # Section 4.1 of their paper: thrombolysis, 15 hypotheses, rate 0.05, four rejected
    p = [
        *[0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344],
        *[0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000],
    ]
    np.testing.assert_array_equal(false_discovery(p[::-1], 0.05), [False] * 11 + [True] * 4)


@given(arrays(float, st.integers(0, 40), elements=st.floats(0, 1)), st.floats(0.01, 0.5), st.booleans())
def test_discoveries_are_the_smallest_p_values_and_grow_with_the_rate(p, rate, storey):
    flagged = false_discovery(p, rate, storey)
    assert flagged.shape == p.shape
    assert p[flagged].max(initial=0) < p[~flagged].min(initial=2)
    assert false_discovery(p, min(2 * rate, 0.99), storey)[flagged].all()
    if storey:
        assert p[flagged].max(initial=0) <= 0.5


def test_alarms_per_hour_meet_their_target():
    rng = np.random.default_rng(12)
    hours, rows_per_hour = 200, 360
    counts = []
    for _ in range(20):
        calibration = Calibration.from_rows(rng.normal(size=2000))
        new = rng.normal(size=hours * rows_per_hour)
        counts.append(calibration.alarms(new, per_hour=2, rows_per_hour=rows_per_hour).sum() / hours)
    error = np.std(counts) / np.sqrt(20)
    assert 2 - 360 / 2001 - 2 * error <= np.mean(counts) <= 2 + 2 * error


def test_a_target_too_small_for_the_calibration_warns():
    calibration = Calibration.from_rows(np.arange(99.0))
    new = np.array([50.0, 1e6])
    with pytest.warns(UserWarning, match=r"The alarm target alpha=0\.001 needs .* at least 999, or pass tail='pareto'"):
        assert not calibration.alarms(new, alpha=0.001).any()
    with pytest.warns(UserWarning, match=r"target per_hour=1 needs .* at least 3,599"):
        calibration.alarms(new, per_hour=1, rows_per_hour=3600)
    with pytest.warns(UserWarning, match=r"target fdr=0\.01 for 2 rows needs .* at least 199"):
        calibration.alarms(new, fdr=0.01)
    with pytest.warns(UserWarning, match=r"The alarm target alpha=0\.001 needs .* at least 999\.$"):
        Calibration.from_rows(np.zeros(99)).alarms(new, alpha=0.001, tail="pareto")  # nothing to extrapolate
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibration.alarms(new, alpha=0.01).tolist() == [False, True]
        assert calibration.alarms(new, fdr=0.02).tolist() == [False, True]
        assert calibration.alarms(new, alpha=0.001, tail="pareto").tolist() == [False, True]
        calibration.alarms([], alpha=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Got nothing as alarm target, expected exactly one of alpha, fdr and per_hour"),
        ({"alpha": 0.1, "fdr": 0.1}, "Got alpha=0.1 and fdr=0.1 as alarm target, expected exactly one"),
        ({"alpha": 0}, "Got alpha=0 as alarm target, expected a number above 0 and below 1"),
        ({"fdr": 1.5}, "Got fdr=1.5 as alarm target, expected a number above 0 and below 1"),
        ({"per_hour": 1}, "Got per_hour=1 with rows_per_hour=None, .*together.* Pass rows_per_hour = 3600"),
        ({"alpha": 0.1, "rows_per_hour": 10}, "Got alpha=0.1 with rows_per_hour=10, .*together"),
        ({"per_hour": 20, "rows_per_hour": 10}, "Got per_hour=20 as alarm target.* above 0 and below 10"),
        ({"alpha": 0.1, "storey": True}, "Got storey=True with alpha=0.1, expected it with fdr"),
        ({"alpha": 0.1, "tail": "fat"}, "Got tail='fat', expected 'conformal' or 'pareto'"),
    ],
)
def test_invalid_alarm_targets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_rows(np.arange(30.0)).alarms([1.0], **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan],), "Got 1 NaN or infinite calibration scores out of 2, .*Leave those rows out"),
        (([],), r"Got calibration scores of shape \(0,\).*Pass one score and one weight per calibration row"),
        (([1.0, 2.0], [1.0]), r"scores of shape \(2,\) and weights of shape \(1,\), expected \(m,\)"),
        (([1.0, 2.0], [1.0, 0.0]), "Got calibration weights from 0.0 to 1.0, expected finite ones above zero"),
        (([1.0, 2.0], None, [0]), r"Got groups of shape \(1,\) for 2 scores, expected one per score"),
    ],
)
def test_invalid_calibration_rows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_rows(*arguments)


def test_scores_and_p_values_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match=r"Got NaN in 1 of 2 scores, expected numbers\. Leave those rows out"):
        Calibration.from_rows([1.0, 2.0]).p_values([1.0, np.nan])
    with pytest.raises(ValueError, match=r"Got p-values from -1\.0 to 0\.5, expected numbers in \[0, 1\]"):
        false_discovery([-1.0, 0.5], 0.1)
    with pytest.raises(ValueError, match=r"Got rate=0, expected a number above 0 and below 1"):
        false_discovery([0.5], 0)
