"""Volume under the surface: published values, and slow but obvious counterparts on random cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volume import evaluation_window, vus


def wavy():
    """Three events, two of them near each other, and scores that come early and late."""
    t = np.arange(120)
    labels = ((t >= 20) & (t < 30)) | ((t >= 60) & (t < 64)) | ((t >= 70) & (t < 85))
    return labels, np.abs(np.sin(0.37 * t)) + 0.8 * ((t >= 24) & (t < 36)) + 0.6 * ((t >= 58) & (t < 80))


@pytest.mark.parametrize(
    ("window", "roc", "pr"),  # of the authors' RangeAUC_volume_opt (TSB-AD, thre=250) on these points
    [
        (0, 0.7901983074396867, 0.5282971318091105),
        (5, 0.8396250646937474, 0.6401717881495989),
        (20, 0.9241209555800105, 0.8282205571281447),
    ],
)
def test_volumes_are_those_of_the_published_implementation(window, roc, pr):
    assert vus(*wavy(), window) == pytest.approx((roc, pr), abs=1e-12)


def range_areas(labels, scores, w, thresholds):
    """Both areas for one buffer, point by point and threshold by threshold, as the paper puts them."""
    n, events = len(labels), []
    for i in range(n):
        if labels[i] and (i == 0 or not labels[i - 1]):
            events.append([i, i])
        elif labels[i]:
            events[-1][1] = i
    soft = np.zeros(n)
    for i in range(n):
        steps = [max(begin - i, i - end, 0) for begin, end in events]
        soft[i] = min(1.0, sum(1.0 if d == 0 else np.sqrt(1 - d / w) for d in steps if d <= w // 2))
    stretches = [list(events[0])]
    for begin, end in events[1:]:
        if begin - w // 2 <= stretches[-1][1] + w // 2:
            stretches[-1][1] = end
        else:
            stretches.append([begin, end])
    curve, ranked = [(0.0, 0.0, 1.0)], sorted(scores, reverse=True)
    for rank in np.linspace(0, n - 1, thresholds).astype(int):
        flagged = [s >= ranked[rank] for s in scores]
        hit = sum(soft[i] for i in range(n) if flagged[i])
        anomalous = sum(labels) + sum(soft[i] for i in range(n) if flagged[i] and not labels[i]) / 2
        found = [any(flagged[max(b - w // 2, 0) : e + w // 2 + 1]) for b, e in stretches]
        recall = min(hit / anomalous, 1) * sum(found) / len(found)
        curve.append((recall, (sum(flagged) - hit) / (n - anomalous), hit / sum(flagged)))
    roc = sum((b[1] - a[1]) * (a[0] + b[0]) / 2 for a, b in itertools.pairwise([*curve, (1.0, 1.0, 0.0)]))
    return roc, sum((b[0] - a[0]) * b[2] for a, b in itertools.pairwise(curve))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([3, 20, 250]))
def test_volumes_agree_with_the_definition(seed, window, thresholds):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.random(12) < 0.3, rng.integers(1, 6, 12))
    labels[0], labels[-1] = True, False
    scores = np.round(rng.normal(size=len(labels)) + labels, 1)
    slow = np.mean([range_areas(labels, scores, w, thresholds) for w in range(window + 1)], axis=0)
    assert vus(labels, scores, window, thresholds) == pytest.approx(tuple(slow))


def test_volumes_of_one_class_are_undefined():
    assert np.isnan(vus([True, True], [1, 2], 3)).all()
    assert np.isnan(vus([False, False], [1, 2], 3)).all()


def test_a_negative_buffer_is_refused():
    with pytest.raises(ValueError, match="window=-1 is negative"):
        vus([True, False], [1, 2], -1)


def test_the_evaluation_window_is_the_period():
    t = np.arange(2000)
    noise = 0.1 * np.random.default_rng(0).normal(size=2000)
    assert evaluation_window(np.sin(2 * np.pi * t / 37) + noise) == 37
    assert evaluation_window(np.sin(2 * np.pi * t / 350)) == 125  # a lag that the rule finds too long
    assert evaluation_window(np.arange(5.0)) == 125
