"""Lines of a growing file give the windows of the finished file, as soon as they are known."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings import WindowRecipe, log_from_frame
from anomalyvae.recordings.cutting import stacked
from anomalyvae.recordings.live import LiveWindows

UNIX_S = 1_492_638_964


def cut(text, places):
    """Cut bytes into pieces of whole lines, as a reader that waits for ends of lines would."""
    lines = text.splitlines(keepends=True)
    edges = [0, *sorted(place % (len(lines) + 1) for place in places), len(lines)]
    return [b"".join(lines[a:b]) for a, b in pairwise(edges)]


def live_windows(text, recipe, places=(), late=False):
    header, _, rows = text.partition(b"\n")
    live = LiveWindows(header, recipe, recording="drive", source="lines", late=late)
    batches = [batch for piece in cut(rows, places) for batch in live.add(piece)]
    return [*batches, *live.end()], live


def assert_same(batches, frame, recipe):
    expected, windows = recipe.windows(log_from_frame(frame, "drive")), stacked(batches, recipe)
    assert windows.rows.to_numpy().tobytes() == expected.rows.to_numpy().tobytes()
    assert windows.spans.to_numpy().tolist() == expected.spans.to_numpy().tolist()
    return windows


def column_of_time(seconds, kind):
    ticks = UNIX_S * 10**9 + np.round(seconds * 1e9).astype(np.int64)
    return {"time_s": seconds, "timestamp": UNIX_S + seconds, "epoch_ms": ticks // 10**6, "datetime": ticks}[kind]


@given(
    steps=st.lists(st.sampled_from([0.1] * 16 + [0.0, 0.05, 0.2, -0.15, -0.4, 0.35, 1.3, 40.0]), max_size=70),
    kind=st.sampled_from(["time_s", "timestamp", "epoch_ms", "datetime"]),
    stride=st.sampled_from([0.1, 0.13, 0.25, 0.7]),
    gap=st.sampled_from([0.1, 0.3, 1.0]),
    where=st.sampled_from([None, "z > 2"]),
    missing=st.sampled_from([0.0, 0.05, 0.4]),
    share=st.sampled_from([0.0, 0.3]),
    states=st.sampled_from([(), ("x",)]),
    counts=st.sampled_from([(), ("z",)]),
    hertz=st.sampled_from([10, 5, 3]),
    places=st.lists(st.integers(0, 99), max_size=30),
    late=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_pieces_of_any_size_give_the_bits_of_the_finished_file(
    steps, kind, stride, gap, where, missing, share, states, counts, hertz, places, late, seed
):
    rng = np.random.default_rng(seed)
    seconds = np.round(np.cumsum([0.0, 0.1, *steps]), 3)
    if (np.maximum.accumulate(seconds) - seconds).max() > 1:
        return  # a clock that jumps back: another test
    frame = pd.DataFrame({kind: column_of_time(seconds, kind), "x": rng.choice([0.0, -0.0, 0.7, 1.1], len(seconds))})
    frame["y"] = np.where(rng.random(len(frame)) < missing, np.nan, rng.normal(size=len(frame)))
    frame["z"] = rng.integers(0, 9, len(frame))
    if kind == "datetime":
        frame[kind] = pd.to_datetime(frame[kind])
    recipe = WindowRecipe(
        ("y", "x"), hertz, 2 / hertz, max(stride, 1 / hertz), max(gap, 1 / hertz), where,
        states=states, counts=counts if where else (), missing=share,
    )  # fmt: skip
    text = frame.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%f").encode()
    batches, live = live_windows(text, recipe, places, late)
    newer = np.diff(np.maximum.accumulate(np.round(seconds, 3)), prepend=-1) > 0
    assert live.left_out == (0 if late else np.sum(~newer))
    assert_same(batches, frame if late else frame[newer], recipe)


def test_what_a_cell_may_look_like():
    lines = ['0.0,"1,5",1\r', '0.1,,"2"\r', "0.2,x y,NaN\r", '0.3,"say ""x""",4\r', "0.4,ü,5e0\r", "0.5,é,0\r"]
    text = "\n".join(["\ufefftime_s,note,x [m]\r", *lines, ""]).encode()
    recipe = WindowRecipe(("x",), 10, 0.1, 0.1, 0.5)
    batches, live = live_windows(text, recipe)
    assert stacked(batches, recipe).rows["x@0"].tolist() == [
        1,
        2,
        3,
        4,
        5,
        0,
    ]  # a missing one lies between its neighbours
    assert (live.left_out, live.units) == (0, {"x": "m"})


