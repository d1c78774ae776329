"""Measurement files give channels and decoded frames, at once or in pieces; damaged ones give an error at most."""

import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import can
import numpy as np
import pandas as pd
import pytest
from asammdf import MDF, Signal
from asammdf.blocks.conversion_utils import from_dict
from bus_files import HEAD, assert_in_order, assert_same_signals
from can.io.mf4 import MF4Writer

from anomalyvae.recordings import list_signals, read_log
from anomalyvae.recordings.bus import mdf, mdf_file
from anomalyvae.recordings.bus.mdf import in_step, mdf_pieces
from anomalyvae.recordings.log import joined

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "css_drive").exists(), reason="real MF4 files are not at hand")
DATABASE = f"""{HEAD}
BO_ 291 Wheels: 8 ECU
 SG_ speed : 7|16@0+ (0.01,0) [0|0] "km/h" ECU

BO_ 85 Wide: 32 ECU
 SG_ last : 248|8@1+ (1,0) [0|0] "" ECU
"""


@pytest.fixture
def database(write):
    return write(DATABASE, "car.dbc")


def saved(path, *groups, version="4.10", **options):
    """A measurement file with these groups of channels."""
    with MDF(version=version) as file:
        file.header.start_time = pd.Timestamp("2024-05-01T10:00:00+02:00").to_pydatetime()
        for channels in groups:
            file.append(channels)
        return Path(file.save(path, overwrite=True, **options))


def measured(path, version="4.10", compression=0):
    """Two groups: 50 Hz with a converted channel, 5 Hz with an enumeration and text."""
    fast, slow = np.arange(300) / 50, np.arange(30) / 5
    on_off = {"val_0": 0, "text_0": b"off", "val_1": 1, "text_1": b"on"}
    quick = [
        Signal(np.sin(fast), fast, name="acc", unit="m/s^2"),
        Signal((np.arange(300) % 9).astype("u1"), fast, name="level", conversion={"a": 0.5, "b": 1.0}),
    ]
    others = [
        Signal((np.arange(30) % 2).astype("u1"), slow, name="switch", conversion=on_off),
        Signal(np.array([b"on", b"off"] * 15), slow, name="words", encoding="utf-8"),
        Signal(np.arange(30, dtype="i2"), slow, name="ramp"),
    ]
    return saved(path, quick, others, version=version, compression=compression)


def recorded(path, n=300):
    """Frames of classic CAN and of CAN FD, in the layout of ASAM bus logging."""
    start = time.time()
    with MF4Writer(path) as writer:
        for k in range(n):
            stamp = start + 1 + k / 100
            data = (10 * k).to_bytes(2, "big") + bytes(6)
            writer.on_message_received(can.Message(stamp, 291, False, data=data, channel=0))
            if k % 10 == 0:
                wide = bytes(31) + bytes([k % 256])
                writer.on_message_received(can.Message(stamp, 85, False, is_fd=True, data=wide, channel=0))
    return path


@pytest.mark.parametrize(
    ("version", "compression"), [("2.14", 0), ("3.30", 0), ("4.00", 0), ("4.10", 1), ("4.11", 2), ("4.20", 0)]
)
def test_channels_of_every_version_are_signals_with_the_stamps_of_their_group(tmp_path, version, compression):
    log = read_log(measured(tmp_path / "drive.mf4", version, compression))
    assert set(log.signals) == {"acc", "level", "switch", "ramp"}
    assert (log["acc"].unit, log["acc"].source) == ("m/s^2", "group 0")
    assert log["acc"].time_s is log["level"].time_s
    np.testing.assert_allclose(log["acc"].time_s, np.arange(300) / 50)
    np.testing.assert_array_equal(log["acc"].values, np.sin(np.arange(300) / 50))
    np.testing.assert_array_equal(log["level"].values, (np.arange(300) % 9) * 0.5 + 1.0)
    np.testing.assert_array_equal(log["switch"].values, np.arange(30) % 2)  # the number, not its text
    np.testing.assert_array_equal(log["ramp"].values, np.arange(30))
    assert log.left_out.keys() == {"words"}
    with pytest.raises(ValueError, match=r"'words'.* holds text"):
        read_log(tmp_path / ("drive.mf4" if version > "4" else "drive.mdf"), signals=["words"])


