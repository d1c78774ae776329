"""The report: one self-contained page, safe against hostile names, and honest about baselines."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from anomalyvae.calibration import few_calibrate
from anomalyvae.evaluate import charts, report
from anomalyvae.evaluate.charts import clock, timeline, window
from anomalyvae.evaluate.report import render_report
from anomalyvae.fleet import REASONS
from anomalyvae.review.reasons import WindowView

HOSTILE = '<script>alert("x")</script>$\\frac{"</svg><b>&'


class Page(HTMLParser):
    """Collects tags with their attributes, and the text that a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def images(self):
        return [attrs["src"] for tag, attrs in self.tags if tag == "img"]


def decoded(uri):
    prefix = "data:image/svg+xml;base64,"
    assert uri.startswith(prefix)
    return base64.b64decode(uri.removeprefix(prefix)).decode()


def view_of(recording="drive", signals=("acc", "gyro"), shares=(0.7, 0.3)):
    around = np.arange(0, 10, 0.2)
    return WindowView(
        recording=recording,
        start_s=4.0,
        end_s=6.0,
        score=12.3,
        near_event=True,
        signals=tuple(signals),
        shares=np.array(shares),
        time_s=np.arange(4, 6, 0.2),
        reconstruction=np.zeros((len(signals), 10)),
        around_time_s=around,
        around=np.tile(np.sin(around), (len(signals), 1)),
    )


def mean_of(auroc, precision, recall):
    return {"auroc": auroc, "average_precision": precision, "event_recall": recall, "alarms_per_hour": 20.0}


def run_of(recordings=("drive",), signal="acc", own=(0.9, 0.6, 0.7), rival=(0.8, 0.5, 0.6)):
    """The arguments of a small report."""
    fold = mean_of(*own) | {
        "own_threshold": {"threshold": 5.0, "event_recall": 1.0, "alarms_per_hour": 9.0},
        "windows": 40, "anomalous": 3, "events": 1, "fit_seconds": 1.0,
    }  # fmt: skip
    figures = {
        "model_id": "abc", "seed": 0, "seconds": 1.5, "detector": {"beta": 0.5},
        "evaluation": {"alarms_per_hour": 60.0, "leave_out": "*", "tolerance_s": 0.5},
        "windows": {
            "signals": [signal], "rate_hz": 5.0, "length_s": 2.0, "stride_s": 1.0, "max_gap_s": 1.0, "where": None,
            "count": 40, "anomalous": 3, "recordings": len(recordings), "hours": 0.1,
        },
        "folds": dict.fromkeys(recordings, fold),
        "mean": mean_of(*own) | {"own_threshold": {"event_recall": 1.0, "alarms_per_hour": 9.0}},
        "baselines": {
            name: {"mean": mean_of(*rival), "folds": {key: mean_of(*rival) for key in recordings}}
            for name in ("row_norm", "knn")
        },
        "versions": {"python": "3.11", "anomalyvae": "0.1"},
    }  # fmt: skip
    start = np.arange(0.0, 40)
    scores = pd.concat(
        pd.DataFrame({"recording": name, "start_s": start, "end_s": start + 2, "anomaly_score": np.sin(start) * 9})
        for name in recordings
    )
    flags = pd.DataFrame(
        [(name, 7.0, 10.0, 8.9, 2, [signal], [1.0], True) for name in recordings],
        columns=["recording", "start_s", "end_s", "peak_score", "windows", "signals", "shares", "near_event"],
    )
    events = pd.DataFrame({"recording": list(recordings), "time_s": 8.0, "kind": "bump"})
    return {"figures": figures, "scores": scores, "flags": flags, "events": events}


def render(views=(), title="bumps", **what):
    return render_report(title, views=views, **run_of(**what))


def test_the_page_loads_nothing_from_the_network():
    html = render(views=[view_of()])
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "svg"})
    assert len(page.images()) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.images())
    assert not re.search(r"url\(|@import|href=|https?:", html)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_the_page_says_what_few_recordings_cannot_show():
    run = run_of()
    assert "can show no p-value" not in render_report("bumps", views=[], **run)
    run["figures"]["folds"]["drive"]["caution"] = few_calibrate(3, "recordings")
    html = render_report("bumps", views=[], **run)
    assert (
        "3 recordings can show no p-value below 0.25, so 5% false alarms in new recordings are not guaranteed" in html
    )


def test_hostile_names_stay_text():
    view = view_of(recording=HOSTILE, signals=(HOSTILE, "gyro"))
    page = Page(render(views=[view], title=HOSTILE, recordings=(HOSTILE,), signal=HOSTILE))
    assert not any(tag in {"script", "b"} and HOSTILE in str(attrs) for tag, attrs in page.tags)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) >= 4  # title, heading, table, flags: shown as they are
    for source in page.images():
        assert "<script" not in decoded(source)


def test_names_in_charts_are_literal_text():
    svg = decoded(window(view_of(signals=("$x_1$ < 2 & y", "gyro"))))
    assert "$x_1$ &lt; 2 &amp; y" in svg


def test_long_names_do_not_run_over_the_chart():
    assert "…" in decoded(window(view_of(signals=("n" * 200, "gyro"))))