def delays_of(recipe, seconds, late=False):
    """For each window, how long after its last sample the row came with which it was known; those known at once."""
    values = np.random.default_rng(0).normal(size=len(seconds))
    lines = pd.DataFrame({"time_s": seconds, "x": values}).to_csv(index=False).encode().splitlines(keepends=True)
    live = LiveWindows(lines[0], recipe, recording="drive", source="lines", late=late)
    delays = []
    for line, now_s in zip(lines[1:], seconds, strict=True):
        for batch in live.add(line):
            delays += [now_s - (batch.spans["end_s"].to_numpy() - 1 / recipe.rate_hz)]
    return delays


@pytest.mark.parametrize(("hertz", "late"), [(100, False), (10, False), (100, True)])
def test_the_delay_is_constant(hertz, late):
    """Interpolated, a window is there with its last sample; averaged, a tick later; with late rows, a second later."""
    recipe = WindowRecipe(("x",), hertz, length_s=1, stride_s=1 / hertz, max_gap_s=0.5)
    seconds = np.arange(450) / 100
    delays = delays_of(recipe, seconds, late)
    begin = -(-16 // hertz) + 1  # a recording's first windows wait for what tells how fast signals are
    later = np.concatenate([delay for delay in delays if delay.size and delay[-1] < 9][1:])
    expected = (0 if hertz == 100 else 1 / hertz) + (1.02 if late else 0)
    np.testing.assert_allclose(later[begin:], expected, atol=0.011 if late else 1e-9)
    assert late or all(len(delay) == 1 for delay in delays[1:])


def test_a_clock_that_jumps_back_begins_another_recording():
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"time_s": begin + np.arange(30) / 10, "x": rng.normal(size=30), "speed [m/s]": 1.0})
        for begin in (100.0, 0.0, 50.0, 3.0)
    ]
    recipe = WindowRecipe(("x", "speed"), 10, 1, 0.3, 0.5)
    text = pd.concat(parts).to_csv(index=False).encode()
    for places in ([], range(200), [29, 31, 60], [30, 70]):
        batches, live = live_windows(text, recipe, places)
        found = stacked(batches, recipe)
        assert live.recordings == 3
        names = ["drive", "drive#2", "drive#3"]
        assert found.spans["recording"].unique().tolist() == names
        for name, part in zip(names, [parts[0], pd.concat(parts[1:3]), parts[3]], strict=True):
            inside = (found.spans["recording"] == name).to_numpy()
            expected = recipe.windows(log_from_frame(part, name))
            assert found.rows[inside].to_numpy().tobytes() == expected.rows.to_numpy().tobytes()
        assert found.units == {"speed": "m/s"}


def test_rows_that_cannot_be_read_are_left_out_and_counted():
    frame = pd.DataFrame({"time_s": np.arange(60) / 10, "x": np.arange(60.0), "note": "fine"})
    lines = frame.to_csv(index=False).encode().splitlines(keepends=True)
    bad = [b"1.5,7\n", b"1.52,12a,no number\n", b"yesterday,1.0,no time\n", b'1.53,"1,2\n', b"\n", b",2.0,\n"]
    text = b"".join([*lines[:17], *bad, *lines[17:]])
    recipe = WindowRecipe(("x",), 10, 1, 0.1, 0.5)
    for places in ([], range(200), [16, 18, 21]):
        batches, live = live_windows(text, recipe, places)
        assert_same(batches, frame, recipe)
        assert live.left_out == 5
        assert "column 'time_s' of lines holds the text 'yesterday'" in live.complaint


def test_what_is_held_does_not_grow():
    recipe = WindowRecipe(("x",), 20, length_s=1, stride_s=0.5, max_gap_s=0.5)
    live = LiveWindows(b"time_s,x", recipe, recording="drive", source="lines")
    held = []
    for begin in range(0, 12_000, 100):
        lines = b"".join(b"%.2f,%d\n" % (row / 100, row % 7) for row in range(begin, begin + 100))
        for _ in live.add(lines):
            pass
        samples = sum(len(signal.values) for signal in live._resampler._held.values())
        held.append(samples + len(live._timeline._waiting.stamps) + len(live._cutter._kept["time_s"]))
    assert max(held[60:]) == max(held[:60]) < 400


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"time_s,y", r"drive\.csv has no column for signal 'x'\. Use one of 'time_s', 'y'\."),
        (b"x,y", r"drive\.csv has no column with the name of a time column"),
        (b"  ", r"drive\.csv has no header line"),
    ],
)
def test_a_header_that_will_not_do_is_refused(header, message):
    recipe = WindowRecipe(("x",), 20, length_s=1, stride_s=0.5, max_gap_s=0.5)
    with pytest.raises(ValueError, match=message):
        LiveWindows(header, recipe, recording="drive", source="drive.csv")