@pytest.mark.parametrize(("version", "compression"), [("2.14", 0), ("3.30", 0), ("4.00", 0), ("4.11", 2)])
def test_measured_channels_are_listed_without_reading_them(tmp_path, monkeypatch, version, compression):
    path = measured(tmp_path / "drive.mf4", version, compression)
    log = read_log(path)
    monkeypatch.setattr(mdf, "_table", None)
    table = list_signals(path, timeout_s=math.inf).set_index("signal")
    assert set(table.index) == set(log.signals)
    for name, signal in log.signals.items():
        rate_hz = (len(signal.values) - 1) / (signal.time_s[-1] - signal.time_s[0])
        assert table.loc[name].tolist() == [signal.unit, len(signal.values), pytest.approx(rate_hz), signal.source]


def test_channels_and_frames_of_one_file_are_listed_together(tmp_path, database):
    with MDF(recorded(tmp_path / "frames.mf4")) as file:
        file.append([Signal(np.arange(50.0), np.arange(50) / 10, name="acc", unit="m/s^2")])
        file.append([Signal(np.array([1.0]), np.array([3.0]), name="once")])
        path = file.save(tmp_path / "drive.mf4")
    log, table = read_log(path, databases=database), list_signals(path, databases=database).set_index("signal")
    assert table["samples"].to_dict() == {name: len(signal.values) for name, signal in log.signals.items()}
    assert table.loc["speed", "rate_hz"] == pytest.approx(100, rel=0.01)
    assert np.isnan(table.loc["once", "rate_hz"])


def test_the_start_is_a_moment_in_utc(tmp_path):
    assert read_log(measured(tmp_path / "drive.mf4")).start == pd.Timestamp("2024-05-01T08:00:00Z")


def patched(path, **units):
    """Give channels another unit by name; ``stamps`` is that of the time channels."""
    with MDF(path) as file:
        for number, group in enumerate(file.groups):
            for place, channel in enumerate(group.channels):
                name = "stamps" if place == file.masters_db.get(number) else channel.name
                of = channel if file.version >= "4.00" else channel.conversion
                if name in units and of is not None:
                    of.unit = units[name]
        return Path(file.save(path.with_stem("patched"), overwrite=True))


