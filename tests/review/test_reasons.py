"""Flagged windows are merged to events, with the signals behind their scores."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae import WindowRecipe
from anomalyvae.health.sensors import signal_scores
from anomalyvae.recordings import log_from_frame
from anomalyvae.review.reasons import excess_shares, explained_flags, window_view

RECIPE = WindowRecipe(("x", "y"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)


class Halving:
    """Stands in for a detector: a cell's score is its value, its reconstruction half of it."""

    def feature_scores(self, rows):
        return rows

    def reconstruct(self, rows):
        return rows / 2


@pytest.fixture
def drive():
    """Signals that are their own time stamps, so that what is gathered can be told."""
    time_s = np.concatenate([np.arange(0, 10, 0.2), np.arange(20, 30, 0.2)])
    return pd.DataFrame({"time_s": time_s, "x": time_s, "y": -time_s})


@pytest.fixture
def windows(drive):
    return RECIPE.windows(log_from_frame(drive, "drive"))


def test_an_event_takes_its_reasons_from_its_strangest_window():
    spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1, 2, 9], "end_s": [2.0, 3, 4, 11]})
    excess = np.array([[5.0, 0], [1, 3], [9, 9], [-1, 2]])
    flags = explained_flags(spans, np.array([4.0, 8, 5, 9]), [True, True, False, True], excess, ("x", "y"))
    assert flags["peak_score"].tolist() == [9, 8]
    assert flags["peak"].tolist() == [3, 1]
    assert flags["windows"].tolist() == [1, 2]
    assert flags["signals"].tolist() == [["y", "x"], ["y", "x"]]
    assert flags["shares"].tolist() == [[1.0, 0.0], [0.75, 0.25]]


def test_no_flag_gives_an_empty_table_of_the_same_form():
    spans = pd.DataFrame({"recording": ["a"], "start_s": [0.0], "end_s": [2.0]})
    some = explained_flags(spans, np.array([1.0]), [True], np.ones((1, 1)), ("x",))
    none = explained_flags(spans, np.array([1.0]), [False], np.ones((1, 1)), ("x",))
    assert none.empty
    assert list(none) == list(some)


def test_shares_add_up_or_are_zero():
    shares = excess_shares(np.array([[1.0, 3.0], [-2.0, -1.0], [4.0, -4.0]]))
    assert shares.tolist() == [[0.25, 0.75], [0, 0], [1, 0]]


def test_a_signal_s_score_is_its_cells_over_time(windows):
    scores = signal_scores(Halving(), windows.rows, RECIPE)
    np.testing.assert_allclose(scores[:, 0], windows.rows.filter(like="x@").sum(axis=1))
    np.testing.assert_allclose(scores[:, 1], windows.rows.filter(like="y@").sum(axis=1))


def test_a_view_holds_the_window_and_what_surrounds_it(windows):
    position = int(np.flatnonzero(windows.spans["start_s"] == 3.0)[0])
    view = window_view(Halving(), RECIPE, windows, position, 7.0, True, np.array([1.0, 0.0]))
    assert (view.recording, view.start_s, view.end_s, view.score) == ("drive", 3.0, 5.0, 7.0)
    np.testing.assert_allclose(view.time_s, np.arange(3, 5, 0.2))
    np.testing.assert_allclose(view.reconstruction[0], view.time_s / 2)
    np.testing.assert_allclose(view.around_time_s, np.arange(0, 9.1, 0.2), atol=1e-9)
    np.testing.assert_allclose(view.around, [view.around_time_s, -view.around_time_s])


def test_the_surroundings_stop_at_a_gap(windows):
    position = int(np.flatnonzero(windows.spans["start_s"] == 20.0)[0])
    view = window_view(Halving(), RECIPE, windows, position, 7.0, False, np.array([1.0, 0.0]))
    assert view.around_time_s[0] == 20.0
