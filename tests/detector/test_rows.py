import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalyvae.detector.rows import cross_folds, distinct_rows, hold_out

shapes = st.tuples(st.integers(1, 40), st.integers(1, 3))
small = arrays(float, shapes, elements=st.sampled_from([-1.0, -0.0, 0.0, 2.5]))


@given(small, st.randoms(use_true_random=False))
def test_rows_are_merged_by_value_in_an_order_of_their_own(x, random):
    rows = distinct_rows(x, np.ones(len(x)))
    values, counts = np.unique(x, axis=0, return_counts=True)
    assert sorted(map(tuple, rows.x)) == sorted(map(tuple, values + 0.0))
    assert rows.weight.sum() == counts.sum()
    order = list(range(len(x)))
    random.shuffle(order)
    shuffled = distinct_rows(x[order], np.ones(len(x)))
    np.testing.assert_array_equal(shuffled.x, rows.x)
    np.testing.assert_array_equal(shuffled.weight, rows.weight)


def test_equal_rows_of_two_groups_are_not_merged():
    rows = distinct_rows(np.zeros((4, 2)), np.ones(4), ["a", "b", "b", "b"])
    assert sorted(rows.weight) == [1, 3]
    assert sorted(rows.group) == [0, 1]


@given(st.integers(2, 300), st.floats(0, 0.9), st.integers(0, 9))
def test_held_out_rows_are_disjoint_and_complete(n, fraction, seed):
    rows = distinct_rows(np.arange(float(n))[:, None], np.ones(n))
    learned, stopping, calibration = hold_out(rows, fraction, np.random.RandomState(seed))
    parts = [part for part in (learned, stopping, calibration) if part is not None]
    together = np.concatenate([part.x.ravel() for part in parts])
    assert sorted(together) == list(range(n))
    assert (stopping is None) == (calibration is None)


def test_rows_that_new_rows_will_equal_are_learned_and_set_the_threshold():
    x = np.r_[np.zeros(900), np.arange(1.0, 101.0)][:, None]
    rows = distinct_rows(x, np.ones(1000))
    assert rows.x[rows.is_recurring].tolist() == [[0]]
    assert (cross_folds(rows, np.random.RandomState(0)) == -1).sum() == 1
    learned, stopping, calibration = hold_out(rows, 0.2, np.random.RandomState(0))
    assert 0 in learned.x
    assert 0 not in stopping.x
    assert calibration.weight[calibration.is_recurring].tolist() == [90]  # a tenth, as of the other rows
    assert len(calibration) == 11


def test_in_groups_what_a_new_group_brings_again_recurs():
    x = np.r_[np.zeros(30), np.ones(30), np.arange(2.0, 102.0)][:, None]
    rows = distinct_rows(x, np.ones(160), np.r_[np.arange(30) % 3, np.arange(30) % 2, np.arange(100) % 5])
    assert sorted(rows.x[rows.is_recurring].ravel()) == [0, 0, 0]
    assert len(rows.by_content()) == 102


@given(st.sampled_from([1e-3, 1.0, 7.0, 1000.0]), st.integers(1, 20))
def test_a_factor_common_to_all_weights_changes_nothing(factor, copies):
    x = np.arange(20.0)[:, None]
    rows = distinct_rows(np.repeat(x, copies, axis=0), np.full(20 * copies, factor))
    assert rows.weight.tolist() == [1] * 20
    assert not rows.is_recurring.any()


def test_uneven_weights_are_worth_fewer_rows():
    weight = np.random.default_rng(0).exponential(size=2000)
    rows = distinct_rows(np.arange(2000.0)[:, None], weight)
    assert abs(rows.weight.sum() - weight.sum() ** 2 / np.square(weight).sum()) < 1e-6
    assert rows.is_recurring.mean() < 0.02


def test_a_group_with_most_of_the_rows_is_divided():
    rows = distinct_rows(np.arange(400.0)[:, None], np.ones(400), np.r_[np.zeros(399), 1])
    with pytest.warns(UserWarning, match="One of 2 groups has 399 of the 400 distinct rows, too many to train without"):
        fold = cross_folds(rows, np.random.RandomState(0))
    assert min(np.bincount(fold)) > 100


def test_folds_of_uneven_groups_are_of_similar_size():
    size = np.array([300, 200, 100, 90, 80, 40, 5])
    rows = distinct_rows(np.arange(815.0)[:, None], np.ones(815), np.repeat(np.arange(7), size))
    assert max(np.bincount(cross_folds(rows, np.random.RandomState(0)))) <= 300


@pytest.mark.parametrize(
    ("groups", "fraction", "expected"),
    [
        (20, 0.2, (16, 2, 2)),
        (10, "auto", (6, 1, 3)),
        (30, "auto", (17, 3, 10)),
        (60, "auto", (35, 6, 19)),
        (300, "auto", (240, 30, 30)),
    ],
)
def test_groups_are_never_split_and_up_to_a_third_of_few_sets_the_threshold(groups, fraction, expected):
    rows = distinct_rows(np.arange(20.0 * groups)[:, None], np.ones(20 * groups), np.arange(20 * groups) % groups)
    seen = [set(part.group) for part in hold_out(rows, fraction, np.random.RandomState(0))]
    assert tuple(map(len, seen)) == expected
    assert len(set.union(*seen)) == groups


def test_folds_are_of_one_size_and_keep_groups_whole():
    x = np.random.default_rng(0).normal(size=(900, 2))
    rows = distinct_rows(x, np.ones(900))
    assert sorted(np.bincount(cross_folds(rows, np.random.RandomState(0)))) == [300, 300, 300]
    grouped = distinct_rows(x, np.ones(900), np.arange(900) // 150)
    fold = cross_folds(grouped, np.random.RandomState(0))
    assert all(len(set(fold[grouped.group == group])) == 1 for group in range(6))
    many = np.random.default_rng(0).normal(size=(6000, 2))
    assert cross_folds(distinct_rows(many, np.ones(6000), np.arange(6000) % 10), np.random.RandomState(0)) is None
    assert sorted(cross_folds(rows.take(np.arange(3)), np.random.RandomState(0))) == [0, 1, 2]
    assert cross_folds(rows.take(np.arange(2)), np.random.RandomState(0)) is None


def test_a_heavy_row_is_not_one_that_came_often():
    weight = np.where(np.arange(200) < 20, 5.0, 5 / 9)  # weights of classes: nine times as much
    rows = distinct_rows(np.arange(200.0)[:, None], weight)
    assert not rows.is_recurring.any()
    assert rows.copies.tolist() == [1] * 200
    assert rows.weight.sum() == pytest.approx(weight.sum() ** 2 / np.square(weight).sum())
    thrice = distinct_rows(np.repeat(np.arange(200.0), 3)[:, None], np.repeat(weight, 3))
    np.testing.assert_allclose(thrice.weight, rows.weight)
    assert thrice.copies.tolist() == [1] * 200
    assert distinct_rows(np.zeros((9, 1)), weight[15:24]).is_recurring.all()  # nine rows are equal


def test_whole_weights_are_numbers_of_rows_though_none_is_one():
    x, often = np.arange(4.0)[:, None], np.array([2, 3, 5, 3])
    rows, copied = distinct_rows(x, often.astype(float)), distinct_rows(np.repeat(x, often, axis=0), np.ones(13))
    assert rows.weight.tolist() == copied.weight.tolist()
    assert sorted(rows.weight) == [2, 3, 3, 5]
