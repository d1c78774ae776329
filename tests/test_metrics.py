"""Metrics of rankings and alarms: hand-made cases, and slow but obvious counterparts on random ones."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyvae import metrics
from anomalyvae.events import check_matches, covered_hours, event_spans, merge_alarms, read_events, touches

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
    # anomalous, normal, anomalous: precision 1 at the first half of recall, 2/3 at the second
    assert metrics.average_precision([True, False, True], [3, 2, 1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("figure", [metrics.auroc, metrics.average_precision])
@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_a_ranking_of_one_class_is_undefined(figure, labels):
    assert math.isnan(figure(labels, np.arange(len(labels))))


@pytest.mark.parametrize("figure", [metrics.auroc, metrics.average_precision])
@pytest.mark.parametrize(
    "labels",
    [
        [True, None, False],
        [1.0, float("nan"), 0.0],
        pd.array([True, None, False], dtype="boolean"),
        np.ma.array([True, True, False], mask=[False, True, False]),
    ],
)
def test_a_missing_label_is_refused(figure, labels):
    with pytest.raises(ValueError, match=r"Got labels of which 1 of 3 are missing, the first in row 1"):
        figure(labels, [0.1, 0.2, 0.3])


@pytest.mark.parametrize("figure", [metrics.auroc, metrics.average_precision])
def test_scores_that_cannot_be_ranked_are_refused(figure):
    with pytest.raises(ValueError, match="Got 2 scores for 3 windows, expected one score each"):
        figure([True, False, True], [1, 2])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
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
    assert touches(spans, events, tolerance_s).tolist() == slow


def test_events_with_a_length_touch_what_they_overlap():
    events = pd.DataFrame({"recording": ["a"], "time_s": [3.0], "start_s": [3.0], "end_s": [7.0]})
    touched = touches(spans_of((0, 2), (2, 4), (4, 6), (6, 8), (8, 10)), events)
    assert touched.tolist() == [False, True, True, True, False]


def test_an_event_belongs_to_its_own_recording():
    assert not touches(spans_of((0, 2)), marks(1.0, recording="b")).any()


def test_alarms_merge_what_touches_and_nothing_else():
    spans = spans_of((0, 2), (1, 3), (3, 5), (5.1, 7), (20, 22))
    alarms = merge_alarms(spans, [True, True, True, True, False])
    assert alarms[["start_s", "end_s", "windows"]].to_numpy().tolist() == [[0, 5, 3], [5.1, 7, 1]]
    assert [list(members) for members in alarms["members"]] == [[0, 1, 2], [3]]


def test_a_long_window_bridges_short_ones():
    alarms = merge_alarms(spans_of((0, 10), (1, 2), (9, 11)), [True] * 3)
    assert alarms[["start_s", "end_s"]].to_numpy().tolist() == [[0, 11]]


def test_alarms_never_join_two_recordings():
    spans = pd.concat([spans_of((0, 2)), spans_of((1, 3), recording="b")])
    assert len(merge_alarms(spans, [True, True])) == 2


def test_decimal_steps_that_do_not_add_up_still_touch():
    starts = np.arange(50) * 0.1
    assert len(merge_alarms(spans_of(*zip(starts, starts + 0.1, strict=True)), [True] * 50)) == 1


@quick
@given(cases(), st.randoms(use_true_random=False))
def test_alarms_do_not_depend_on_the_order_of_the_windows(case, random):
    scores, spans, _ = case
    order = list(range(len(spans)))
    random.shuffle(order)
    columns = ["recording", "start_s", "end_s", "windows"]
    ours = merge_alarms(spans, scores > 3)[columns]
    theirs = merge_alarms(spans.iloc[order], scores[order] > 3)[columns]
    by = ["recording", "start_s"]
    pd.testing.assert_frame_equal(ours.sort_values(by, ignore_index=True), theirs.sort_values(by, ignore_index=True))


def test_no_flag_is_no_alarm():
    assert merge_alarms(spans_of((0, 2)), [False]).empty


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


def test_recall_counts_unscored_events_of_these_recordings_and_none_of_others():
    events = pd.concat([marks(1.0, 500.0), marks(1.0, 9.0, recording="b")])
    assert metrics.event_recall([5, 0], spans_of((0, 2), (2, 4)), events, alarms_per_hour=0) == 0.5


def test_false_alarms_are_counted_per_hour_that_could_have_raised_them():
    starts = np.arange(0, 3600, 1.0)
    spans = spans_of(*zip(starts, starts + 2, strict=True))  # overlapping: the hour counts once
    flagged = np.isin(starts, [100, 101, 102, 2000])  # two alarms
    assert metrics.false_alarms_per_hour(flagged, spans, marks()) == pytest.approx(2, rel=1e-3)
    assert metrics.false_alarms_per_hour(flagged, spans, marks(2001.0)) == pytest.approx(1, rel=2e-3)


def test_the_rate_is_nan_if_every_window_touches_an_event():
    assert math.isnan(metrics.false_alarms_per_hour([True], spans_of((0, 2)), marks(1.0)))


def test_hours_are_those_covered():
    spans = pd.concat([spans_of((0, 1800), (900, 2700)), spans_of((0, 900), recording="b")])
    assert covered_hours(spans) == pytest.approx(1.0)


def test_a_negative_rate_is_refused():
    with pytest.raises(ValueError, match="alarms_per_hour=-1 is negative"):
        metrics.alarm_threshold([1.0], spans_of((0, 2)), marks(), -1)


def test_flags_must_match_the_windows():
    with pytest.raises(ValueError, match="Got 1 flags for 2 windows"):
        merge_alarms(spans_of((0, 2), (2, 4)), [True])


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


# Tables of events


def test_events_are_read_from_csv_and_parquet_with_recordings_as_text(tmp_path):
    events = pd.DataFrame({"recording": ["007", "8"], "time_s": [1.5, 2.0], "kind": "bump"})
    events.to_csv(tmp_path / "events.csv", index=False)
    events.assign(recording=["7", "8"]).astype({"recording": int}).to_parquet(tmp_path / "events.parquet")
    assert read_events(tmp_path / "events.csv").to_dict("list") == events.to_dict("list")
    assert read_events(str(tmp_path / "events.parquet"))["recording"].tolist() == ["7", "8"]


@pytest.mark.parametrize("columns", ["drive,time_s", "recording,when", "recording,start_s"])
def test_a_table_of_events_without_its_columns_is_refused(tmp_path, columns):
    (tmp_path / "events.csv").write_text(columns + "\n")
    with pytest.raises(
        ValueError, match=f"has the columns {columns.replace(',', ', ')}; .* needs recording and time_s"
    ):
        read_events(tmp_path / "events.csv")


# Events that match no window


def test_events_that_match_no_window_are_refused_or_named():
    windows = spans_of((0, 2), (2, 4))
    events = event_spans(pd.concat([marks(3), marks(3, recording="A"), marks(1.7e9)], ignore_index=True))
    with pytest.warns(
        UserWarning, match=r"1 of 3 events name other recordings, such as 'A'.*1 of 3 .* outside"
    ) as said:
        check_matches(events, windows)
    assert "reach from 0 to 4 s" in str(said[0].message)
    with pytest.raises(ValueError, match="Correct the events"):
        check_matches(events[1:], windows)
    check_matches(events[:1], windows)


def test_events_without_a_time_are_refused():
    with pytest.raises(ValueError, match="1 of 2 events have no time"):
        event_spans(marks(1, np.nan))
    with pytest.raises(ValueError, match=r"1 of 2 events have no time .* time_s=inf"):
        event_spans(marks(1, np.inf))


@pytest.mark.parametrize("time", ["00:00:50", pd.Timestamp("2026-05-01"), pd.Timedelta("50s")])
def test_events_with_times_that_are_no_seconds_are_refused(time):
    events = pd.DataFrame({"recording": "a", "start_s": [time], "end_s": [time]})
    with pytest.raises(ValueError, match=r"1 cells in column start_s of the events are no numbers, such as '.*5"):
        event_spans(events)
    assert event_spans(events.assign(start_s="1", end_s=2).astype(object))["end_s"].tolist() == [2.0]
