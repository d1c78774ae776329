"""Verdicts change scores at once."""

import numpy as np
import pytest

from anomalyvae.review.verdicts import VerdictScores


@pytest.fixture(scope="module")
def clumps():
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(300, 3)), rng.normal(8, 0.1, size=(10, 3)), rng.normal(-8, 0.1, size=(10, 3))])
    return rows, np.linalg.norm(rows, axis=1)


def test_without_verdicts_the_order_stays(clumps):
    rows, scores = clumps
    assert (np.argsort(VerdictScores(scores, rows)([], [])) == np.argsort(scores)).all()


def test_rows_like_a_confirmed_anomaly_rise_and_like_a_normal_one_fall(clumps):
    rows, scores = clumps
    ranking = VerdictScores(scores, rows)
    before, after = ranking([], []), ranking([300, 310], [True, False])
    assert (after[301:310] > before[301:310]).all()
    assert (after[311:] < before[311:]).all()
    assert after[301:310].min() > after[311:].max()


def test_a_verdict_taken_back_leaves_no_trace(clumps):
    rows, scores = clumps
    ranking = VerdictScores(scores, rows)
    once = ranking([300], [True])
    ranking([300, 310], [True, False])
    assert (ranking([300], [True]) == once).all()


def test_verdicts_without_rows_are_refused(clumps):
    rows, scores = clumps
    with pytest.raises(ValueError, match="expected a verdict per row"):
        VerdictScores(scores, rows)([300], [])
