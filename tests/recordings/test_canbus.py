"""CAN logs in four formats give the same signals, at once or in pieces; broken ones give a clear error."""

import struct
import warnings
from pathlib import Path

import can
import numpy as np
import pandas as pd
import pytest
from bus_files import HEAD, WRITERS, assert_in_order, assert_same_signals, write

from anomalyvae.recordings import list_signals, read_log
from anomalyvae.recordings.bus import canbus
from anomalyvae.recordings.bus.canbus import can_pieces, in_order
from anomalyvae.recordings.log import joined

FIXTURES = Path(__file__).parents[3] / "shared" / "data" / "fixtures" / "can"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="real CAN logs are not at hand")
START_S = 1_700_000_000.0
DATABASE = f"""{HEAD}
BO_ 291 Wheels: 8 ECU
 SG_ speed : 7|16@0+ (0.01,0) [0|0] "km/h" ECU
 SG_ counter : 56|8@1+ (1,0) [0|0] "" ECU

BO_ 2566844672 Engine: 8 ECU
 SG_ torque : 0|16@1- (0.5,0) [0|0] "N m" ECU
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "car.dbc"
    path.write_text(DATABASE)
    return path


def message(time_s, key, data, **more):
    return can.Message(timestamp=START_S + time_s, arbitration_id=key, is_extended_id=key > 0x7FF, data=data, **more)


def drive(n=200):
    """Two messages in turn, at 100 Hz together."""
    for k in range(n):
        if k % 2:
            yield message(k / 100, 0x18FEF100 & 0x1FFFFFFF, struct.pack("<h6x", 40 - k), channel=0)
        else:
            yield message(k / 100, 291, struct.pack(">H5xB", 10 * k, k % 256), channel=0)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_signals_that_were_sent(tmp_path, database, suffix):
    log = read_log(write(tmp_path / f"drive{suffix}", drive()), databases=database)
    assert log.recording == "drive"
    assert {name: (s.unit, s.source) for name, s in log.signals.items()} == {
        "speed": ("km/h", "Wheels"),
        "counter": ("", "Wheels"),
        "torque": ("N m", "Engine"),
    }
    assert log["speed"].time_s is log["counter"].time_s
    even = np.arange(0, 200, 2)
    # ASC and TRC count from the first message; the others from the header's start, which is the same here.
    np.testing.assert_allclose(log["speed"].time_s, even / 100, atol=1e-6)
    np.testing.assert_allclose(log["speed"].values, even / 10)
    np.testing.assert_array_equal(log["counter"].values, even % 256)
    np.testing.assert_allclose(log["torque"].values, (40 - np.arange(1, 200, 2)) / 2)


@pytest.mark.parametrize("suffix", [".blf", ".log", ".trc"])
def test_the_start_is_a_moment_in_utc(tmp_path, database, suffix):
    start = read_log(write(tmp_path / f"drive{suffix}", drive()), databases=database).start
    assert abs(start - pd.Timestamp(START_S, unit="s", tz="UTC")) < pd.Timedelta("2ms")


def test_the_date_of_an_asc_file_is_read_as_utc_wherever_the_machine_is(tmp_path, database, monkeypatch):
    path = tmp_path / "drive.asc"
    path.write_text(
        "date Sam Sep 30 15:06:13.191 2017\nbase hex  timestamps absolute\nno internal events logged\n"
        "0.5 1 123 Rx d 8 00 0A 00 00 00 00 00 07\n"
    )
    for zone in ("UTC", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        log = read_log(path, databases=database)
        assert log.start == pd.Timestamp("2017-09-30T15:06:13.191Z")
        assert (log["speed"].time_s.tolist(), log["speed"].values.tolist()) == ([0.5], [0.1])


def test_stamps_that_count_from_the_line_before_are_refused(tmp_path):
    path = tmp_path / "drive.asc"
    path.write_text("date Sat Sep 30 15:06:13.191 2017\nbase hex  timestamps relative\n0.5 1 123 Rx d 1 00\n")
    with pytest.raises(ValueError, match=r"count from the line before.*'timestamps absolute'"):
        read_log(path)


def test_frames_of_can_fd_error_and_remote_frames(tmp_path, database):
    sent = [
        message(0, 291, bytes(range(64)), is_fd=True, channel=0),
        message(0.1, 291, b"", is_remote_frame=True, dlc=8, channel=0),
        message(0.2, 0, b"", is_error_frame=True, channel=0),
    ]
    log = read_log(write(tmp_path / "drive.blf", sent), databases=database)
    assert log["speed"].values.tolist() == [0.01]
    assert log["counter"].values.tolist() == [7]


@pytest.mark.parametrize("suffix", WRITERS)
def test_pieces_joined_are_the_whole(tmp_path, database, suffix, monkeypatch):
    late = sorted(drive(), key=lambda m: m.timestamp + 0.5 * (m.data[0] % 2))  # some come half a second late
    path = write(tmp_path / f"drive{suffix}", late if suffix == ".log" else drive())
    whole = read_log(path, databases=database)
    monkeypatch.setattr(canbus, "_ROWS", 17)
    pieces = list(can_pieces(path, ["torque", "speed"], databases=database))
    assert len(pieces) > 8
    assert all(set(piece.signals) == {"torque", "speed"} for piece in pieces)
    assert_in_order(pieces)
    again = joined(pieces, "drive")
    assert_same_signals(whole, again)
    assert all((np.diff(signal.time_s) > 0).all() for signal in again.signals.values())


def test_rows_up_to_a_second_late_are_sorted_in_and_a_jump_back_is_refused():
    def rows(*stamps):
        made = np.zeros(len(stamps), dtype=[("time_s", "f8"), ("place", "i8")])
        made["time_s"], made["place"] = stamps, np.arange(len(stamps))
        return made

    ordered = np.concatenate(list(in_order([rows(0, 2, 1), rows(1, 1.5), rows()], "a log")))
    assert ordered["time_s"].tolist() == [0, 1, 1, 1.5, 2]
    assert ordered["place"].tolist() == [0, 2, 0, 1, 1]  # of rows with one stamp, the first in the file comes first
    with pytest.raises(ValueError, match=r"in a log jumps back by 1.5 s after 3 rows.*Split the file there"):
        list(in_order([rows(0, 2), rows(2, 0.5)], "a log"))
    with pytest.raises(ValueError, match="a log has a time stamp that is not finite"):
        list(in_order([rows(0, np.nan)], "a log"))


def test_a_wanted_signal_that_never_came_has_no_samples(tmp_path, database):
    path = write(tmp_path / "drive.log", [message(0, 291, bytes(8), channel="can0")])
    with pytest.warns(UserWarning, match=r"drive.log has no sample of torque\. Check that"):
        log = read_log(path, signals=["speed", "torque"], databases=database)
    assert (len(log["torque"].values), log["torque"].unit) == (0, "N m")
    assert len(log["speed"].values) == 1


def test_signals_are_listed_with_rate_unit_and_message(tmp_path, database):
    table = list_signals(write(tmp_path / "drive.log", drive()), databases=database)
    assert table.columns.tolist() == ["signal", "unit", "samples", "rate_hz", "source"]
    assert table.set_index("signal").loc["speed"].tolist() == ["km/h", 100, pytest.approx(50), "Wheels"]
    (tmp_path / "drive.csv").write_text("time_s,x [m]\n0,1\n0.5,2\n")
    assert list_signals(tmp_path / "drive.csv").to_numpy().tolist() == [["x", "m", 2, 2.0, ""]]


def log_or_error(path, database):
    try:
        return read_log(path, databases=database)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("step", [97, pytest.param(7, marks=pytest.mark.slow)])
def test_a_file_of_any_length_is_refused_or_read_up_to_there(tmp_path, database, suffix, step):
    data = write(tmp_path / f"drive{suffix}", drive(60)).read_bytes()
    whole = read_log(tmp_path / f"drive{suffix}", databases=database)
    path = tmp_path / f"cut{suffix}"
    read = 0
    for size in range(0, len(data), step):
        path.write_bytes(data[:size])
        log = log_or_error(path, database)
        if isinstance(log, str):
            assert str(path) in log
            continue
        read += 1
        for name, signal in log.signals.items():
            np.testing.assert_array_equal(signal.values, whole[name].values[: len(signal.values)])
    assert (read == 0) == (suffix == ".blf")  # a BLF file tells its length


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("turns", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_a_damaged_file_gives_a_log_or_an_error_that_names_it(tmp_path, database, suffix, turns):
    data = write(tmp_path / f"drive{suffix}", drive(60)).read_bytes()
    path = tmp_path / f"damaged{suffix}"
    rng = np.random.default_rng(0)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(turns):
            damaged = bytearray(data)
            for place in rng.integers(0, len(damaged), rng.choice([1, 2, 8])):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            log = log_or_error(path, database)
            refused += isinstance(log, str)
            assert not isinstance(log, str) or str(path) in log
    assert refused


def test_other_files_are_refused_by_name(tmp_path):
    for name in ("drive.blf", "drive.asc", "drive.log", "drive.trc"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name} is empty, not a CAN log"):
            read_log(tmp_path / name)
    (tmp_path / "server.log").write_text("2026-01-01 INFO started\n")
    with pytest.raises(ValueError, match=r"server.log cannot .* line 1: '2026-01-01 INFO started'.*a candump log has"):
        read_log(tmp_path / "server.log")
    (tmp_path / "other.blf").write_bytes(b"PK" * 100)
    with pytest.raises(ValueError, match=r"other.blf begins with b.PKPK.; a BLF file"):
        read_log(tmp_path / "other.blf")
    (tmp_path / "bad.log").write_text("(0.1) can0 123#00\n(0.2) can0 12Z#00\n")
    with pytest.raises(ValueError, match=r"bad.log cannot be read as LOG in line 2: '\(0.2\) can0 12Z#00'"):
        read_log(tmp_path / "bad.log")


def test_arguments_that_do_not_fit_the_format_are_refused(tmp_path, database):
    path = write(tmp_path / "drive.log", drive(4))
    with pytest.raises(ValueError, match=r"drive.log has time stamps of its own; time='t'"):
        read_log(path, time="t", databases=database)
    (tmp_path / "drive.csv").write_text("time_s,x\n0,1\n")
    with pytest.raises(ValueError, match=r"drive.csv is a table; databases"):
        read_log(tmp_path / "drive.csv", databases=database)


@needs_fixtures
def test_real_logs_are_read(tmp_path, capfd):
    for name, identifier, samples in (
        ("logfile.asc", "1.0x18EBFF00", 227),
        ("issue_1256.asc", "0x010", 78),
        ("issue_1905.blf", "0x6A9", 1049),
        ("test_CanMessage_V2_1.trc", "0x000", 34),
    ):
        log = read_log(FIXTURES / name)
        assert len(log[f"{identifier}.frames"].values) == samples
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"broken_toyota_rav4_2020.dbc cannot be read at line 756 .*GEAR"):
        read_log(FIXTURES / "issue_1905.blf", databases=FIXTURES / "broken_toyota_rav4_2020.dbc")
    database = tmp_path / "own.dbc"
    database.write_text('VERSION ""\nNS_ :\nBS_:\nBU_: E\nBO_ 17 M: 8 E\n SG_ ramp : 0|16@1+ (1,0) [0|0] "" E\n')
    with pytest.warns(UserWarning, match="81.8% of the 1,457 frames of .* are in no database"):
        ramp = read_log(FIXTURES / "issue_1256.asc", databases=database)["ramp"]
    assert (len(ramp.values), ramp.time_s[0], ramp.values[:2].tolist()) == (265, 0.039977, [0x284A, 0x2984])