@pytest.mark.parametrize("version", ["3.30", "4.10"])
@pytest.mark.parametrize(
    ("unit", "factor"), [("ms", 1e-3), ("Milliseconds", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("min", 60), ("[s]", 1)]
)
def test_stamps_in_another_unit_of_time_become_seconds(tmp_path, version, unit, factor):
    path = patched(measured(tmp_path / "drive.mf4", version), stamps=unit)
    np.testing.assert_allclose(read_log(path)["acc"].time_s, np.arange(300) / 50 * factor)
    table = list_signals(path).set_index("signal")
    assert table.loc["acc", "rate_hz"] == pytest.approx(50 / factor)


def test_stamps_of_frames_in_another_unit_become_seconds(tmp_path, database):
    path = patched(recorded(tmp_path / "drive.mf4"), stamps="ms")
    stamps = read_log(path, databases=database)["speed"].time_s
    np.testing.assert_allclose(np.diff(stamps), 1e-5, rtol=0.01)


@pytest.mark.parametrize("version", ["3.30", "4.10"])
def test_stamps_with_a_unit_that_is_none_of_time_leave_the_group_out(tmp_path, version):
    log = read_log(patched(measured(tmp_path / "drive.mf4", version), stamps="deg"))
    assert not log.signals
    assert log.left_out["acc"] == "samples with stamps in 'deg', which is no unit of time"


@pytest.mark.parametrize("unit", ["km", "<CNunit><TX>km</TX></CNunit>"])
def test_the_unit_of_a_channel_goes_before_that_of_its_conversion(tmp_path, unit):
    path = patched(measured(tmp_path / "drive.mf4"), level=unit)
    with MDF(path) as file:
        file.groups[0].channels[2].conversion.unit = "mi"
        file.save(path.with_stem("other"))
    assert read_log(path.with_stem("other"))["level"].unit == "km"


@pytest.mark.parametrize("version", ["3.30", "4.10"])
def test_what_is_left_out_says_what_it_holds(tmp_path, version):
    empty = np.empty(0)
    with MDF(measured(tmp_path / "drive.mf4", version)) as file:
        file.append([Signal(empty, empty, name="none"), Signal(empty.astype("u1"), empty, name="neither")])
        if version >= "4":
            file.append([Signal(np.arange(5) * 1j, np.arange(5.0), name="wave")])
        path = file.save(tmp_path / "drive2.mf4")
    log, complex_ = read_log(path), {"wave": "complex numbers"} if version >= "4" else {}
    assert log.left_out == {"words": log.left_out["words"], "none": "no samples", "neither": "no samples"} | complex_
    assert set(log.signals) == {"acc", "level", "switch", "ramp"}


def test_samples_that_are_marked_invalid_are_nan(tmp_path):
    stamps = np.arange(5.0)
    invalid = np.array([False, True, False, False, True])
    x = Signal(np.arange(5.0), stamps, name="x", invalidation_bits=invalid)
    log = read_log(saved(tmp_path / "drive.mf4", [x, Signal(stamps, stamps, name="y")]))
    np.testing.assert_array_equal(log["x"].values, [0, np.nan, 2, 3, np.nan])
    np.testing.assert_array_equal(log["y"].values, stamps)


@pytest.mark.parametrize("bits", [None, np.zeros(5, dtype=bool)])
def test_samples_of_a_channel_that_is_marked_invalid_are_nan(tmp_path, bits):
    stamps = np.arange(5.0)
    with MDF(version="4.10") as file:
        file.append([Signal(stamps, stamps, name="x", invalidation_bits=bits), Signal(stamps, stamps, name="y")])
        file.groups[0].channels[1].flags |= 1
        path = file.save(tmp_path / "drive.mf4")
    log = read_log(path)
    assert np.isnan(log["x"].values).all()
    np.testing.assert_array_equal(log["y"].values, stamps)


def test_names_that_are_not_unique_get_their_group(tmp_path, database):
    stamps = np.arange(3.0)
    with MDF(version="4.10") as file:
        for name in ("engine", "brake", "brake"):
            group = file.append([Signal(stamps, stamps, name="a"), Signal(stamps, stamps, name=f"only {name}")])
            file.groups[group].channel_group.acq_name = name
        file.append([Signal(stamps, stamps, name="speed")])
        path = file.save(tmp_path / "drive.mf4")
    names = ["engine.a", "only engine", "group 1.a", "group 1.only brake", "group 2.a", "group 2.only brake"]
    assert list(read_log(path).signals) == [*names, "speed"]
    assert list(read_log(path, databases=database).signals) == [*names, "group 3.speed"]  # the database has a speed


def test_channels_of_one_name_in_one_group_are_kept(tmp_path):
    stamps = np.arange(5) / 10
    path = saved(tmp_path / "drive.mf4", [Signal(factor * stamps, stamps, name="a") for factor in (1, 2)])
    log = read_log(path)
    assert list(log.signals) == ["group 0.channel 1.a", "group 0.channel 2.a"]  # one of them was lost
    np.testing.assert_allclose(log["group 0.channel 2.a"].values, 2 * stamps)
    assert list_signals(path)["samples"].tolist() == [5, 5]


@pytest.mark.parametrize("raw", [[255, 100, 101, 255, 102], [255] * 5])
@pytest.mark.parametrize(
    "texts", [{"val_0": 255, "text_0": b"not available"}, {"lower_0": 250, "upper_0": 255, "text_0": b"not available"}]
)
def test_a_number_that_stands_for_a_text_is_no_measurement(tmp_path, texts, raw, monkeypatch):
    monkeypatch.setattr(mdf_file, "_ROWS", 2)
    raw, stamps = np.array(raw, dtype="u1"), np.arange(5) / 10
    conversion = {**texts, "default_addr": from_dict({"a": 0.5, "b": -40.0})}
    channels = [Signal(raw, stamps, name="a"), Signal(raw, stamps, name="t", unit="C", conversion=conversion)]
    log = read_log(saved(tmp_path / "drive.mf4", channels), timeout_s=math.inf)
    np.testing.assert_array_equal(log["a"].values, raw)
    np.testing.assert_array_equal(log["t"].values, np.where(raw == 255, np.nan, raw * 0.5 - 40))


def test_duplicated_stamps_become_one_sample_and_a_jump_back_is_refused(tmp_path):
    def save(stamps):
        x = Signal(np.arange(len(stamps), dtype=float), np.array(stamps), name="x")
        return saved(tmp_path / "drive.mf4", [x, Signal(np.ones(len(stamps)), np.array(stamps), name="same")])

    said = r"^1 samples in .*drive.mf4 are means of different values of one signal with one stamp: x 1\. Record"
    with pytest.warns(UserWarning, match=said):
        log = read_log(save([0.0, 0.5, 0.5, 0.2, 3.0]))
    assert dict(zip(log["x"].time_s, log["x"].values, strict=True)) == {0.0: 0, 0.2: 3, 0.5: 1.5, 3.0: 4}
    with pytest.raises(ValueError, match=r"in group 0 of .*drive.mf4 jumps back by 2.5 s after 2 rows"):
        read_log(save([0.0, 3.0, 0.5]))


def test_recorded_frames_are_decoded(tmp_path, database):
    log = read_log(recorded(tmp_path / "drive.mf4"), databases=database)
    assert {name: (s.unit, s.source) for name, s in log.signals.items()} == {
        "speed": ("km/h", "Wheels"),
        "last": ("", "Wide"),
    }
    np.testing.assert_allclose(log["speed"].values, np.arange(300) / 10)
    np.testing.assert_allclose(np.diff(log["speed"].time_s), 0.01, atol=1e-5)
    np.testing.assert_array_equal(log["last"].values, np.arange(0, 300, 10) % 256)


@pytest.mark.parametrize("make", [measured, recorded])
def test_pieces_joined_are_the_whole_and_follow_each_other(tmp_path, database, make, monkeypatch):
    path = make(tmp_path / "drive.mf4")
    whole = read_log(path, databases=database)
    monkeypatch.setattr(mdf_file, "_ROWS", 7)
    pieces = list(mdf_pieces(path, list(whole.signals), databases=database))
    assert len(pieces) > 20
    assert all(set(piece.signals) == set(whole.signals) for piece in pieces)
    assert_in_order(pieces)
    assert_same_signals(joined(pieces, "drive"), whole)


def test_sources_advance_together():
    def source(step, rows_at_once, n):
        stamps = np.arange(0, n, step, dtype=float)
        for first in range(0, len(stamps) + rows_at_once, rows_at_once):
            rows = np.zeros(len(stamps[first : first + rows_at_once]), dtype=[("time_s", "f8")])
            rows["time_s"] = stamps[first : first + rows_at_once]
            yield rows

    stretches = list(in_step([source(0.5, 4, 50), source(3, 10, 50), source(1, 1, 0)]))
    reached = -1.0
    for stretch in stretches:
        stamps = np.concatenate([rows["time_s"] for rows in stretch])
        assert (stamps > reached).all()
        reached = max(reached, stamps.max(initial=reached))
    for place, step in ((0, 0.5), (1, 3)):
        found = np.concatenate([stretch[place]["time_s"] for stretch in stretches])
        np.testing.assert_array_equal(found, np.arange(0, 50, step))
    assert list(in_step([])) == [[]]


def test_nothing_is_left_open_or_lying_about_or_printed(tmp_path, monkeypatch, capfd):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    path = measured(tmp_path / "drive.mf4", compression=2)
    left = len(list(scratch.iterdir()))  # by the writer
    read_log(path, timeout_s=math.inf)
    pieces = mdf_pieces(path)
    next(pieces)
    pieces.close()
    data = bytearray(path.read_bytes())
    data[data.index(b"##DZ") + 60] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"drive.mf4 cannot be read as MDF .*Repair the file"):
        read_log(path, timeout_s=math.inf)
    assert len(list(scratch.iterdir())) == left
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty, not a measurement file"), (b"RIFF" * 50, "begins with b'RIFFRIFF'; a measurement file")],
)
def test_other_files_are_refused(tmp_path, content, problem):
    path = tmp_path / "drive.mf4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_log(path)


