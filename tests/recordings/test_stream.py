"""A recording in pieces gives the windows of the whole recording, and memory does not grow with it."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings import READERS, Log, Signal, WindowRecipe, clock, read_log, reading, stream_windows, timeline
from anomalyvae.recordings.cutting import stacked

UNIX_S = 1_492_638_964


def whole(path, recipe):
    return recipe.windows(read_log(path, signals=recipe.needed))


def assert_same(path, recipe, rows):
    """Check that batches and whole agree to the last bit, the sign of zero included; return the windows."""
    expected, batches = whole(path, recipe), list(stream_windows(path, recipe, rows=rows))
    windows = stacked(batches, recipe)
    assert windows.rows.to_numpy().tobytes() == expected.rows.to_numpy().tobytes()
    pd.testing.assert_frame_equal(windows.spans, expected.spans, check_exact=True)
    assert list(windows.rows) == list(expected.rows)
    assert [batch.units for batch in batches] == [expected.units] * len(batches)
    assert max(map(len, batches)) <= rows
    return windows


def unguarded(reader, path, signals):
    """Call a reader of this test in this process."""
    return reader(path, signals)


def complaint_of(act):
    try:
        act()
    except ValueError as error:
        return str(error)
    return ""


def write(path, frame, row_group_size=1000):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False, date_format="%Y-%m-%dT%H:%M:%S.%f")
    else:
        frame.to_parquet(path, row_group_size=row_group_size)
    return path


def column_of_time(seconds, kind):
    ticks = UNIX_S * 10**9 + np.round(np.asarray(seconds) * 1e9).astype(np.int64)
    return {
        "time_s": np.asarray(seconds, float),
        "time_ms": np.round(np.asarray(seconds) * 1e3),
        "timestamp": UNIX_S + np.asarray(seconds, float),
        "epoch_ms": ticks // 10**6,
        "unix_time": ticks,
        "datetime": pd.to_datetime(ticks),
    }[kind]


@given(
    steps=st.lists(st.sampled_from([0.1] * 16 + [0.0, 0.05, 0.2, -0.15, -0.4, 0.35, 1.3, 40.0]), max_size=60),
    kind=st.sampled_from(["time_s", "time_ms", "timestamp", "epoch_ms", "unix_time", "datetime"]),
    stride=st.sampled_from([0.1, 0.13, 0.25, 0.7, 1.05]),
    gap=st.sampled_from([0.1, 0.3, 1.0]),
    where=st.sampled_from([None, "z > 2", "z > 1 and x < 0.8"]),
    missing=st.sampled_from([0.0, 0.05, 0.4]),
    share=st.sampled_from([0.0, 0.3, 0.7]),
    states=st.sampled_from([(), ("x",), ("x", "y")]),
    hertz=st.sampled_from([10, 5]),
    rows=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_pieces_of_any_size_give_the_bits_of_the_whole(
    tmp_path_factory, suffix, steps, kind, stride, gap, where, missing, share, states, hertz, rows, seed
):
    rng = np.random.default_rng(seed)
    seconds = np.round(np.cumsum([0.0, *steps]), 3)
    frame = pd.DataFrame({kind: column_of_time(seconds, kind), "x": rng.choice([0.0, -0.0, 0.7, 1.1], len(seconds))})
    frame["y"] = np.where(rng.random(len(frame)) < missing, np.nan, rng.normal(size=len(frame)))
    frame["z"] = rng.integers(0, 9, len(frame))
    gap, stride = max(gap, 1 / hertz), max(stride, 1 / hertz)
    recipe = WindowRecipe(("y", "x"), hertz, 0.4, stride, gap, where, states=states, missing=share)
    path = write(tmp_path_factory.getbasetemp() / f"drive{suffix}", frame, row_group_size=rng.integers(1, 20))
    complaint = complaint_of(lambda: whole(path, recipe))
    if complaint:
        assert "jumps back" in complaint
        assert complaint_of(lambda: list(stream_windows(path, recipe, rows=rows))) == complaint
    else:
        assert_same(path, recipe, rows)


EVEN = np.arange(40) / 10
LATE = np.concatenate((EVEN[:8], EVEN[9:19], EVEN[8:9], EVEN[19:]))  # by a second, which is just allowed
TWICE = np.sort(np.concatenate((EVEN, np.repeat(EVEN[10:14], [1, 20, 2, 3]))))
GAPS = np.concatenate((EVEN[:9], 1.2 + EVEN[:12], 100 + EVEN[:3], 200 + EVEN[:14]))
RATES = {"slow": (2, 1.0, 0.5), "fast": (70, 0.5, 0.1), "sparse": (10, 0.2, 1.7)}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [EVEN, LATE, TWICE, GAPS], ids=["even", "late", "twice", "gaps"])
def test_no_place_of_a_border_matters(tmp_path, seconds, rate):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"time_s": seconds, "x": rng.normal(size=len(seconds)), "y": rng.normal(size=len(seconds))})
    frame.loc[20:24, "y"] = np.nan
    path = write(tmp_path / "drive.parquet", frame)
    hertz, length_s, stride_s = RATES[rate]
    recipe = WindowRecipe(("x", "y"), hertz, length_s, stride_s, max_gap_s=0.55)
    counts = {len(assert_same(path, recipe, rows)) for rows in (1, 2, 3, 7, 24)}
    assert len(counts) == 1
    assert counts.pop() > 0


def test_signals_may_take_turns(tmp_path):
    seconds = np.sort(np.concatenate((EVEN, EVEN + 0.01)))
    turn = np.arange(len(seconds)) % 2 == 0
    values = np.random.default_rng(0).normal(size=len(seconds))
    frame = pd.DataFrame({"time_s": seconds, "x": np.where(turn, values, np.nan), "y": np.where(turn, np.nan, values)})
    path = write(tmp_path / "drive.parquet", frame)
    recipe = WindowRecipe(("x", "y"), 50, length_s=0.2, stride_s=0.06, max_gap_s=0.1)
    assert len({len(assert_same(path, recipe, rows)) for rows in (1, 2, 7)} - {0}) == 1


@pytest.mark.parametrize("seconds", [TWICE, EVEN], ids=["twice", "even"])
def test_not_even_the_sign_of_a_zero_changes(tmp_path, seconds):
    x = np.select([seconds < 0.85, seconds < 1.85], [-0.0, np.nan], 1.0)  # the next after the last zero is far away
    path = write(tmp_path / "drive.parquet", pd.DataFrame({"time_s": seconds, "x": x, "y": 1.0}))
    windows = assert_same(path, WindowRecipe(("x", "y"), 10, 0.1, 0.1, 0.3), rows=1)
    assert np.signbit(windows.rows["x@0"]).sum() == 9


def test_a_stamp_that_comes_in_several_pieces_is_one_sample(tmp_path):
    values = np.random.default_rng(0).normal(size=300) * 10.0 ** np.arange(300)[::-1].clip(0, 12)
    frame = pd.DataFrame({"time_s": np.concatenate((np.zeros(298), [1.0, 2.0])), "x": values})
    path = write(tmp_path / "drive.parquet", frame)
    recipe = WindowRecipe(("x",), 1, length_s=3, stride_s=1, max_gap_s=1)
    for rows in (1, 2, 7, 1000):
        windows = assert_same(path, recipe, rows)
        np.testing.assert_allclose(windows.rows.iloc[0], [values[:298].mean(), values[298], values[299]])


def test_a_row_may_come_late_anywhere_in_a_long_recording(tmp_path):
    order = np.arange(5000)
    order[3000:3020] = np.roll(order[3000:3020], 7)
    path = write(tmp_path / "drive.csv", pd.DataFrame({"timestamp": UNIX_S + order / 20, "x": order}))
    windows = assert_same(path, WindowRecipe(("x",), 20, 1, 1, 0.1), rows=333)
    assert windows.rows["x@0"].tolist() == list(range(0, 4981, 20))


def test_a_recording_slower_than_one_sample_a_second_may_be_later(tmp_path):
    seconds = np.arange(1500) * 60.0
    seconds[[1200, 1201, 1202]] = seconds[[1202, 1200, 1201]]
    path = write(tmp_path / "drive.csv", pd.DataFrame({"time_s": seconds, "x": seconds}))
    assert len(assert_same(path, WindowRecipe(("x",), 1 / 60, 120, 60, 60), rows=11)) == 1499


def test_a_type_that_shows_late_in_a_text_file(tmp_path):
    count = 1500  # of a kilobyte each: the first megabyte, by which Arrow tells types, ends before the last 300
    late = np.arange(count) >= 1200
    frame = pd.DataFrame(
        {
            "time_s": np.where(late, np.arange(count) + 0.25, np.arange(count)).astype(object),
            "whole": np.where(late, 0.5, 7).astype(object),
            "empty": np.where(late, "1.5", ""),
            "words": np.where(late, "true", ""),
            "mixed": np.where(late, "False", "3"),
            "spaced": np.where(late, " 2", "1"),
            "note": "P" * 1000,
        }
    )
    frame.loc[~late, ["time_s", "whole"]] = frame.loc[~late, ["time_s", "whole"]].astype(int)
    path = write(tmp_path / "drive.csv", frame)
    assert "1199,7,," in path.read_text()
    signals = ("whole", "empty", "words", "mixed", "spaced")
    assert_same(path, WindowRecipe(signals, 1, 3, 3, 2.0), rows=100)
    log = read_log(path, signals=signals)
    assert [log[name].values[-1] for name in signals] == [0.5, 1.5, 1.0, 0.0, 2.0]
    assert len(assert_same(path, WindowRecipe(("whole", "mixed"), 1, 3, 3, 2.0), rows=100)) > 400


@pytest.mark.parametrize(
    "stamps_of_rows",
    [
        ["10:00:00", "10:00:01", "10:00:02.0", "10:00:03", ""],
        ["2017-04-19", "2017-04-19 00:00:01", "2017-04-19 00:00:02", "", "2017-04-19T00:00:03.0Z"],
        ["2017-04-19T10:00:00Z", "2017-04-19T12:00:01+02:00", "", "2017-04-19T10:00:02.0", "2017-04-19 10:00:03"],
        ["1492638964000000000", "1492638965000000001", "", "1492638966000000000", "1492638967000000000"],
    ],
)
def test_stamps_in_text_are_read_alike_and_empty_ones_left_out(tmp_path, stamps_of_rows):
    path = write(tmp_path / "drive.csv", pd.DataFrame({"datetime": stamps_of_rows, "x": [0.0, 1.0, 7.0, 0.1, 3.0]}))
    for rows in (1, 2, 7):
        assert len(assert_same(path, WindowRecipe(("x",), 1, 4, 1, 1.5), rows)) == 1
        assert len(assert_same(path, WindowRecipe(("x",), 0.7, 2 / 0.7, 1 / 0.7, 1.5), rows)) == 2


def test_a_column_without_a_name_is_ignored(tmp_path):
    path = tmp_path / "drive.csv"
    path.write_text("time_s,x,,\n0,1,2,a\n1,2,3,b\n")
    assert len(assert_same(path, WindowRecipe(("x",), 1, 2, 1, 1), rows=1)) == 1


def test_files_that_are_none_are_refused_as_read_log_does(tmp_path):
    recipe = WindowRecipe(("x",), 1, 2, 1, 1)
    for name, error in [("gone.csv", FileNotFoundError), ("drive.xlsx", ValueError), ("", IsADirectoryError)]:
        with pytest.raises(error, match=r"does not exist|no suffix of a recording|is a folder"):
            list(stream_windows(tmp_path / name, recipe))
    with pytest.raises(ValueError, match=r"rows=0 must be 1 or more"):
        list(stream_windows(tmp_path / "drive.csv", recipe, rows=0))


@pytest.mark.parametrize("frame", [{"time_s": [], "x": []}, {"time_s": [0.0, 1.0], "x": [1.0, np.nan]}])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_recording_without_windows_gives_one_batch_that_has_the_columns(tmp_path, suffix, frame):
    path = write(tmp_path / f"drive{suffix}", pd.DataFrame(frame, dtype=float))
    windows = assert_same(path, WindowRecipe(("x",), 1, 2, 1, 1), rows=1)
    assert (list(windows.rows), len(windows)) == (["x@0", "x@1"], 0)


def test_units_and_names_come_along(tmp_path):
    fields = [pa.field("time_s", pa.float64()), pa.field("v", pa.int16(), metadata={b"unit": b"m/s"})]
    table = pa.table([np.arange(9.0), np.arange(9)], schema=pa.schema([*fields]))
    pq.write_table(table, tmp_path / "drive.parquet")
    (tmp_path / "drive.csv").write_text("time_s,v [m/s],rpm\n" + "".join(f"{t},{t},9\n" for t in range(9)))
    for path in (tmp_path / "drive.parquet", tmp_path / "drive.csv"):
        recipe = WindowRecipe(("v",), 1, 2, 1, 1)
        assert assert_same(path, recipe, rows=4).units == {"v": "m/s"}
        windows = stacked(stream_windows(path, recipe, recording="trip 7"), recipe)
        assert set(windows.spans["recording"]) == {"trip 7"}


def test_the_start_and_units_may_come_with_a_later_piece(tmp_path, monkeypatch):
    stamps = pd.date_range("2026-03-01", periods=300, freq="10ms", tz="UTC")  # all rows of a piece may still be late
    path = tmp_path / "fast.parquet"
    pd.DataFrame({"time": stamps, "x": np.arange(300.0)}).to_parquet(path)
    recipe = WindowRecipe(("x",), rate_hz=100, length_s=0.5, stride_s=0.5, max_gap_s=0.1)
    batches = list(stream_windows(path, recipe, rows=50))
    assert len(batches) > 1
    assert [batch.starts for batch in batches] == [{"fast": stamps[0]}] * len(batches)

    time_s = np.arange(10.0)

    def pieces(path, signals):
        yield Log("late", None, {"x": Signal("x", time_s, time_s, "m")})
        yield Log("late", None, {name: Signal(name, time_s + 10, time_s, "kN") for name in "xy"})

    monkeypatch.setitem(READERS, ".bag", pieces)
    monkeypatch.setattr(reading, "guarded", unguarded)
    (tmp_path / "late.bag").touch()
    recipe = WindowRecipe(("y",), rate_hz=1, length_s=2, stride_s=2, max_gap_s=2)
    assert stacked(stream_windows(tmp_path / "late.bag", recipe), recipe).units["y"] == "kN"


def test_formats_that_come_in_pieces_are_not_read_whole(tmp_path, monkeypatch):
    fast, slow = np.arange(1000) / 100, np.arange(20) / 2
    rng = np.random.default_rng(0)
    signals = {"x": Signal("x", fast, rng.normal(size=1000), "g"), "y": Signal("y", slow, rng.normal(size=20))}

    def pieces(path, names):
        assert names == ["x", "y"]
        for begin, end in [(0, 0.7), (0.7, 4.33), (4.33, 4.34), (4.34, 20)]:
            some = {name: slice(*np.searchsorted(signals[name].time_s, [begin, end])) for name in names}
            cut = [(s.name, s.time_s[some[s.name]], s.values[some[s.name]], s.unit) for s in signals.values()]
            yield Log("drive", None, {name: Signal(name, *rest) for name, *rest in cut})

    monkeypatch.setitem(READERS, ".toy", pieces)
    monkeypatch.setattr(reading, "guarded", unguarded)
    path = tmp_path / "drive.toy"
    path.touch()
    recipe = WindowRecipe(("x", "y"), 10, 1, 0.1, 0.5)
    batches = list(stream_windows(path, recipe, rows=7))
    windows, expected = stacked(batches, recipe), recipe.windows(Log("drive", None, signals))
    assert windows.rows.to_numpy().tobytes() == expected.rows.to_numpy().tobytes()
    pd.testing.assert_frame_equal(windows.spans, expected.spans, check_exact=True)
    assert (len(windows), windows.units, max(map(len, batches))) == (87, {"x": "g"}, 7)


def test_windows_that_overlap_are_not_made_all_at_once(tmp_path):
    path = write(tmp_path / "drive.parquet", pd.DataFrame({"time_s": np.arange(6000) / 10, "x": 1.0, "y": 2.0}))
    recipe = WindowRecipe(("x", "y"), 10, length_s=100, stride_s=0.1, max_gap_s=0.1)  # a thousandfold overlap
    sizes = [batch.rows.size for batch in stream_windows(path, recipe)]
    assert sum(sizes) == 5001 * 2000
    assert max(sizes) * 8 <= 2**23


def test_what_is_held_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    held = []
    settled, in_order = clock._settled, timeline._Samples.in_order

    def watched(signals, *rest):
        held.append(max(len(signal.time_s) for signal in signals))
        return settled(signals, *rest)

    monkeypatch.setattr(clock, "_settled", watched)
    monkeypatch.setattr(timeline._Samples, "in_order", lambda self: (held.append(len(self.stamps)), in_order(self))[1])
    recipe = WindowRecipe(("x", "y", "z"), 50, length_s=1, stride_s=0.5, max_gap_s=0.5, states=("z",))
    most = []
    for count in (20_000, 60_000):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"time_s": np.arange(count) / 100, "x": rng.normal(size=count)})
        frame["y"] = np.where(np.arange(count) % 2000 < 500, np.nan, 1.0)  # five seconds without a sample
        frame["z"] = 3.0
        held.clear()
        for batch in stream_windows(write(tmp_path / "drive.parquet", frame, count), recipe, rows=1000):
            held.append(len(batch))
        most.append(max(held))
    assert most[0] == most[1] <= 1000 + 2 * 100


def test_a_row_group_as_large_as_the_file_is_not_read_at_once(tmp_path):
    count = 1_500_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"time_s": np.arange(count) / 100, "x": rng.normal(size=count)})
    path = write(tmp_path / "drive.parquet", frame, count)
    before = pa.total_allocated_bytes()
    recipe = WindowRecipe(("x",), 100, length_s=1, stride_s=1, max_gap_s=0.5)
    held = [pa.total_allocated_bytes() - before for _ in stream_windows(path, recipe)]
    assert max(held) < path.stat().st_size / 2