def test_only_the_signal_that_contributes_most_is_in_colour():
    vermilion = "#d55e00"
    assert decoded(window(view_of())).count(vermilion) > 0
    assert vermilion not in decoded(window(view_of(shares=(0.0, 0.0))))


def test_figures_and_marks_are_shown():
    text = Page(render()).text
    for shown in ("0.900", "0.600", "0.700", "0.800", "knn", "row_norm", "drive", "60 false alarms per hour", "0:07"):
        assert shown in text


@pytest.mark.parametrize(
    ("own", "rival", "said"),
    [
        ((0.9, 0.6, 0.7), (0.8, 0.5, 0.6), "equals or beats every baseline"),
        ((0.9, 0.6, 0.7), (0.9, 0.6, 0.7), "equals or beats every baseline"),
        ((0.9, 0.6, 0.7), (0.8, 0.65, 0.6), "A baseline beats the detector here: row_norm in average precision"),
        (
            (0.9, 0.6, 0.7),
            (0.95, 0.5, 0.8),
            "row_norm in AUROC (0.950 against 0.900), event recall (0.800 against 0.700)",
        ),
        ((None, None, None), (None, None, None), "Nothing can be measured"),
    ],
)
def test_the_page_says_which_method_is_best(own, rival, said):
    assert said in Page(render(own=own, rival=rival)).text


def test_the_page_says_if_not_all_recordings_have_a_chart():
    page = Page(render(recordings=[f"drive{i}" for i in range(30)]))
    assert len(page.images()) == 12
    assert "12 of 30 recordings" in page.text


def test_nothing_flagged_is_said():
    what = run_of()
    what["flags"] = what["flags"].head(0)
    assert "No window was flagged." in Page(render_report("quiet", **what)).text


def test_the_same_run_gives_the_same_page():
    assert render(views=[view_of()]) == render(views=[view_of()])


def test_a_long_recording_keeps_its_peak_and_a_small_chart():
    start = np.arange(200_000.0)
    scores = pd.DataFrame({"recording": "a", "start_s": start, "end_s": start + 2, "anomaly_score": np.sin(start)})
    scores.loc[123_456, "anomaly_score"] = 50.0
    flags = pd.DataFrame({"recording": ["a"], "start_s": [123_456.0], "end_s": [123_458.0]})
    svg = decoded(timeline(scores, flags, pd.DataFrame({"recording": [], "time_s": []}), 5.0, 0.5))
    assert len(svg) < 200_000
    assert "34:00:00" in svg or "33:20:00" in svg or re.search(r"\d+:00:00", svg)
    assert svg.count("#d55e00") >= 2  # the flag, and the score above the threshold


@pytest.mark.filterwarnings("error")
def test_one_window_is_enough_for_a_timeline():
    scores = pd.DataFrame({"recording": ["a"], "start_s": [0.0], "end_s": [2.0], "anomaly_score": [1.0]})
    none = pd.DataFrame({"recording": [], "start_s": [], "end_s": []})
    assert "<svg" in decoded(timeline(scores, none, none, 1.0, 0.5))


def test_clock_reads_like_a_recording_s_time():
    assert [clock(s) for s in (0, 59.96, 61.25, 3600)] == ["0:00", "1:00", "1:01.2", "1:00:00"]


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(ImportError, match=r"needs jinja2. .* pip install 'anomalyvae\[report\]'"):
        render()


def drawn(monkeypatch, make):
    """The figure of a chart, with its canvas."""
    found = []
    monkeypatch.setattr(charts, "_svg", lambda draw, *size: found.append(charts.figure_of(draw, *size)))
    make()
    found[0].canvas.draw()
    return found[0]


def within(figure, labels):
    boxes = [label.get_window_extent() for label in labels]
    return all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_last_label_of_the_time_axis_is_whole(monkeypatch):
    start = np.arange(0.0, 598.0, 2.0)
    scores = pd.DataFrame({"start_s": start, "end_s": start + 4.0, "anomaly_score": np.sin(start)})
    nothing = pd.DataFrame({"recording": [], "start_s": [], "end_s": []})
    figure = drawn(monkeypatch, lambda: timeline(scores, nothing, nothing, 0.5, 0.0))
    last = [label for label in figure.axes[0].get_xticklabels() if label.get_text() == "10:00"]
    assert len(last) == 1
    assert within(figure, last)


@pytest.mark.parametrize(("name", "most"), [("truck1", 0.15), ("2026-03-01 " * 5, 0.3)])
def test_names_of_recordings_have_the_room_that_they_need(monkeypatch, name, most):
    ranking = pd.DataFrame({"recording": [name + str(n) for n in range(3)], "unlike": [3.0, 2.0, 1.0], "p_value": 0.5})
    ranking = ranking.assign(share_flagged=0.1, brief=1.0, lasting=2.0, reason=REASONS[0], place=[1, 2, 3])
    figure = drawn(monkeypatch, lambda: charts.fleet(ranking))
    assert within(figure, figure.axes[0].get_yticklabels())
    assert figure.axes[0].get_position().x0 < most
