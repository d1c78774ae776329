"""Figures on rankings and alarms: hand-made cases, and slow but obvious counterparts on random ones."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyvae import metrics

quick = settings(max_examples=40, deadline=None)  # the time of one example says nothing on a busy machine


def spans_of(*windows, recording="a"):
    return pd.DataFrame(
        [(recording, float(start), float(end)) for start, end in windows], columns=["recording", "start_s", "end_s"]
    )


def marks(*times, recording="a"):
    return pd.DataFrame({"recording": [recording] * len(times), "time_s": np.array(times, dtype=float)})


@st.composite
def cases(draw):
    """Windows of two recordings with scores that tie often, and some marks."""
    n = draw(st.integers(1, 25))
    starts = draw(st.lists(st.integers(0, 60), min_size=n, max_size=n))
    names = draw(st.lists(st.sampled_from("ab"), min_size=n, max_size=n))
    scores = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    spans = pd.DataFrame({"recording": names, "start_s": np.array(starts, float)})
    spans["end_s"] = spans["start_s"] + 2.0
    times = draw(st.lists(st.integers(0, 62), max_size=5))
    events = pd.DataFrame({"recording": "a", "time_s": np.array(times, float)})
    return np.array(scores, float), spans, events


# Ranking


def test_auroc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(60) < 0.3, rng.integers(0, 6, 60)
    pairs = [(p > q) + 0.5 * (p == q) for p in scores[labels] for q in scores[~labels]]
    assert metrics.auroc(labels, scores) == pytest.approx(np.mean(pairs))


def test_average_precision_of_a_hand_made_ranking():
    # strange, normal, strange: precision 1 at the first half of recall, 2/3 at the second
    assert metrics.average_precision([True, False, True], [3, 2, 1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("figure", [metrics.auroc, metrics.average_precision])
@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_a_ranking_of_one_class_is_undefined(figure, labels):
    assert math.isnan(figure(labels, np.arange(len(labels))))


@pytest.mark.parametrize("figure", [metrics.auroc, metrics.average_precision])
def test_scores_that_cannot_be_ranked_are_refused(figure):
    with pytest.raises(ValueError, match="Got 2 scores for 3 windows, expected one each"):
        figure([True, False, True], [1, 2])
    with pytest.raises(ValueError, match="Got NaN in 1 of 2 scores"):
        figure([True, False], [1, np.nan])


# Windows, events, alarms


@quick
@given(cases(), st.sampled_from([0.0, 0.5, 3.0]))
def test_touches_agrees_with_looking_at_every_pair(case, tolerance_s):
    _, spans, events = case
    slow = [
        any(
            event.recording == window.recording
            and window.start_s - tolerance_s <= event.time_s <= window.end_s + tolerance_s
            for event in events.itertuples()
        )
        for window in spans.itertuples()
    ]
    assert metrics.touches(spans, events, tolerance_s).tolist() == slow


def test_events_with_a_length_touch_what_they_overlap():
    events = pd.DataFrame({"recording": ["a"], "time_s": [3.0], "start_s": [3.0], "end_s": [7.0]})
    assert metrics.touches(spans_of((0, 2), (2, 4), (4, 6), (6, 8), (8, 10)), events).tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_an_event_belongs_to_its_own_recording():
    assert not metrics.touches(spans_of((0, 2)), marks(1.0, recording="b")).any()


def test_alarms_merge_what_touches_and_nothing_else():
    spans = spans_of((0, 2), (1, 3), (3, 5), (5.1, 7), (20, 22))
    alarms = metrics.merge_alarms(spans, [True, True, True, True, False])
    assert alarms[["start_s", "end_s", "windows"]].to_numpy().tolist() == [[0, 5, 3], [5.1, 7, 1]]
    assert [list(members) for members in alarms["members"]] == [[0, 1, 2], [3]]


def test_a_long_window_bridges_short_ones():
    alarms = metrics.merge_alarms(spans_of((0, 10), (1, 2), (9, 11)), [True] * 3)
    assert alarms[["start_s", "end_s"]].to_numpy().tolist() == [[0, 11]]


def test_alarms_never_join_two_recordings():
    spans = pd.concat([spans_of((0, 2)), spans_of((1, 3), recording="b")])
    assert len(metrics.merge_alarms(spans, [True, True])) == 2


def test_decimal_steps_that_do_not_add_up_still_touch():
    starts = np.arange(50) * 0.1
    assert len(metrics.merge_alarms(spans_of(*zip(starts, starts + 0.1, strict=True)), [True] * 50)) == 1


@quick
@given(cases(), st.randoms(use_true_random=False))
def test_alarms_do_not_depend_on_the_order_of_the_windows(case, random):
    scores, spans, _ = case
    order = list(range(len(spans)))
    random.shuffle(order)
    columns = ["recording", "start_s", "end_s", "windows"]
    ours = metrics.merge_alarms(spans, scores > 3)[columns]
    theirs = metrics.merge_alarms(spans.iloc[order], scores[order] > 3)[columns]
    by = ["recording", "start_s"]
    pd.testing.assert_frame_equal(ours.sort_values(by, ignore_index=True), theirs.sort_values(by, ignore_index=True))


def test_no_flag_is_no_alarm():
    assert metrics.merge_alarms(spans_of((0, 2)), [False]).empty


# Alarms at a price


@quick
@given(cases(), st.sampled_from([0, 60, 200, 1000]), st.sampled_from([0.0, 0.5]))
def test_the_threshold_is_the_last_one_within_the_budget(case, rate, tolerance_s):
    scores, spans, events = case
    threshold = metrics.alarm_threshold(scores, spans, events, rate, tolerance_s)

    def within(candidate):
        per_hour = metrics.false_alarms_per_hour(scores >= candidate, spans, events, tolerance_s)
        return math.isnan(per_hour) or per_hour <= rate + 1e-6  # NaN: nowhere to raise a false alarm

    kept = sorted(set(scores), reverse=True)
    first_excess = next((i for i, candidate in enumerate(kept) if not within(candidate)), len(kept))
    assert threshold == (kept[first_excess - 1] if first_excess else math.inf)


@quick
@given(cases())
def test_recall_never_falls_as_more_false_alarms_are_allowed(case):
    scores, spans, events = case
    recalls = [metrics.event_recall(scores, spans, events, rate) for rate in (0, 60, 300, 3000)]
    assert all(math.isnan(recall) for recall in recalls) if events.empty else recalls == sorted(recalls)


def test_recall_counts_events_not_windows():
    spans = spans_of(*[(i, i + 1) for i in range(0, 100, 2)])
    scores = np.zeros(50)
    scores[[5, 6, 7, 40]] = [9, 8, 7, 1]  # windows at 10, 12, 14 and 80 s
    found_one_of_two = metrics.event_recall(scores, spans, marks(10.5, 12.5, 14.5, 70.5), alarms_per_hour=0)
    assert found_one_of_two == 0.75


def test_tolerance_widens_what_counts_as_found():
    spans, scores = spans_of((0, 2), (10, 12)), [1.0, 0.0]
    assert metrics.event_recall(scores, spans, marks(2.4), alarms_per_hour=0, tolerance_s=0.5) == 1.0
    assert metrics.event_recall(scores, spans, marks(2.4), alarms_per_hour=0) == 0.0


def test_an_event_where_nothing_was_scored_is_missed():
    spans = spans_of((0, 2), (2, 4))
    assert metrics.event_recall([5, 0], spans, marks(1.0, 500.0), alarms_per_hour=0) == 0.5


def test_events_of_other_recordings_are_not_asked_for():
    events = pd.concat([marks(1.0), marks(1.0, 9.0, recording="b")])
    assert metrics.event_recall([5, 0], spans_of((0, 2), (2, 4)), events, alarms_per_hour=0) == 1.0


def test_false_alarms_are_counted_per_hour_that_could_have_raised_them():
    starts = np.arange(0, 3600, 1.0)
    spans = spans_of(*zip(starts, starts + 2, strict=True))  # overlapping: the hour counts once
    flagged = np.isin(starts, [100, 101, 102, 2000])  # two alarms
    assert metrics.false_alarms_per_hour(flagged, spans, marks()) == pytest.approx(2, rel=1e-3)
    assert metrics.false_alarms_per_hour(flagged, spans, marks(2001.0)) == pytest.approx(1, rel=2e-3)


def test_without_time_for_a_false_alarm_their_rate_is_undefined():
    assert math.isnan(metrics.false_alarms_per_hour([True], spans_of((0, 2)), marks(1.0)))


def test_hours_are_those_covered():
    spans = pd.concat([spans_of((0, 1800), (900, 2700)), spans_of((0, 900), recording="b")])
    assert metrics.covered_hours(spans) == pytest.approx(1.0)


def test_a_negative_rate_is_refused():
    with pytest.raises(ValueError, match="Got alarms_per_hour=-1, expected 0 or more"):
        metrics.alarm_threshold([1.0], spans_of((0, 2)), marks(), -1)


def test_flags_must_match_the_windows():
    with pytest.raises(ValueError, match="Got 1 flags for 2 windows"):
        metrics.merge_alarms(spans_of((0, 2), (2, 4)), [True])


def test_precision_counts_alarms_not_windows():
    spans = spans_of((0, 2), (1, 3), (10, 12), (20, 22))
    assert metrics.event_precision([True, True, True, False], spans, marks(1.5)) == 0.5
    assert math.isnan(metrics.event_precision([False] * 4, spans, marks(1.5)))


def test_a_delay_runs_until_the_first_flagged_window_is_over():
    spans = spans_of((0, 2), (2, 4), (4, 6), (20, 22))
    events = pd.DataFrame({"recording": "a", "start_s": [1.0, 3.5, 10.0, 20.5], "end_s": [9.0, 9.0, 11.0, 21.0]})
    delays = metrics.event_delays([False, True, True, True], spans, events)
    assert delays[[0, 1, 3]].tolist() == [3.0, 0.5, 1.5]
    assert math.isnan(delays[2])
    other = events.assign(recording="b")
    assert np.isnan(metrics.event_delays([True] * 4, spans, other)).all()


@quick
@given(cases())
def test_events_with_a_delay_are_those_found(case):
    scores, spans, events = case
    delays = metrics.event_delays(scores > 3, spans, events)
    ours = events[events["recording"].isin(spans["recording"])]
    if len(ours):
        assert (~np.isnan(delays)).mean() == pytest.approx(metrics.found_share(scores > 3, spans, ours))


# Volume under the surface


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
    assert metrics.vus(*wavy(), window) == pytest.approx((roc, pr), abs=1e-12)


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
        strange = sum(labels) + sum(soft[i] for i in range(n) if flagged[i] and not labels[i]) / 2
        found = [any(flagged[max(b - w // 2, 0) : e + w // 2 + 1]) for b, e in stretches]
        recall = min(hit / strange, 1) * sum(found) / len(found)
        curve.append((recall, (sum(flagged) - hit) / (n - strange), hit / sum(flagged)))
    roc = sum((b[1] - a[1]) * (a[0] + b[0]) / 2 for a, b in itertools.pairwise([*curve, (1.0, 1.0, 0.0)]))
    return roc, sum((b[0] - a[0]) * b[2] for a, b in itertools.pairwise(curve))


@quick
@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([3, 20, 250]))
def test_volumes_agree_with_the_definition(seed, window, thresholds):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.random(12) < 0.3, rng.integers(1, 6, 12))
    labels[0], labels[-1] = True, False
    scores = np.round(rng.normal(size=len(labels)) + labels, 1)
    slow = np.mean([range_areas(labels, scores, w, thresholds) for w in range(window + 1)], axis=0)
    assert metrics.vus(labels, scores, window, thresholds) == pytest.approx(tuple(slow))


def test_volumes_of_one_class_are_undefined():
    assert np.isnan(metrics.vus([True, True], [1, 2], 3)).all()
    assert np.isnan(metrics.vus([False, False], [1, 2], 3)).all()


def test_a_negative_buffer_is_refused():
    with pytest.raises(ValueError, match="Got window=-1, expected a number of points, 0 or more"):
        metrics.vus([True, False], [1, 2], -1)


def test_the_evaluation_window_is_the_period():
    t = np.arange(2000)
    noise = 0.1 * np.random.default_rng(0).normal(size=2000)
    assert metrics.evaluation_window(np.sin(2 * np.pi * t / 37) + noise) == 37
    assert metrics.evaluation_window(np.sin(2 * np.pi * t / 350)) == 125  # a lag that the rule finds too long
    assert metrics.evaluation_window(np.arange(5.0)) == 125


# Affiliation


def of_intervals(alarms, events, reach):
    """Affiliation of alarms given as intervals: each is a window, and a window that was not flagged spans it all."""
    spans = spans_of(reach, *alarms)
    wanted = pd.DataFrame(events, columns=["start_s", "end_s"]).assign(recording="a")
    return metrics.affiliation([False] + [True] * len(alarms), spans, wanted)


PAPER_EVENTS = [(0, 10), (50, 70), (170, 175)]
PAPER_ALARMS = [(5, 6), (7, 10), (11, 12), (40, 60), (115, 130), (135, 140), (165, 170)]


def test_affiliation_has_the_published_values():
    # the paper's own example, figure 5: the zone of its second event is 30 to 120
    near = of_intervals([(40, 60), (115, 120)], [(50, 70)], (30, 120))
    assert near == pytest.approx((0.672222222, 0.944444444), abs=1e-9)


def brute_affiliation(alarms, events, reach, points=6000):
    """The chances of the definition on a fine grid."""
    grid = np.linspace(*reach, points * 2 + 1)[1::2]
    borders = [reach[0], *[(a[1] + b[0]) / 2 for a, b in itertools.pairwise(events)], reach[1]]
    precisions, recalls = [], []
    for (begin, end), low, high in zip(events, borders[:-1], borders[1:], strict=True):
        zone = grid[(grid > low) & (grid < high)]
        raised = zone[np.any([(zone > a) & (zone < b) for a, b in alarms], axis=0)]
        if not raised.size:
            recalls.append(0.0)
            continue
        d = np.maximum(np.maximum(begin - zone, zone - end), 0)
        own = np.maximum(np.maximum(begin - raised, raised - end), 0)
        precisions.append(np.where(own == 0, 1, (d[None] > own[:, None]).mean(1)).mean())
        event = zone[(zone > begin) & (zone < end)]
        to_alarm = np.abs(event[:, None] - raised[None]).min(1)
        to_alarm[np.isin(event, raised)] = 0
        further = (np.abs(event[:, None] - zone[None]) > to_alarm[:, None]).mean(1)
        recalls.append(np.where(to_alarm == 0, 1, further).mean())
    return np.mean(precisions), np.mean(recalls)


@pytest.mark.parametrize(
    ("alarms", "events", "reach"),
    [
        (PAPER_ALARMS, PAPER_EVENTS, (0, 180)),
        ([(1, 3), (6, 18), (25, 26)], [(1, 8), (16, 17), (25, 28), (29, 31)], (1, 40)),
        ([(0, 40)], [(10, 12), (30, 31)], (0, 40)),
        ([(3, 4)], [(10, 12), (30, 31)], (0, 40)),
    ],
)
def test_affiliation_agrees_with_its_definition(alarms, events, reach):
    assert of_intervals(alarms, events, reach) == pytest.approx(brute_affiliation(alarms, events, reach), abs=5e-3)


def test_affiliation_without_alarms_or_without_events():
    nothing = of_intervals([], PAPER_EVENTS, (0, 180))
    assert math.isnan(nothing.precision)
    assert nothing.recall == 0
    assert np.isnan(metrics.affiliation([True], spans_of((0, 2)), marks(1.0, recording="b"))).all()


def test_affiliation_of_marks_takes_a_tolerance():
    with pytest.raises(ValueError, match="Got an event of recording 'a' without a length"):
        metrics.affiliation([True, False], spans_of((0, 2), (2, 9)), marks(1.0))
    assert metrics.affiliation([True, False], spans_of((0, 2), (2, 9)), marks(1.0), tolerance_s=1.0) == (1.0, 1.0)
