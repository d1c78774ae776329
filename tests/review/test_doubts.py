"""New normals that look like known faults are told from those that look like known normal events."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae.review.doubts import doubts_about, flagged_peaks, peaks_in

PARTS = np.repeat(["a", "b", "c", "d"], 25)
FAULT = np.arange(100) % 5 < 2


def events(fault, rng):
    """Faults lie elsewhere, not far from normal events."""
    return rng.normal(size=(len(fault), 4)) + 3.0 * fault[:, None] * [1, 0, 1, 0]


def doubts(lies, seed=0, normal=20):
    rng = np.random.default_rng(seed)
    known = events(FAULT, rng)
    return doubts_about(events(np.arange(normal + lies) >= normal, rng), known, FAULT, PARTS)


def test_lies_are_refused_and_named_and_true_verdicts_pass():
    honest = [doubts(0, seed) for seed in range(8)]
    lied = [doubts(5, seed) for seed in range(8)]
    assert sum(found.refused for found in honest) <= 1
    assert sum(found.refused for found in lied) >= 7
    named = np.concatenate([found.doubtful()[:3] for found in lied])
    assert (named >= 20).mean() > 0.8
    for found in lied:
        assert (np.diff(found.like_fault[found.doubtful()]) <= 0).all()
        assert (found.like_fault[found.doubtful()] > 0).all()


def test_the_test_says_what_it_counted():
    found = doubts(5)
    new, known = (found.like_fault > 0).sum(), (found.of_normal > 0).sum()
    assert f"{new} of 25, and {known} of 60 normal events of the hold-out" in str(found)
    assert len(found.of_normal) == (~FAULT).sum()


def test_first_scores_and_order_do_not_count():
    rng = np.random.default_rng(1)
    known, new = events(FAULT, rng), events(np.zeros(20, bool), rng)
    one = doubts_about(new, known, FAULT, PARTS)
    assert one.p_value == doubts_about(new, known, FAULT, PARTS).p_value
    renamed = doubts_about(new, known, FAULT, np.char.add("part ", PARTS))
    assert renamed.like_fault == pytest.approx(one.like_fault)


@pytest.mark.parametrize("faults", [0, 4, 96, 100])
def test_too_few_known_events_say_nothing(faults):
    rng = np.random.default_rng(0)
    fault = np.arange(100) < faults
    assert doubts_about(events(fault, rng), events(fault, rng), fault, PARTS) is None
    assert doubts_about(np.empty((0, 4)), events(FAULT, rng), FAULT, PARTS) is None


def test_many_known_events_are_sampled():
    rng = np.random.default_rng(0)
    fault = np.arange(2000) % 2 == 0
    found = doubts_about(events(np.zeros(5, bool), rng), events(fault, rng), fault, np.repeat(PARTS, 20))
    assert len(found.of_normal) == 300


SPANS = pd.DataFrame({"recording": ["a"] * 6 + ["b"] * 2, "start_s": [0.0, 1, 2, 3, 4, 5, 0, 1]})
SPANS = SPANS.assign(end_s=SPANS["start_s"] + 1)
SCORES = np.array([1.0, 5, 2, 3, 9, 1, 7, 8])


def test_an_event_is_its_most_anomalous_window():
    intervals = pd.DataFrame({"recording": ["a", "c", "b", "a"], "start_s": [0.5, 0, 0, 8], "end_s": [3.5, 9, 1, 9]})
    windows, places = peaks_in(SPANS, SCORES, intervals)
    assert windows.tolist() == [1, 6]
    assert places.tolist() == [0, 2]


def test_long_flagged_stretches_are_cut():
    flagged = np.array([1, 1, 1, 1, 1, 0, 1, 1], dtype=bool)
    assert sorted(flagged_peaks(SPANS, SCORES, flagged, 2.0).tolist()) == [1, 3, 4, 7]
    assert sorted(flagged_peaks(SPANS, SCORES, flagged, 100.0).tolist()) == [4, 7]
