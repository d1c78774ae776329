"""A table in a file becomes signals, or an error that names the file and the column."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings import WindowRecipe, list_signals, log_from_frame, read_log, stream_windows, tabular
from anomalyvae.recordings.reading import read_pieces


def times(log):
    (signal,) = {id(signal.time_s): signal for signal in log.signals.values()}.values()
    return signal.time_s.tolist()


@pytest.mark.parametrize("late", [["0.2", "0.05"], ["0.5", "0.45"], ["0.50", "0.45", "0.60"]])
def test_a_late_row_is_no_count_of_milliseconds(write, late):
    log = read_log(write("time_s,x\n" + "".join(f"{stamp},1\n" for stamp in ["0.0", *late, "1.1"])))
    assert times(log) == sorted(map(float, ["0.0", *late, "1.1"]))


def test_rows_with_values_but_without_a_stamp_are_counted(write):
    text = "time_s,speed\n" + "".join(f"{i / 10 if i % 3 else ''},{i}\n" for i in range(30)) + ",\n"
    with pytest.warns(UserWarning, match=r"^10 rows have values but no stamp in column 'time_s' of .*--time"):
        assert len(read_log(write(text))["speed"].values) == 20


@pytest.mark.parametrize("wrong", ["1970-01-01T00:00:0{}Z", "1980-01-06T00:00:0{}Z", "0.{}", "946684800.{}"])
def test_a_clock_that_is_set_is_named(write, wrong):
    """A logger without a battery begins in the year of its firmware, until it receives the time."""
    right = "2023-11-14T22:13:{}Z" if wrong.endswith("Z") else "17000000{}.0"
    stamps = [*(wrong.format(i) for i in range(3)), *(right.format(i) for i in range(20, 50))]
    path = write("time,x\n" + "".join(f"{stamp},1\n" for stamp in stamps))
    said = r"^The clock in column 'time' of .* leaps ahead by [0-9,]{5,6} days after 3 rows, as if it was set then"
    for rows in (2, 3, 4, 100):
        with pytest.warns(UserWarning, match=said):
            assert sum(len(piece["x"].values) for piece in read_pieces(path, rows=rows)) == 33
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_log(write("time,x\n" + "".join(f"{stamp},1\n" for stamp in stamps[3:])))


def test_csv_gives_signals_with_names_units_and_one_clock(write):
    log = read_log(write("time_s,speed [m/s],rpm\n0.0,1.5,800\n0.2,,810\n"))
    assert log.recording == "drive"
    assert log.start is None
    assert list(log.signals) == ["speed", "rpm"]
    assert [signal.unit for signal in log.signals.values()] == ["m/s", ""]
    assert times(log) == [0.0, 0.2]
    np.testing.assert_array_equal(log["speed"].values, [1.5, np.nan])
    assert log["rpm"].values.dtype == np.float64


@pytest.mark.parametrize(
    ("header", "first", "second", "start"),
    [
        ("time_s", "12.5", "12.75", None),  # counts from the recording's start already
        ("Time", "0", "0.25", None),
        ("time_ms", "1000", "1250", None),
        ("t [us]", "0", "250000", None),
        ("timestamp", "1492638964.5", "1492638964.75", "2017-04-19T21:56:04.5Z"),
        ("timestamp", "1492638964500", "1492638964750", "2017-04-19T21:56:04.5Z"),
        ("timestamp", "1492638964500000", "1492638964750000", "2017-04-19T21:56:04.5Z"),
        ("timestamp", "1492638964500000000", "1492638964750000000", "2017-04-19T21:56:04.5Z"),
        ("datetime", "2017-04-19 21:56:04.5", "2017-04-19 21:56:04.75", "2017-04-19T21:56:04.5Z"),
        ("datetime", "2017-04-19T23:56:04.5+02:00", "2017-04-19T23:56:04.75+02:00", "2017-04-19T21:56:04.5Z"),
        ("Logged at", "2017-04-19T21:56:04.500", "2017-04-19T21:56:04.750", "2017-04-19T21:56:04.5Z"),
        ("time", "21:56:04.500", "21:56:04.750", None),
    ],
)
def test_every_way_of_writing_time_is_understood(write, header, first, second, start):
    log = read_log(write(f"{header},x\n{first},1\n{second},2\n"))
    assert np.diff(times(log)).tolist() == [0.25]
    assert log.start == (None if start is None else pd.Timestamp(start))


def test_a_relative_clock_keeps_its_zero_and_an_absolute_one_starts_at_zero(write):
    assert times(read_log(write("time_s,x\n12.5,1\n12.75,2\n"))) == [12.5, 12.75]
    assert times(read_log(write("time_s,x\n1492638964.5,1\n1492638964.75,2\n"))) == [0.0, 0.25]


def test_the_caller_can_say_which_column_is_time_and_in_which_unit(write):
    path = write("ticks,time,x\n0,5.0,1\n500,6.0,2\n")
    assert times(read_log(path)) == [5.0, 6.0]
    assert times(read_log(path, time="ticks [ms]")) == [0.0, 0.5]
    with pytest.raises(ValueError, match=r"no column 'tick' for the time.*Did you mean 'ticks'"):
        read_log(path, time="tick")


def test_rows_that_come_late_are_sorted_in(write):
    log = read_log(write("time_s,x\n0.0,0\n0.4,2\n0.2,1\n0.6,3\n"))
    assert times(log) == [0.0, 0.2, 0.4, 0.6]
    assert log["x"].values.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_rows_with_one_stamp_become_their_mean_signal_by_signal(write):
    log = read_log(write("time_s,x,y\n0,1,\n1,2,5\n1,4,\n1,,9\n2,7,8\n"))
    assert times(log) == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(log["x"].values, [1.0, 3.0, 7.0])
    np.testing.assert_array_equal(log["y"].values, [np.nan, 7.0, 8.0])


def test_stamps_that_two_different_rows_share_are_counted(write):
    rows = [f"{1_700_000_000 + i // 2},{i}\n" for i in range(480)]  # 2 Hz, and stamps of whole seconds
    said = r"^240 of 240 stamps in column 'time' of .*drive.csv are shared by rows with different values .*--time"
    path = write("time,x\n" + "".join(rows))
    with pytest.warns(UserWarning, match=said):
        read_log(path)
    with pytest.warns(UserWarning, match=said):
        for _ in read_pieces(path, rows=7):
            pass


def test_stamps_that_equal_rows_share_need_no_word(write):
    with warnings.catch_warnings(action="error"):
        read_log(write("time_s,x,y\n0,.1,\n0,.1,\n0,.1,2\n0,,2\n1,2,\n1,,5\n2,nan,\n3,inf,1\n"))


def test_rows_without_a_stamp_are_left_out(write):
    log = read_log(write("time_s,x\n0,1\n,2\nnan,3\n1,4\n"))
    assert log["x"].values.tolist() == [1.0, 4.0]


def test_columns_of_text_are_left_out_until_somebody_asks_for_one(write):
    path = write("time_s,x,gear,on\n0,1,P,true\n1,2,D,false\n")
    log = read_log(path)
    assert list(log.signals) == ["x", "on"]
    assert log["on"].values.tolist() == [1.0, 0.0]
    assert log.left_out == {"gear": "text such as 'P'"}
    with pytest.raises(ValueError, match=r"Signal 'gear' of recording 'drive' holds text such as 'P'"):
        read_log(path, signals=["gear"])


@pytest.mark.parametrize("words", ["TRUE FALSE", "WAHR FALSCH", "Vrai Faux", "VERDADERO FALSO", "waar onwaar"])
def test_truth_values_in_the_words_of_spreadsheets_are_1_and_0(write, words):
    yes, no = words.split()
    log = read_log(write(f"time_s,x,on\n0,1,{yes}\n1,2,{no}\n2,3,\n3,4, {yes}\n"))
    np.testing.assert_array_equal(log["on"].values, [1, 0, np.nan, 1])


def test_asking_for_signals_reads_only_them_and_names_the_nearest(write, tmp_path):
    path = write("time_s,speed_mps,rpm\n0,1,2\n")
    assert list(read_log(path, signals=["rpm"]).signals) == ["rpm"]
    parquet = tmp_path / "drive.parquet"
    pd.DataFrame({"acc.x": [1.0], "time_s": [0.0], "speed_mps": [2.0]}).to_parquet(parquet)
    assert list(read_log(parquet, signals=["acc.x"]).signals) == ["acc.x"]
    for file in (path, parquet):
        with pytest.raises(ValueError, match=r"drive\..* no column for signal 'sped_mps'\. Did you mean 'speed_mps'"):
            read_log(file, signals=["sped_mps"])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_a_byte_order_mark_and_an_old_code_page(write, delimiter):
    header = delimiter.join(["time_s", "temp [°C]"])
    row = delimiter.join(["0.5", "21.25"])
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        log = read_log(write(f"{header}\r\n{row}\r\n", encoding=encoding))
        assert (times(log), log["temp"].unit, log["temp"].values.tolist()) == ([0.5], "°C", [21.25])


def test_a_header_without_rows_is_a_recording_without_samples(write, tmp_path):
    pd.DataFrame({"time_s": pd.Series(dtype=float), "x": pd.Series(dtype=float)}).to_parquet(tmp_path / "drive.parquet")
    for path in (write("time_s,x"), write("time_s,x\n"), tmp_path / "drive.parquet"):
        log = read_log(path)
        assert list(log.signals) == ["x"]
        assert times(log) == []


BROKEN = [
    ("", r"drive\.csv has no header line"),
    ("\n\n", r"drive\.csv has no header line"),
    ("a,x\n1,2\n", r"drive\.csv has no column .* time column.*; it has 'a', 'x'\. Rename .* time= \(--time\)"),
    ("time_s,x,x\n0,1,2\n", r"drive\.csv has 2 columns named 'x'"),
    ("time_s,x [m],x [s]\n0,1,2\n", r"drive\.csv has 2 columns named 'x'"),
    ("time_s,y\n0,1\n", r"drive\.csv has no column for signal 'x'"),
    ("time_s,x\n0,1\n1,2,3\n", r"drive\.csv cannot be read as CSV"),
    ("time_s,x\nyesterday,1\n", r"column 'time_s' of .*drive\.csv holds the text 'yesterday'"),
    ("time_s,x\n0,1\n1,1\nyesterday,1\n", r"column 'time_s' of .*drive\.csv holds the text 'yesterday'"),
    ("time_s,x\n10:00:01.5,1\n10:00:02,1\n25 o'clock,1\n", r"column 'time_s' .* the text \"25 o'clock\""),
    ("time [fortnights],x\n1,1\n", r"column 'time \[fortnights\]' of .*drive\.csv has the unit 'fortnights'"),
    ("time_s,x\n,1\n,2\n,3\n", r"column 'time_s' of .*drive\.csv is empty"),
    ("time_s,x\ntrue,1\n", r"column 'time_s' of .*drive\.csv holds the text 'true'"),
    ("time_s,x\n0,1\n1,P\n2,1\n", r"'x' of recording 'drive' holds text such as 'P'"),
    ("time_s,x\n0,2017-04-19\n", r"'x' of recording 'drive' holds text such as '2017-04-19'"),
    (
        "t,x\n" + "".join(f"{t},1\n" for t in [*range(10), *range(5)]),
        r"'t' of .*drive\.csv jumps back by 9 s after 10 rows",
    ),
    ("t,x\n" + "".join(f"{-t},1\n" for t in range(10)), r"drive\.csv jumps back by 4 s after 4 rows"),
    ("t,x\n" + "".join(f"{t},1\n" for t in [*range(1200), 2e12]), r"stamps around 499.5 and goes on up to 2e\+12"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_what_cannot_be_read_is_refused_by_file_and_column(write, text, message):
    path = write(text)
    with pytest.raises(ValueError, match=message):
        read_log(path, signals=["x"])
    with pytest.raises(ValueError, match=message):
        list(stream_windows(path, WindowRecipe(("x",), 1, 2, 1, 1), rows=2 if len(text) < 1000 else 400))


def test_a_column_that_turns_into_text_is_left_out_and_not_listed(write):
    path = write("time_s,x,y,z\n" + "".join(f"{t},1,2,\n" for t in range(200_000)) + "200000,2,off,\n")
    said = r"'y' of .*drive\.csv is left out: 200,000 of 200,001 cells are numbers; line 200,002 holds 'off'\. .*--na"
    with pytest.warns(UserWarning, match=said):
        log = read_log(path)
    assert (list(log.signals), log.left_out) == (["x", "z"], {"y": "text such as 'off'"})
    with pytest.warns(UserWarning, match=said):
        assert list_signals(path)["signal"].tolist() == ["x", "z"]
    assert read_log(path, na="off")["y"].values[[0, -1]].tolist() == pytest.approx([2.0, np.nan], nan_ok=True)


def test_text_in_an_old_code_page_is_left_out(write):
    log = read_log(write("time_s,x,note\n0,1,heiß\n1,2,\n", encoding="latin-1"))
    assert (log["x"].values.tolist(), log.left_out) == ([1.0, 2.0], {"note": "text such as 'heiß'"})


def test_the_time_column_is_not_a_signal(write):
    with pytest.raises(ValueError, match=r"'time_s' is the time column of .*drive\.csv, not a signal"):
        read_log(write("time_s,x\n0,1\n"), signals=["time_s"])


def test_paths_that_are_no_recording(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv does not exist"):
        read_log(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match=r"'drive.xlsx' has no suffix of a recording \(\.csv, \.csv\.gz, \.parquet"):
        read_log(tmp_path / "drive.xlsx")
    with pytest.raises(IsADirectoryError, match="a recording is one file"):
        read_log(tmp_path)


def test_a_damaged_page_of_a_parquet_file_is_refused_by_name(tmp_path):
    """One bit of a value: the checksum that its writer may add is compared."""
    path, speed = tmp_path / "drive.parquet", np.sin(np.arange(50.0))
    table = pa.table({"time_s": np.arange(50) / 10, "speed": speed})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(speed[30].tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"drive\.parquet cannot be read as Parquet .*CRC"):
        read_log(path)


def test_a_parquet_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refused(path, **options):
        raise PermissionError(13, "Failed to open local file")  # as Arrow says it, without a name

    (tmp_path / "drive.parquet").touch()
    monkeypatch.setattr(tabular, "parquet_file", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: .*drive\.parquet'$"):
        read_log(tmp_path / "drive.parquet")


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path):
    path = tmp_path / "drive.parquet"
    pd.DataFrame({"time_s": np.arange(5000.0), "x": np.arange(5000.0)}).to_parquet(path)
    content, recipe = path.read_bytes(), WindowRecipe(("x",), 1, 2, 1, 1)
    wrong = [b"", b"PAR1 not really", b"PAR1" + bytes(64) + b"PAR1", content[:-200]]
    for damaged in (*wrong, content[:30000] + bytes(20000) + content[50000:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"drive\.parquet cannot be read as Parquet"):
            read_log(path)
        with pytest.raises(ValueError, match=r"drive\.parquet cannot be read as Parquet"):
            list(stream_windows(path, recipe, rows=100))


@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=4)), min_size=1, max_size=6))
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_file_gives_an_ordered_recording_or_an_error_that_names_it(tmp_path_factory, suffix, edits):
    frame = pd.DataFrame({"time_s": np.arange(20) / 5, "x": np.arange(20), "gear": "P"})
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    content = path.read_bytes()
    for place, removed, inserted in edits:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    path.write_bytes(content)
    signals, complaint = {}, ""
    try:
        signals = read_log(path).signals
    except ValueError as error:
        complaint = str(error)
    assert not complaint or str(path) in complaint
    for signal in signals.values():
        assert len(signal.time_s) == len(signal.values)
        assert (np.diff(signal.time_s) > 0).all()


def test_parquet_metadata_gives_units_and_start(tmp_path):
    fields = [pa.field("time_s", pa.float64()), pa.field("v", pa.int16(), metadata={b"unit": b"m/s"})]
    schema = pa.schema(fields, metadata={b"start_unix_s": b"1492638964.55"})
    pq.write_table(pa.table([[0.0, 0.2], [3, None]], schema=schema), tmp_path / "drive.parquet")
    log = read_log(tmp_path / "drive.parquet")
    assert log["v"].unit == "m/s"
    assert log.start == pd.Timestamp("2017-04-19T21:56:04.55Z")
    np.testing.assert_array_equal(log["v"].values, [3.0, np.nan])


def test_a_frame_with_an_index_of_times_reads_as_it_was_written(tmp_path):
    index = pd.date_range("2026-05-01T10:00", periods=3, freq="100ms")
    pd.DataFrame({"x": [1, 2, 3]}, index=index).to_parquet(tmp_path / "drive.parquet")
    log = read_log(tmp_path / "drive.parquet")
    assert log.start == pd.Timestamp("2026-05-01T10:00Z")
    np.testing.assert_allclose(log["x"].time_s, [0.0, 0.1, 0.2], rtol=0, atol=1e-12)


def test_nanosecond_stamps_lose_nothing():
    ticks = np.int64(1_700_000_000_000_000_000) + np.array([0, 1, 1001], dtype=np.int64)
    log = log_from_frame(pd.DataFrame({"timestamp": ticks, "x": [1, 2, 3]}), "drive")
    assert log["x"].time_s.tolist() == [0.0, 1e-9, 1.001e-6]


def test_an_index_in_a_name_is_no_unit():
    log = log_from_frame(pd.DataFrame({"t": [0.0], "wheel [0]": [1.0], "wheel[1]": [2.0]}), "drive")
    assert list(log.signals) == ["wheel [0]", "wheel[1]"]


def test_an_unknown_signal_is_refused_with_the_nearest():
    log = log_from_frame(pd.DataFrame({"t": [0.0], "Speed_mps": [1.0]}), "drive")
    with pytest.raises(ValueError, match=r"Recording 'drive' has no signal 'speed_mps'.*Did you mean 'Speed_mps'"):
        log["speed_mps"]
