"""Verdicts change scores at once."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from anomalyvae.review import verdicts
from anomalyvae.review.verdicts import QueueOrder, VerdictScores


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


def test_normal_verdicts_on_the_highest_scores_leave_the_others_in_their_order():
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(600, 3)), rng.normal(8, 0.1, (30, 3)), rng.normal(-8, 0.1, (10, 3))])
    scores = np.linalg.norm(rows, axis=1)
    for said in (3, 10, 30):
        after = VerdictScores(scores, rows)(np.arange(600, 600 + said), np.zeros(said, dtype=bool))
        assert after[630:].min() > after[:600].max()  # a clump of another kind stays ahead of the usual rows
        assert np.median(after[600 + said : 630]) < np.median(after[:600]) if said < 30 else True
        assert spearmanr(after[:600], scores[:600]).statistic > 0.65


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


# --- the queue --------------------------------------------------------------------------------------------


def queue_of(n=40, seed=0, **columns):
    """Events of two kinds in turn, as a queue gives them, the most anomalous first."""
    codes = np.random.default_rng(seed).normal(scale=0.1, size=(n, 3)) + 8.0 * (np.arange(n) % 2)[:, None]
    held = {"event_id": [f"e{i:06}" for i in range(n)], "model_id": "m", "latent": codes.tolist(), "verdict": None}
    held |= {"signals": [["x", "y"]] * n, "shares": [[0.7, 0.3]] * n}
    return pd.DataFrame(held | columns)


def said(events, **verdict):
    """The queue after verdicts on some of its events."""
    return events.assign(verdict=events["event_id"].map(verdict).astype(object).where(lambda v: v.notna(), None))


def test_without_a_verdict_that_says_something_the_queue_keeps_its_order():
    events = queue_of()
    for given in ({}, {"e000003": "unsure"}):
        order, counted = QueueOrder()(said(events, **given))
        assert (list(order), counted) == (list(range(40)), 0)


def test_open_events_like_a_fault_come_first_and_those_like_normal_ones_last():
    events = said(queue_of(), e000001="fault", e000002="new_normal", e000004="noise", e000005="unsure")
    order, counted = QueueOrder()(events)
    assert counted == 3
    assert sorted(order) == list(range(40))
    assert [order[place] for place in (1, 2, 4, 5)] == [1, 2, 4, 5]  # reviewed events keep their places
    waiting = [place for place in order if events["verdict"][place] is None]
    odd = [place % 2 for place in waiting]
    assert odd[:3] == [1, 1, 1]
    assert odd[-12:] == 12 * [0]


def test_events_whose_scores_come_from_the_same_signal_are_alike():
    rng, n = np.random.default_rng(0), 40
    first = [["x", "y"], ["y", "x"]]  # the largest share first
    events = queue_of(n, latent=rng.normal(size=(n, 2)).tolist(), signals=[first[i % 2] for i in range(n)])
    events["shares"] = [[0.9, 0.1]] * n
    order, _ = QueueOrder()(said(events, e000000="noise", e000002="noise", e000001="fault"))
    waiting = [place % 2 for place in order if place > 2]
    assert np.mean(waiting[:15]) > 0.8
    assert np.mean(waiting[-15:]) < 0.2


def test_verdicts_move_no_event_of_another_model():
    events = queue_of(model_id=["m"] * 20 + ["other"] * 20)
    order, counted = QueueOrder()(said(events, e000000="noise"))
    assert counted == 1
    assert list(order[20:]) == list(range(20, 40))
    assert list(order[:20]) != list(range(20))
    ragged = events.assign(latent=[*events["latent"][:39], [0.0]])  # codes that cannot be compared
    assert QueueOrder()(said(ragged, e000020="noise"))[1] == 0


def test_a_verdict_on_a_long_queue_takes_one_column_of_work(monkeypatch):
    """Codes are prepared once, then a verdict compares its event with the others; a wall clock is in the benchmark."""
    prepared, compared = [], []
    leaves, alike = verdicts._leaves, VerdictScores._alike
    monkeypatch.setattr(verdicts, "_leaves", lambda rows, seed: prepared.append(len(rows)) or leaves(rows, seed))
    monkeypatch.setattr(VerdictScores, "_alike", lambda self, rows: compared.extend(rows) or alike(self, rows))
    events, order_of, given = queue_of(3000), QueueOrder(), {}
    for place in range(0, 30, 3):
        given[f"e{place:06}"] = "noise"
        order_of(said(events, **given))
    assert (prepared, compared) == ([3000], list(range(0, 30, 3)))
    order_of(said(queue_of(3001), **given))
    assert prepared == [3000, 3001]