def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    path = measured(tmp_path / "drive.mf4")
    monkeypatch.setitem(sys.modules, "asammdf", None)
    with pytest.raises(ImportError, match=r"Install it with: pip install 'anomalyvae\[logs\]'"):
        read_log(path, timeout_s=math.inf)


@pytest.mark.parametrize(("version", "make"), [("3.30", measured), ("4.10", measured), ("", recorded)])
def test_a_closed_file_that_was_cut_is_refused_at_every_length(tmp_path, database, version, make):
    path = measured(tmp_path / "drive.mf4", version) if version else recorded(tmp_path / "drive.mf4", 30)
    data = path.read_bytes()
    for size in range(0, len(data) - 8, max(len(data) // 40, 1)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="drive"):
            read_log(path, databases=database)


FUZZ = """
import random, resource, sys, warnings
from pathlib import Path
from anomalyvae.recordings import list_signals, read_log

warnings.simplefilter("ignore")
seeds, (database, *files) = int(sys.argv[1]), map(Path, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for file in files:
    data, damaged = file.read_bytes(), file.with_stem("damaged")
    for seed in range(seeds):
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.choice([1, 2, 4])):
            place = rng.randrange(len(changed) - 8)
            if rng.random() < 0.5:
                changed[place] ^= 1 << rng.randrange(8)
            else:
                link = rng.choice([0, 64, 1 << 32, (1 << 63) + 8, rng.randrange(len(data)) // 8 * 8])
                changed[place // 8 * 8 : place // 8 * 8 + 8] = link.to_bytes(8, "little")
        damaged.write_bytes(changed)
        for read in (read_log, list_signals):
            try:
                read(damaged, databases=database)
                print("read")
            except ValueError as error:
                print("refused" if "MemoryError" not in str(error) else f"{file} {seed} {error}")
"""


@pytest.mark.parametrize("seeds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_files_neither_hang_nor_crash_nor_take_all_memory(tmp_path, database, seeds):
    """In a process of its own, since asammdf may crash; a hang ends by a timeout that no slow machine reaches."""
    files = [
        measured(tmp_path / "old.mf4", "3.30"),
        measured(tmp_path / "plain.mf4"),
        measured(tmp_path / "packed.mf4", "4.11", compression=2),
        recorded(tmp_path / "frames.mf4", 30),
    ]
    run = subprocess.run(
        [sys.executable, "-c", FUZZ, str(seeds), database, *files],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    outcomes = run.stdout.splitlines()
    assert len(outcomes) == 2 * seeds * len(files)
    assert set(outcomes) == {"read", "refused"}


@pytest.mark.parametrize("compression", [0, 2])
def test_records_that_a_group_does_not_count_are_named(tmp_path, compression):
    path = measured(tmp_path / "drive.mf4", compression=compression)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_log(path)["acc"].values) == 300
    data = bytearray(path.read_bytes())
    place = next(p for p in range(0, len(data), 8) if data[p : p + 4] == b"##CG" and data[p + 80 : p + 82] == b"\x2c\1")
    data[place + 80 : place + 82] = (200).to_bytes(2, "little")  # the count of records, 300
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"drive.mf4 has 1,700 bytes of records that its groups do not count"):
        assert len(read_log(path)["acc"].values) == 200


@needs_data
def test_a_file_that_its_logger_did_not_close_is_read_as_far_as_it_goes(tmp_path):
    source, database = DATA / "fixtures" / "mf4" / "css_FCBF0606.MF4", DATA / "fixtures" / "mf4" / "css_j1939.dbc"
    data, path = source.read_bytes(), tmp_path / "cut.mf4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = read_log(source, databases=database)
        assert len(whole["EngineSpeed"].values) == 577
        for size in range(len(data) // 4, len(data), 4999):
            path.write_bytes(data[:size])
            speed = read_log(path, databases=database)["EngineSpeed"]
            assert len(speed.values) > 100
            np.testing.assert_array_equal(speed.time_s, whole["EngineSpeed"].time_s[: len(speed.time_s)])
            np.testing.assert_array_equal(speed.values, whole["EngineSpeed"].values[: len(speed.values)])
    assert source.read_bytes() == data


@needs_data
@pytest.mark.filterwarnings("ignore:.* are in no database")
def test_a_real_drive_agrees_with_its_table():
    """The table holds, at each tick of 10 Hz, the last value of slow signals and the mean of the IMU until the next."""
    folder = DATA / "css_drive"
    table = pd.read_parquet(folder / "css_drive.parquet")
    slow = {
        "gps_speed_mps": "Speed", "altitude_m": "Altitude", "heading_deg": "Heading", "obd_rpm": "obd_engine_speed",
        "obd_load_pct": "obd_engine_load", "obd_coolant_c": "obd_coolant_temperature",
        "obd_map_kpa": "obd_intake_pressure", "obd_speed_kmh": "obd_vehicle_speed", "obd_throttle_pct": "obd_throttle",
        "obd_fuel_pct": "obd_fuel_level",
    }  # fmt: skip
    files = sorted(folder.glob("LOG/*/*.MF4"))
    assert len(files) == 5
    for file in files:
        log = read_log(file, databases=folder / "canmod-gps.dbc")
        drive = table[table["file"] == file.stem]
        ticks = drive["time"].to_numpy()
        assert log.start == pd.Timestamp(drive["start_utc"].iloc[0])
        for column, name in slow.items():
            place = np.searchsorted(log[name].time_s, ticks, side="right") - 1
            held = np.where(place >= 0, log[name].values[place], np.nan)
            expected = drive[column].to_numpy()
            both = np.isfinite(held) & np.isfinite(expected)
            assert both.mean() > 0.95 or name == "obd_fuel_level"
            np.testing.assert_allclose(held[both], expected[both], rtol=0, atol=1e-6)
        for column, name in {"acc_x": "AccelerationX", "acc_z": "AccelerationZ", "gyro_z": "AngularRateZ"}.items():
            bins = np.floor((log[name].time_s - ticks[0]) / 0.1 + 1e-9).astype(int)
            inside = (bins >= 0) & (bins < len(ticks))
            counts = np.bincount(bins[inside], minlength=len(ticks))
            means = np.bincount(bins[inside], log[name].values[inside], len(ticks)) / np.maximum(counts, 1)
            wrong = np.abs(means - drive[column].to_numpy())[counts > 0] > 1e-6
            assert wrong.mean() < 0.005  # a sample on the edge of two bins falls by rounding


def test_frames_of_other_buses_are_counted(tmp_path):
    path = tmp_path / "drive.mf4"
    with can.MF4Writer(path, database=None) as log:
        for n in range(20):
            log.on_message_received(can.Message(timestamp=1e9 + n, arbitration_id=5, is_extended_id=False, data=[n]))
    path.write_bytes(path.read_bytes().replace(b"CAN_DataFrame", b"LIN_DataFrame"))
    with pytest.warns(UserWarning, match=r"drive.mf4 has 20 frames that are not read \(LIN_DataFrame 20\)"):
        read_log(path)


def test_a_file_that_asammdf_does_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    samples = Signal(np.arange(50.0), np.arange(50) / 10, name="acc")
    old = saved(tmp_path / "old.mdf", [samples], version="3.30")
    with MDF(old) as file:
        place = file.groups[0].channels[0].address
    content = bytearray(old.read_bytes())
    content[place + 188 : place + 190] = bytes(2)  # the bits of a time: none is stored
    old.write_bytes(content)
    with pytest.raises(ValueError, match=r"old.mdf has a virtual time channel.* Save it as MDF 4.11 with stored times"):
        read_log(old)

    for name in ("axes", "conversions", "units", "comments", "names", "sources"):
        monkeypatch.setattr(Signal, name, None, raising=False)  # asammdf's writer of columns asks for them
    with MDF(version="4.20") as file:
        file._mdf._column_storage = True
        file.append([samples])
        new = file.save(tmp_path / "new.mf4")
    with pytest.raises(ValueError, match=r"new.mf4 stores its data in columns.* Save it as MDF 4.11, in rows"):
        read_log(new)
