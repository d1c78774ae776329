"""Files of common loggers are read as they are, and clocks are recognised or refused."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import WindowRecipe, list_signals, log_from_frame, read_log, stream_windows
from anomalyvae.recordings.following import Feed, Following
from anomalyvae.recordings.live import LiveWindows
from anomalyvae.recordings.log import joined
from anomalyvae.recordings.reading import read_pieces

TENTHS = np.arange(60) / 10


@pytest.fixture
def write(tmp_path):
    def write_file(header, row, count=60, encoding="utf-8"):
        path = tmp_path / "drive.csv"
        path.write_bytes((header + "".join(row(i) for i in range(count))).encode(encoding))
        return path

    return write_file


def numbers(log):
    return {name: (signal.unit, signal.values.tolist()) for name, signal in log.signals.items()}


# --- loggers --------------------------------------------------------------------------------------------


def test_phyphox(write):
    header = '"Time (s)","Acceleration x (m/s^2)","Acceleration y (m/s^2)"\n'
    log = read_log(write(header, lambda i: f"{i / 100:.9E},{i / 10:.9E},2.000000000E-01\n"))
    assert numbers(log)["Acceleration x"] == ("m/s^2", TENTHS.tolist())
    assert log["Acceleration y"].time_s.tolist() == (np.arange(60) / 100).tolist()
    assert log.clock == "column 'Time (s)' in seconds"


def test_androsensor(write):
    header = "ACCELEROMETER X (m/s²);LIGHT (lux);Time since start in ms ;YYYY-MO-DD HH-MI-SS_SSS\n"
    path = write(header, lambda i: f"{i / 10:.3f};{i % 2};{i * 100};2024-05-01 10-00-{i:02d}_123\n", encoding="cp1252")
    log = read_log(path)
    assert numbers(log)["ACCELEROMETER X"] == ("m/s²", TENTHS.tolist())
    np.testing.assert_allclose(log["LIGHT"].time_s, TENTHS, rtol=0, atol=1e-12)
    by_date = read_log(path, time="YYYY-MO-DD HH-MI-SS_SSS")
    assert by_date.start == pd.Timestamp("2024-05-01T10:00:00.123Z")
    assert by_date["LIGHT"].time_s.tolist() == list(range(60))
    assert read_log(path, signals=["ACCELEROMETER X (m/s²)"])["ACCELEROMETER X (m/s²)"].unit == "m/s²"


def test_torque_with_its_header_again(write):
    header = "GPS Time, Device Time,GPS Speed (Meters/second), Engine RPM(rpm),Speed (OBD)(km/h)\n"

    def row(i):
        again = header if i == 30 else ""
        stamp = f"Mon Oct 28 13:51:{i:02d} GMT+02:00 2024,28-Oct-2024 13:51:{i:02d}.123"
        return f"{again}{stamp},{i / 10},{800 + i},{'-' if i < 2 else i}\n"

    log = read_log(write(header, row))
    assert log.start == pd.Timestamp("2024-10-28T13:51:00.123Z")
    assert numbers(log)["Engine RPM"] == ("rpm", list(range(800, 860)))
    assert log["Speed (OBD)"].unit == "km/h"
    np.testing.assert_array_equal(log["Speed (OBD)"].values, [np.nan, np.nan, *range(2, 60)])
    by_gps = read_log(write(header, row), time="GPS Time")
    assert by_gps.start == pd.Timestamp("2024-10-28T11:51:00Z")


def test_car_scanner_gives_a_signal_per_pid(write):
    def row(i):
        name, unit = ("Speed (GPS)", "km/h") if i % 2 else ("Engine RPM", "rpm")
        return f'"{77801.89 + i / 2:.2f}";"{name}";"{700 + i}";"{unit}"\n'

    path = write('"SECONDS";"PID";"VALUE";"UNITS"\n', row)
    log = read_log(path)
    assert {name: signal.unit for name, signal in log.signals.items()} == {"Engine RPM": "rpm", "Speed (GPS)": "km/h"}
    speed = log["Speed (GPS)"]
    found = np.isfinite(speed.values)
    assert speed.values[found].tolist() == list(range(701, 760, 2))
    np.testing.assert_allclose(speed.time_s[found], 77802.39 + np.arange(30))
    assert list(read_log(path, signals=["Engine RPM"]).signals) == ["Engine RPM"]
    windows = pd.concat([part.rows for part in stream_windows(path, WindowRecipe(("Engine RPM",), 1, 2, 1, 2), rows=7)])
    assert windows["Engine RPM@0"].iloc[:3].tolist() == [700, 702, 704]


def long_rows(i):
    name, unit = ("speed", "km/h") if i % 2 else ("rpm", "1/min")
    return {"tick": i / 2, "name": name, "value": 700.0 + i, "unit": unit}


def spread(log):
    """The samples of each signal, without the rows of the others."""
    return {name: (s.unit, s.time_s[s.values == s.values].tolist(), s.values[s.values == s.values].tolist())
            for name, s in log.signals.items()}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("columns", [["tick", "name", "value"], ["value", "unit", "tick", "name"]])
@pytest.mark.parametrize("time", [None, "tick", "tick [s]"])
def test_one_value_per_row_is_a_signal_per_name(tmp_path, suffix, columns, time):
    frame = pd.DataFrame(map(long_rows, range(60)))[columns]
    if time is None:
        frame = frame.rename(columns={"tick": "timestamp_s"})
    path = tmp_path / f"long{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.astype({"name": "category"}).to_parquet(path)
    units = ("1/min", "km/h") if "unit" in columns else ("", "")
    even, odd = np.arange(0, 60, 2), np.arange(1, 60, 2)
    expected = {
        "rpm": (units[0], (even / 2).tolist(), (700.0 + even).tolist()),
        "speed": (units[1], (odd / 2).tolist(), (700.0 + odd).tolist()),
    }
    assert spread(read_log(path, time=time)) == expected
    assert spread(log_from_frame(frame, "long", time=time)) == expected
    table = list_signals(path, time=time).set_index("signal")
    assert table[["samples", "rate_hz"]].loc["rpm"].tolist() == [30, 1.0]


def test_numbers_beside_values_are_signals(tmp_path):
    path = tmp_path / "wide.csv"
    pd.DataFrame({"time": np.arange(60.0), "sensor": np.arange(60) % 9, "value": 0.5}).to_csv(path, index=False)
    assert list(read_log(path).signals) == ["sensor", "value"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_one_value_per_row_with_more_columns_is_not_guessed(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    frame = pd.DataFrame(map(long_rows, range(60))).rename(columns={"tick": "time"})
    frame = frame.assign(vehicle=np.where(frame.index < 30, "a", "b"))
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    with pytest.raises(ValueError, match=r"has one value per row, of the signal in 'name', and also 'vehicle'\. Split"):
        read_log(path)
    assert list(read_log(path, exclude="vehicle").signals) == ["rpm", "speed"]
    assert list(read_log(path, exclude=["name", "unit"]).signals) == ["value"]


@pytest.mark.parametrize("other", [{"name": "Anna"}, {"load": np.arange(60) / 4}])
def test_a_name_beside_signals_is_no_long_form(tmp_path, other):
    path = tmp_path / "wide.csv"
    frame = pd.DataFrame(map(long_rows, range(60))).rename(columns={"tick": "time"}).drop(columns="unit")
    frame.assign(road="A1", **other).to_csv(path, index=False)
    assert "value" in read_log(path).signals


def test_a_signal_in_two_units_can_be_left_out(tmp_path):
    path = tmp_path / "long.csv"
    frame = pd.DataFrame(map(long_rows, range(60))).rename(columns={"tick": "time"})
    frame.loc[1, "unit"] = "mph"
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match="gives 'speed' in 'mph' and in 'km/h'"):
        read_log(path)
    assert list(read_log(path, exclude="speed").signals) == ["rpm"]


def test_rows_of_no_signal_are_counted(tmp_path):
    path = tmp_path / "long.csv"
    frame = pd.DataFrame(map(long_rows, range(60))).rename(columns={"tick": "time"})
    frame.assign(name=frame["name"].where(frame.index > 2)).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"names no signal in 'name' in 3 rows, which are left out"):
        assert list(read_log(path).signals) == ["speed", "rpm"]


def test_one_value_per_row_cannot_be_followed():
    recipe = WindowRecipe(("rpm",), 1, 2, 1, 2)
    with pytest.raises(ValueError, match=r"has one value per row \(time, name, value\), which cannot be followed"):
        LiveWindows(b"time,name,value\n", recipe, recording="long", source="long.csv")


def test_racechrono_and_motec_have_lines_above_and_below_the_header(write):
    head = (
        "This file is created using RaceChrono v7\nFormat,3\n\ntimestamp,lap_number,speed,rpm\n"
        "unix time,,m/s,rpm\n,,100: gps,201: obd\n"
    )
    log = read_log(write(head, lambda i: f"{1_700_000_000 + i / 10:.1f},1,{i / 4},{800 + i}\n"))
    assert numbers(log)["speed"] == ("m/s", (np.arange(60) / 4).tolist())
    np.testing.assert_allclose(log["rpm"].time_s, TENTHS, rtol=0, atol=1e-6)
    head = '"Format","MoTeC CSV File"\n"Venue","x"\n\n"Time","Ground Speed"\n"s","km/h"\n\n'
    log = read_log(write(head, lambda i: f'"{i / 10:.3f}","{i}"\n'))
    assert numbers(log) == {"Ground Speed": ("km/h", list(range(60)))}


@pytest.mark.parametrize(("end", "lines"), [("", "\r\n"), (" ", "\r\n"), ("", "\n"), ("", "\r")])
def test_vbo(tmp_path, end, lines):
    head = "File created on 28/10/2024\r\n[header]\r\nsatellites\r\ntime\r\nvelocity kmh\r\n\r\n[column names]\r\n"
    rows = "".join(
        f"005 {135959 + i // 10 if i < 10 else 140000 + i // 10 - 1}.{i % 10}0 +{i / 4:.3f}{end}\r\n" for i in range(60)
    )
    content = f"{head}sats time velocity \r\n\r\n[data]\r\n{rows}".replace("\r\n", lines)
    (tmp_path / "lap.vbo").write_bytes(content.encode())
    log = read_log(tmp_path / "lap.vbo")
    assert numbers(log) == {"sats": ("", [5.0] * 60), "velocity": ("", (np.arange(60) / 4).tolist())}
    np.testing.assert_allclose(log["velocity"].time_s, 13 * 3600 + 59 * 60 + 59 + TENTHS, rtol=0, atol=1e-9)


def test_a_time_of_day_as_one_number_has_its_own_unit(write):
    path = write("time,x\n", lambda i: f"{132759 + i // 10 if i < 10 else 132800 + i // 10 - 1}.{i % 10}0,{i}\n")
    log = read_log(path, time="time [hhmmss]")
    np.testing.assert_allclose(np.diff(log["x"].time_s), 0.1, atol=1e-9)


def test_names_that_only_their_units_tell_apart_stay_whole(write):
    log = read_log(write("time,Speed (km/h),Speed (mph)\n", lambda i: f"{i},{i},{i}\n"))
    assert list(log.signals) == ["Speed (km/h)", "Speed (mph)"]


# --- missing cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["-", "NODATA", "?", "None", "Fehler", "", "#N/A"])
def test_a_marker_is_a_missing_cell_in_files_and_lines_alike(write, marker):
    path = write("time,speed\n", lambda i: f"{i / 10},{marker if i == 30 else i}\n")
    assert np.flatnonzero(np.isnan(read_log(path, signals=["speed"])["speed"].values)).tolist() == [30]
    recipe = WindowRecipe(("speed",), 10, 1, 0.5, 0.5)
    expected = pd.concat([part.rows for part in stream_windows(path, recipe)])
    live = LiveWindows(b"time,speed\n", recipe, recording="drive", source="lines")
    lines = path.read_bytes().splitlines(keepends=True)[1:]
    found = [part.rows for line in lines for part in live.add(line)] + [part.rows for part in live.end()]
    np.testing.assert_array_equal(pd.concat(found), expected)
    assert live.left_out == 0


def test_other_text_is_refused_by_line_in_files_and_left_out_and_counted_in_lines(write):
    path = write("time,speed\n", lambda i: f"{i / 10},{'12a' if i == 30 else i}\n")
    with pytest.raises(ValueError, match=r"59 of 60 cells are numbers; line 32 holds '12a'\. .*--na"):
        read_log(path, signals=["speed"])
    assert np.isnan(read_log(path, signals=["speed"], na="12a")["speed"].values[30])
    live = LiveWindows(b"time,speed\n", WindowRecipe(("speed",), 10, 1, 0.5, 0.5), recording="drive", source="lines")
    list(live.add(path.read_bytes().split(b"\n", 1)[1]))
    assert live.left_out == 1
    assert "'12a'" in live.complaint


# --- lines of any dialect -------------------------------------------------------------------------------


class Pieces(Feed):
    """A feed of given bytes, at any pace."""

    def __init__(self, pieces):
        self._pieces = iter(pieces)

    def read(self):
        return next(self._pieces, None)


@pytest.mark.parametrize(
    "head",
    [
        "time;speed\n",
        "sep=;\ntime;speed\n",
        "time;speed\ns;km/h\n",
        "Logger;3\nBy;x\n\ntime;speed\n",
        "# by x\ntime;speed\n",
    ],
)
def test_lines_of_another_dialect_give_the_windows_of_the_file(write, head):
    path = write(head, lambda i: f"{i / 10};{i * 2 + (i > 0) / 2}\n".replace(".", ","))
    recipe = WindowRecipe(("speed",), 10, 1, 0.5, 0.5)
    expected = pd.concat([part.rows for part in stream_windows(path, recipe)])
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        content = path.read_text("utf-8").encode(encoding)
        for size in (1, 7, len(content)):
            feed = Pieces(content[i : i + size] for i in range(0, len(content), size))
            following = Following(feed, lambda head: LiveWindows(head, recipe, recording="drive", source="lines"))
            found = pd.concat([part.rows for part in following if len(part)])
            np.testing.assert_array_equal(found.sort_values("speed@0"), expected)
            assert (following.live.left_out, len(expected)) == (0, 11)


# --- clocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "unit", "said"),
    [
        (lambda i: 166_064_000 + 100_000 * i, "us", "unix time in seconds would be 100000 s"),
        (lambda i: 3_900_000_000 + 20_000 * i, "us", "unix time in seconds would be 20000 s"),
        (lambda i: 7_000_000_000 + 100_000 * i, "us", "unix time in seconds"),
        (lambda i: 5000 + 100 * i, "ms", "as seconds would be 100 s"),
        (lambda i: 5000 + 20 * i + i % 2, "ms", "as seconds would be"),
        (lambda i: 200_000_000 + 100 * i, "ms", "would be 100 s"),
        (lambda i: 100_000 * i, "us", "as seconds would be 100000 s"),
        (lambda i: 150_000_000_000 + 10_000 * i, "us", "unix time in milliseconds would be 10 s"),
    ],
)
def test_a_counter_without_a_unit_is_refused_and_the_option_reads_it(write, stamp, unit, said):
    path = write("time,x\n", lambda i: f"{stamp(i)},{i}\n")
    with pytest.raises(ValueError, match=rf"column 'time' of .*{said}.*--time\) 'time \[{unit}\]'"):
        read_log(path)
    per_second = {"ms": 1e3, "us": 1e6}[unit]
    steps = np.diff([stamp(i) / per_second for i in range(60)])
    np.testing.assert_allclose(np.diff(read_log(path, time=f"time [{unit}]")["x"].time_s), steps, atol=1e-6)
    live = LiveWindows(b"time,x\n", WindowRecipe(("x",), 1, 2, 1, 1), recording="drive", source="lines")
    with pytest.raises(ValueError, match="gives no unit of time"):
        list(live.add(path.read_bytes().split(b"\n", 1)[1]))


@pytest.mark.parametrize(
    ("stamp", "step_s"),
    [
        (lambda i: 45413.5 + i / 864_000, 0.1),  # days of a spreadsheet
        (lambda i: 45413 + i / 24 / 3600, 1.0),
        (lambda i: 60 * i, 60.0),
        (lambda i: 1_700_000_000 + 86_400 * i, 86_400.0),
        (lambda i: 1_700_000_000 + 30 * i, 30.0),
        (lambda i: 1.7e12 + 100 * i, 0.1),
        (lambda i: 9 * i, 9.0),
        (lambda i: 132_710.4 + i / 10, 0.1),
    ],
)
def test_likely_clocks_are_recognised(write, stamp, step_s):
    log = read_log(write("time,x\n", lambda i: f"{stamp(i)!r},{i}\n"))
    np.testing.assert_allclose(np.diff(log["x"].time_s), step_s, rtol=1e-4)


@pytest.mark.parametrize(("zero", "word"), [(116_444_736 * 10**9, "FILETIME"), (621_355_968 * 10**9, "ticks of .NET")])
def test_ticks_of_windows_are_recognised(write, zero, word):
    log = read_log(write("time,x\n", lambda i: f"{zero + 17 * 10**15 + i * 10**6},{i}\n"))
    assert log.start == pd.Timestamp("2023-11-14T22:13:20Z")
    np.testing.assert_allclose(log["x"].time_s, TENTHS, rtol=0, atol=1e-9)
    assert log.clock == f"column 'time' in {word}"


@pytest.mark.parametrize(
    ("noon", "per_second", "word"),
    [
        (45_413.5, 1 / 86_400, "days of a spreadsheet"),
        (60_431.5, 1 / 86_400, "modified Julian days"),
        (739_373.5, 1 / 86_400, "days of MATLAB"),
        (2_460_432.0, 1 / 86_400, "Julian days"),
        (3_797_409_600, 1, "seconds since 1904"),  # LabVIEW
    ],
)
def test_clocks_of_another_epoch_have_the_right_start(write, noon, per_second, word):
    log = read_log(write("time,x\n", lambda i: f"{noon + i * per_second:.9f},{i}\n"))
    assert log.start.round("ms") == pd.Timestamp("2024-05-01T12:00Z")
    assert log.clock == f"column 'time' in {word}"
    np.testing.assert_allclose(np.diff(log["x"].time_s), 1, atol=5e-4)


def test_days_of_an_unknown_epoch_have_no_start(write):
    log = read_log(write("time [d],x\n", lambda i: f"{900_000 + i / 86_400:.9f},{i}\n"))
    assert log.start is None
    np.testing.assert_allclose(log["x"].time_s[:3], [0, 1, 2], atol=1e-4)


@pytest.mark.parametrize("year", [1600, 9999])
def test_dates_that_no_clock_can_name_are_refused(write, year):
    with pytest.raises(ValueError, match=rf"column 'time' of .*drive.csv holds the text '{year}-05-01 00:00:00'"):
        read_log(write("time,x\n", lambda i: f"{year}-05-01 00:00:{i % 60:02d},{i}\n"))


@pytest.mark.parametrize(
    "stamp",
    [lambda i: f"{i // 600:02d}:{i // 10 % 60:02d}.{i % 10}", lambda i: f"{i // 600}:{i // 10 % 60:02d}.{i % 10}0"],
)
def test_minutes_and_seconds_with_a_fraction_are_no_hours(write, stamp):
    log = read_log(write("time,x\n", lambda i: f"{stamp(i)},{i}\n", 900))
    np.testing.assert_allclose(log["x"].time_s, np.arange(900) / 10)


def test_short_times_beside_dates_are_no_fault(write):
    path = write("Moment,Shift,x\n", lambda i: f"2024-05-01 10:00:{i % 60:02d},{i:02d}:00,{i}\n", 20)
    np.testing.assert_array_equal(read_log(path)["x"].time_s, np.arange(20))


def test_short_times_are_not_guessed(write):
    path = write("Time,x\n", lambda i: f"{i // 60:02d}:{i % 60:02d},{i}\n", 90)
    with pytest.raises(ValueError, match=r"'00:00', which may be hours.*'Time \[hh:mm\]' or 'Time \[mm:ss\]'"):
        read_log(path)
    for unit, step_s in (("hh:mm", 60), ("mm:ss", 1)):
        log = read_log(path, time=f"Time [{unit}]")
        np.testing.assert_array_equal(log["x"].time_s, np.arange(90) * step_s)


def test_numbers_that_may_be_times_of_day_are_refused(write):
    path = write("time,x\n", lambda i: f"{100_000 + i // 60 * 100 + i % 60},{i}\n", 150)
    with pytest.raises(ValueError, match=r"times of day such as 100059 and 100100.*'time \[hhmmss\]'.*'time \[s\]'"):
        read_log(path)
    np.testing.assert_array_equal(np.diff(read_log(path, time="time [hhmmss]")["x"].time_s), 1)


@pytest.mark.parametrize("stamp", [lambda i: i // 10, lambda i: "1.70000E+12", lambda i: f"10:00:{i // 10:02d}"])
def test_stamps_that_many_rows_share_are_refused(write, stamp):
    path = write("time,x\n", lambda i: f"{stamp(i)},{i}\n", 1200 if stamp(0) == "1.70000E+12" else 400)
    with pytest.raises(ValueError, match=r"column 'time' of .*drive\.csv has the same stamp, .*--time"):
        read_log(path)
    live = LiveWindows(b"time,x\n", WindowRecipe(("x",), 1, 2, 1, 1), recording="drive", source="lines")
    with pytest.raises(ValueError, match="has the same stamp"):
        list(chain.from_iterable(map(live.add, path.read_bytes().splitlines(keepends=True)[1:])))


def test_signals_that_take_turns_may_share_stamps(write):
    log = read_log(
        write("time,a,b,c\n", lambda i: f"{i // 3},{','.join(str(i) if k == i % 3 else '' for k in range(3))}\n")
    )
    assert log["b"].values.tolist() == list(range(1, 60, 3))


def clock(seconds, form):
    hours, minutes, rest = int(seconds // 3600 % 24), int(seconds // 60 % 60), seconds % 60
    return form.format(h=hours, m=minutes, s=int(rest), f=round(rest % 1 * 10), half="PM" if hours > 11 else "AM",
                       twelve=(hours - 1) % 12 + 1)  # fmt: skip


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("time", "{h:02d}:{m:02d}:{s:02d}.{f}"),
        ("time", "{twelve}:{m:02d}:{s:02d}.{f} {half}"),
        ("Time [hhmmss]", "{h:02d}{m:02d}{s:02d}.{f}"),
        ("time", "{m:02d}:{s:02d}.{f}"),  # as a spreadsheet writes the hours away
    ],
)
def test_times_of_day_go_on_over_midnight(write, header, form):
    """Also twice, with a row that comes late and with gaps, whole and piece by piece."""
    hourly = "{h" not in form and "{half}" not in form
    seconds = 86_390 + np.concatenate((np.arange(600) / 10, [] if hourly else np.arange(400, 2e5, 400)))
    order = np.arange(len(seconds))
    order[[99, 100]] = 100, 99  # 0:00:00.0, and then 23:59:59.9
    path = write(f"{header},x\n", lambda i: f"{clock(round(seconds[order[i]], 1), form)},{order[i]}\n", len(seconds))
    said = rf"column '.*' of .*drive\.csv begins again {'1 time;.* hour' if hourly else '3 times;.* day'}"
    with pytest.warns(UserWarning, match=said):
        log = read_log(path)
    np.testing.assert_allclose(np.diff(log["x"].time_s), np.diff(seconds), atol=1e-6)
    assert log["x"].values.tolist() == list(range(len(seconds)))
    with pytest.warns(UserWarning, match=said):
        pieces = joined(read_pieces(path, rows=7), "drive")
    np.testing.assert_array_equal(pieces["x"].time_s, log["x"].time_s)


def test_times_of_a_table_in_memory_go_on_over_midnight():
    moments = pd.date_range("2024-05-01T23:59:50", periods=40, freq="s")
    with pytest.warns(UserWarning, match=r"begins again 1 time;"):
        log = log_from_frame(pd.DataFrame({"time": moments.time, "x": range(40)}), "drive")
    assert np.diff(log["x"].time_s).tolist() == [1.0] * 39


@pytest.mark.parametrize(
    ("stamps", "said"),
    [
        (["12:59:58", "12:59:59", "01:00:00", "01:00:01"], "jumps back by 43199 s .* noon or midnight"),
        (["22:00:00", "22:00:01", "08:00:00", "08:00:01"], "jumps back by 50401 s .* noon or midnight"),
        (["23:30:00", "23:30:01", "23:30:02", "00:00:00", "23:30:03", "23:30:04", "23:30:05"], "back by 1797 s"),
        (["100:00:00", "100:00:01", "00:00:00", "00:00:01"], "jumps back by 360001 s"),  # durations
    ],
)
def test_falls_that_are_no_midnight_are_refused(write, stamps, said):
    with pytest.raises(ValueError, match=said):
        read_log(write("time,x\n", lambda i: f"{stamps[i]},{i}\n", len(stamps)))


def test_watching_goes_on_over_midnight():
    live = LiveWindows(b"time,x\n", WindowRecipe(("x",), 1, 2, 1, 1), recording="drive", source="lines")
    lines = [f"{clock(86_399 + i, '{h:02d}:{m:02d}:{s:02d}')},{i}\n".encode() for i in range(30)]
    batches = [*chain.from_iterable(map(live.add, lines)), *live.end()]
    assert live.recordings == 1
    assert np.concatenate([batch.spans["start_s"] for batch in batches]).tolist() == list(range(86_399, 86_399 + 29))


def test_a_counter_that_begins_again_is_named(write):
    path = write("time [us],x\n", lambda i: f"{(2**32 - 3_000_000 + 100_000 * i) % 2**32},{i}\n")
    with pytest.raises(ValueError, match=r"jumps back by 4294\.\d+ s after 30 rows.*a counter of 32 bits"):
        read_log(path)


@pytest.mark.parametrize(
    ("first", "second", "start"),
    [
        ("01.05.2024 13:00:00", "01.05.2024 13:00:01", "2024-05-01T13:00Z"),
        ("01.05.2024 13:00:00,250", "01.05.2024 13:00:01,250", "2024-05-01T13:00:00.25Z"),
        ("13/05/2024 13:00", "13/05/2024 13:01", "2024-05-13T13:00Z"),
        ("05/13/2024 01:00:00 PM", "05/13/2024 01:00:01 PM", "2024-05-13T13:00Z"),
        ("05/13/2024 12:00:00 AM", "05/13/2024 12:00:01 AM", "2024-05-13T00:00Z"),
        ("28-Oct-2024 13:51:00.123", "28-Oct-2024 13:51:01.123", "2024-10-28T13:51:00.123Z"),
        ("28. Okt 2024 13:51:00", "28. Okt 2024 13:51:01", "2024-10-28T13:51Z"),
        ("Mon Oct 28 13:51:00 GMT+02:00 2024", "Mon Oct 28 13:51:01 GMT+02:00 2024", "2024-10-28T11:51Z"),
        ("2024/05/01 10:00:00.5", "2024/05/01 10:00:01.5", "2024-05-01T10:00:00.5Z"),
        ("20240501_100000", "20240501_100001", "2024-05-01T10:00Z"),
        ("2024-05-01T10:00:00,5", "2024-05-01T10:00:01,5", "2024-05-01T10:00:00.5Z"),
        ("2024-10-27T02:59:30+02:00", "2024-10-27T02:59:31+02:00", "2024-10-27T00:59:30Z"),
        ("11:59:59 AM", "12:00:00 PM", None),
        ("13:00:00,5", "13:00:01,5", None),
    ],
)
def test_forms_of_dates(write, first, second, start):
    log = read_log(write("time;x\n", lambda i: f"{(first, second)[i]};{i}\n", 2))
    assert log["x"].time_s[1] - log["x"].time_s[0] in (1.0, 60.0)
    assert log.start == (None if start is None else pd.Timestamp(start))


def test_days_and_months_are_not_guessed(write):
    path = write("Date,x\n", lambda i: f"05/04/2024 10:00:{i:02d},{i}\n")
    with pytest.raises(ValueError, match=r"begin with the day or with the month\. .*--time\) 'Date \[dmy\]'"):
        read_log(path, time="Date")
    assert read_log(path, time="Date [dmy]").start == pd.Timestamp("2024-04-05T10:00Z")
    assert read_log(path, time="Date [mdy]").start == pd.Timestamp("2024-05-04T10:00Z")


# --- odd files ------------------------------------------------------------------------------------------

TWENTY = "".join(f"{i / 10},{i},{800 + i}\n" for i in range(20))


@pytest.mark.parametrize(
    "text",
    [
        ("time,speed,rpm\n" + TWENTY).replace("\n", "\r"),
        "time,speed,rpm,\n" + TWENTY.replace("\n", ",\n"),
        "time,speed,rpm\n" + TWENTY.replace("\n", ",\n"),
        "time, speed, rpm\n" + TWENTY.replace(",", ",  "),
        "time,speed,rpm\n" + TWENTY + "\0" * 300 + "\n",
        "time,speed,rpm\n" + TWENTY.replace("0.5,", "\n\n0.5,") + "\n\n",
        "time,speed,rpm\n" + TWENTY.replace("0.5,", "# a note\ntime,speed,rpm\n0.5,"),
        "time,speed,rpm\n" + TWENTY.rstrip("\n"),
        "time,speed,rpm\n" + "".join(f"{i / 10},0x{i:X},{800 + i}\n" for i in range(20)),
    ],
    ids=[
        "cr",
        "trailing",
        "trailing in rows",
        "spaces",
        "zeros",
        "blank lines",
        "header again",
        "no end",
        "hexadecimal",
    ],
)
def test_odd_files_are_read_right(tmp_path, text):
    (tmp_path / "drive.csv").write_bytes(text.encode())
    log = read_log(tmp_path / "drive.csv", signals=["speed", "rpm"])
    assert log["speed"].values.tolist() == list(range(20))
    assert log["rpm"].values.tolist() == list(range(800, 820))
    assert log["rpm"].time_s.tolist() == (np.arange(20) / 10).tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,speed,rpm\n" + TWENTY + "2.0,6", r"line 22 has 2 cells \('2\.0,6'\), and the header names 3"),
        ("time,speed,rpm\n" + TWENTY.replace(",5,805", ",5"), r"line 7 has 2 cells \('0\.5,5'\)"),
        ("time,speed,speed\n" + TWENTY, r"has 2 columns named 'speed'.*--exclude"),
        (
            "time,x\n" + "".join(f"2024-10-27 02:{i % 60:02d}:59,0\n" for i in range(50, 62)),
            "jumps back by 3540 s after 10",
        ),
        ("PK\x03\x04\0\0", r"drive\.csv is a ZIP archive or a workbook of a spreadsheet, expected a CSV file"),
        ("PAR1\0\0", "is a Parquet file, expected a CSV file"),
        ("<html><table>", "is a web page, expected a CSV file"),
        ("time,x\n0,1\n" + 5000 * "\0" + "1,2\n2,3\n", r"'time' of .{1,500}$"),
        *(
            ("time;x\n" + "".join(f"{stamp % divmod(950 + 50 * i, 1000)};0\n" for i in range(20)), said)
            for stamp, said in [
                ("11:59:5%d.%d", r"'11:59:51\.50', and then '11:59:51\.100'.*a count without leading zeros"),
                ("2024-05-01T11:59:5%d.%d+02:00", r"and then '2024-05-01T11:59:51\.100\+02:00'"),
                ("%d.%d", r"'1\.50', and then '1\.100'"),
            ]
        ),
    ],
)
def test_odd_files_are_refused_by_line(tmp_path, text, said):
    (tmp_path / "drive.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_log(tmp_path / "drive.csv")
