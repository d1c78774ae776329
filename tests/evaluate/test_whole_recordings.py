"""The recordings of a run as wholes: an odd one comes first, and later ones that differ from earlier ones are said."""

import numpy as np
import pandas as pd

from anomalyvae.evaluate.whole_recordings import ranked, with_moments
from anomalyvae.fleet import Tally
from anomalyvae.tracking.entries import drift_figures


def tallied(count, odd=lambda number: 0.0, signals=1):
    tallies = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        tally = Tally(signals)
        scores = rng.normal(size=(30, 1 + signals)) + odd(number)
        tally.add(scores, scores[:, 0] > 2, np.arange(30.0))
        tallies[f"d{number:03d}"] = tally
    return tallies


def days(count, reverse=False):
    order = range(count)[::-1] if reverse else range(count)
    return {f"d{n:03d}": pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=day) for n, day in enumerate(order)}


def test_an_odd_recording_comes_first_and_has_the_smallest_p_value():
    ranking, drift = ranked(tallied(20, lambda n: 3.0 * (n == 7)), days(20), ("x",))
    assert ranking["recording"][0] == "d007"
    assert ranking["p_value"][0] == 1 / 20
    assert ranking["start"][0] == pd.Timestamp("2026-01-08", tz="UTC")
    assert (drift["reference"], drift["recordings"], drift["alarm"]) == (10, 10, False)


def test_later_recordings_that_differ_are_drift_in_the_order_of_time():
    later = tallied(80, lambda n: 2.0 * (n >= 40))
    _, found = ranked(later, days(80), ("x",))
    assert found["alarm"]
    assert found["said"].startswith("Retrain: with recording d04")
    _, reverse = ranked(later, days(80, reverse=True), ("x",))
    assert not reverse["alarm"]  # the odd ones come first: later ones are more usual
    _, by_name = ranked(later, {}, ("x",))
    assert by_name["said"].startswith("Retrain: with recording d04")
    figures = drift_figures(found)
    assert (figures["alarm"], figures["recordings"], set(figures["by"])) == (1.0, 40.0, {"brief", "lasting", "x"})


def test_few_recordings_say_nothing():
    ranking, drift = ranked(tallied(5), {}, ("x",))
    assert (len(ranking), drift) == (5, None)
    ranking, drift = ranked(tallied(2), {}, ("x",))
    assert ranking["p_value"].isna().all()
    assert drift is None


def test_moments_of_spans():
    spans = pd.DataFrame({"recording": ["a", "b", "a"], "start_s": [0.0, 1.0, 2.5], "end_s": [1.0, 2.0, 3.5], "x": 1})
    table = with_moments(spans, {"a": pd.Timestamp("2026-01-01", tz="UTC")})
    assert list(table) == ["recording", "start_s", "end_s", "time", "x"]
    assert table["time"][[0, 2]].tolist() == [pd.Timestamp(f"2026-01-01T00:00:{s}Z") for s in ("00", "02.5")]
    assert pd.isna(table["time"][1])
    assert with_moments(spans[:0], {})["time"].dtype == table["time"].dtype
