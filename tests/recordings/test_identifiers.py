"""A bus without a database: what its identifiers send, and when, become signals in every format."""

import warnings
from pathlib import Path

import can
import numpy as np
import pandas as pd
import pytest
from asammdf import MDF, Signal, Source
from bus_files import assert_same_signals
from bus_files import frames as as_frames
from bus_files import write as write_messages

from anomalyvae.cli import main
from anomalyvae.recordings import bus_recipe, list_signals, read_log, read_windows, stream_windows
from anomalyvae.recordings.bus import canbus
from anomalyvae.recordings.bus.frames import EXTENDED
from anomalyvae.recordings.bus.identifier_names import UNKNOWN, parse_name
from anomalyvae.recordings.bus.identifiers import IdentifierSignals
from anomalyvae.recordings.live_bus import LiveBus

ENGINE, GEAR = 0x18FEDF00, 0x123
J1939 = Path(__file__).parents[3] / "shared" / "data" / "j1939" / "normal.log"


def bus(seconds=12.0, *, skip=(), begin_s=0.0):
    """Frames of a bus: the engine every 20 ms, with a counter and a level; the gear every 100 ms, all constant."""
    found = []
    for k in range(round(seconds * 50)):
        level = 100 + round(20 * np.sin(k / 40))
        found.append((k / 50 + 0.001, ENGINE, bytes([k % 256, level, 7, 255])))
        if k % 5 == 0:
            found.append((k / 50 + 0.002, GEAR, bytes([1, 2, 3])))
    return [(begin_s + time_s, key, data) for time_s, key, data in found if key not in skip]


def message(time_s, key, data):
    return can.Message(1_700_000_000 + time_s, key, key > 0x7FF, data=data, channel=0)


def write(path, frames):
    return write_messages(path, (message(*frame) for frame in frames))


def shown(path, frames, bus_of=lambda key: "can0"):
    """Write what candump shows with -t z."""
    lines = []
    for time_s, key, data in frames:
        digits = f"{key:08X}" if key > 0x7FF else f"{key:03X}"
        lines.append(f" ({time_s:010.6f})  {bus_of(key)}  {digits}   [{len(data)}]  {data.hex(' ').upper()}\n")
    path.write_text("".join(lines))
    return path


def measured(path, frames):
    rows = as_frames(*frames)
    parts = np.rec.fromarrays(
        [
            np.ones(len(rows), np.uint8), rows["id"], rows["extended"].astype(np.uint8), rows["length"],
            rows["length"], np.ascontiguousarray(rows["data"][:, :8]),
        ],
        dtype=[
            ("CAN_DataFrame.BusChannel", "u1"), ("CAN_DataFrame.ID", "u4"), ("CAN_DataFrame.IDE", "u1"),
            ("CAN_DataFrame.DLC", "u1"), ("CAN_DataFrame.DataLength", "u1"), ("CAN_DataFrame.DataBytes", "u1", (8,)),
        ],
    )  # fmt: skip
    with MDF(version="4.10") as file:
        source = Source("CAN", "CAN", "", Source.SOURCE_BUS, Source.BUS_TYPE_CAN)
        file.append(Signal(parts, rows["time_s"], name="CAN_DataFrame", source=source), acq_source=source)
        return file.save(path, overwrite=True)


@pytest.mark.parametrize("suffix", [".blf", ".asc", ".trc", ".log", ".mf4", "shown"])
def test_every_format_gives_periods_bytes_and_changes(tmp_path, suffix):
    if suffix == "shown":
        path = shown(tmp_path / "bus.log", bus())
    elif suffix == ".mf4":
        path = measured(tmp_path / "bus.mf4", bus())
    else:
        path = write(tmp_path / f"bus{suffix}", bus())
    log = read_log(path)
    engine, gear = "0x18FEDF00", "0x123"
    assert {name.partition(".")[0] for name in log.signals} == {engine, gear}
    assert (log[f"{engine}.period"].unit, log[f"{engine}.period"].source) == ("s", engine)
    np.testing.assert_array_equal(log[f"{engine}.period"].values, 0.02)
    np.testing.assert_array_equal(log[f"{gear}.period"].values[2:], 0.1)
    np.testing.assert_array_equal(log[f"{engine}.byte0.change"].values, 1)  # a counter
    np.testing.assert_array_equal(log[f"{engine}.length"].values, 4)
    np.testing.assert_array_equal(log[f"{engine}.frames"].values[1:-1], 50)
    assert 79 <= log[f"{engine}.byte1"].values.min() < 81
    assert [log[f"{gear}.byte{place}"].values[-1] for place in range(3)] == [1, 2, 3]
    assert log[f"{gear}.changes"].values[-1] == 0
    np.testing.assert_allclose(np.diff(log[f"{engine}.period"].time_s), 0.1)
    assert set(list_signals(path)["signal"]) == set(log.signals)


def test_pieces_give_what_the_whole_gives(tmp_path, monkeypatch):
    path = shown(tmp_path / "bus.log", bus() + bus(5, begin_s=100))  # a pause between
    recipe = bus_recipe([path])
    whole, rows = read_log(path), read_windows(path, recipe)
    monkeypatch.setattr(canbus, "_ROWS", 37)
    pieces = read_log(path, timeout_s=np.inf)
    assert pieces.signals.keys() == whole.signals.keys()
    assert_same_signals(pieces, whole)
    batches = list(stream_windows(path, recipe, timeout_s=np.inf))
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), rows.rows)
    assert not ((rows.spans["start_s"] > 22.5) & (rows.spans["start_s"] < 100)).any()


def test_the_signals_of_a_model_are_limits_patterns_levels_and_unknown_identifiers(tmp_path):
    recipe = bus_recipe([shown(tmp_path / "bus.log", bus())])
    assert recipe.signals == (
        "unknown.identifiers",
        "0x123.gap_outside(0.085-0.115)",
        "0x123.unlike(010203)",
        "0x18FEDF00.gap_outside(0.017-0.023)",
        "0x18FEDF00.jitter",
        "0x18FEDF00.unlike(????07FF)",
        "0x18FEDF00.byte0.change_above(2.25)",
        "0x18FEDF00.byte1.change_above(2.25)",
        "0x18FEDF00.byte1_outside(69-131)",
        "0x18FEDF00.byte1",
    )


def means(path, recipe, signal, begin_s=0.0, end_s=np.inf):
    """The largest mean of a signal in the windows of a part of a recording."""
    windows = read_windows(path, recipe)
    inside = (windows.spans["start_s"] >= begin_s) & (windows.spans["end_s"] <= end_s)
    return windows.rows.loc[inside, f"{signal}~0"].max() / np.sqrt(recipe.samples)


def spoiled(change):
    """A bus of which each frame from 5 s to 7 s is changed, left out (None), or followed by others (a list)."""
    for frame in bus():
        found = change(*frame) if 5 <= frame[0] < 7 else frame
        yield from [found] if isinstance(found, tuple) else found or []


FAULTS = {
    "0x123.gap_outside(0.085-0.115)": lambda t, key, data: None if key == GEAR else (t, key, data),
    "0x18FEDF00.gap_outside(0.017-0.023)": lambda t, key, data: [(t, key, data)] + [(t + 0.007, key, data)] * (
        key == ENGINE
    ),
    "0x123.unlike(010203)": lambda t, key, data: (t, key, data[:2] if key == GEAR else data),
    "0x18FEDF00.unlike(????07FF)": lambda t, key, data: (t, key, data[:2] + b"\xf8\0" if key == ENGINE else data),
    "0x18FEDF00.byte1_outside(69-131)": lambda t, key, data: (
        (t, key, data[:1] + b"\xff\7\xff" if key == ENGINE else data)
    ),
    "unknown.identifiers": lambda t, key, data: [(t, key, data)] + [(t + 0.005, 0x124, data)] * (key == GEAR),
}  # fmt: skip


@pytest.mark.parametrize("signal", FAULTS)
@pytest.mark.filterwarnings("ignore:.* has frames of 1 identifiers that are not known")
def test_each_fault_shows_in_the_signal_of_its_identifier_alone(tmp_path, signal):
    recipe = bus_recipe([shown(tmp_path / "normal.log", bus())])
    path = shown(tmp_path / "bus.log", spoiled(FAULTS[signal]))
    assert means(path, recipe, signal, end_s=5) == 0
    expected = {"0x18FEDF00.byte1_outside(69-131)": 100 * 124 / 255, UNKNOWN: 50}.get(signal, 100)
    assert means(path, recipe, signal, 5.5, 7) == pytest.approx(expected)
    assert means(path, recipe, signal, 7.5) == 0
    others = {name for name in recipe.signals if "(" in name or name == UNKNOWN} - {signal}
    others -= {"0x18FEDF00.byte1.change_above(2.25)"}  # where the level jumps
    assert [name for name in others if means(path, recipe, name) > 0] == []


def test_an_identifier_that_never_comes_is_said_and_novel(tmp_path):
    recipe = bus_recipe([shown(tmp_path / "normal.log", bus())])
    path = shown(tmp_path / "bus.log", bus(skip={GEAR}))
    with pytest.warns(UserWarning, match="no frame of 1 of the 2 known identifiers: 0x123. Their signals of time"):
        windows = read_windows(path, recipe)
    assert len(windows) == len(read_windows(tmp_path / "normal.log", recipe))
    np.testing.assert_allclose(windows.rows["0x123.gap_outside(0.085-0.115)~0"][1:], 100 * np.sqrt(10))
    with pytest.warns(UserWarning, match="no frame of 1 of the 1 known"):
        period = read_log(path, signals=["0x123.period", UNKNOWN])["0x123.period"]
    assert np.isnan(period.values[:40]).all()  # it may come every few seconds
    np.testing.assert_allclose(period.values[-1], 11.9, atol=0.1)


def test_an_unknown_identifier_is_named_in_a_warning(tmp_path):
    recipe = bus_recipe([shown(tmp_path / "normal.log", bus())])
    path = shown(tmp_path / "bus.log", sorted([*bus(), (3.0, 0x0C00000B, b"\1"), (4.0, 0x0C00000B, b"\1")]))
    expected = r"frames of 1 identifiers that are not known: 0x0C00000B \(2, 3\.0 to 4\.0 s\)"
    with pytest.warns(UserWarning, match=expected):
        read_windows(path, recipe)


def test_buses_are_never_joined(tmp_path):
    both = sorted([*bus(), *((t + 0.0005, key + 1, data) for t, key, data in bus())])
    two = shown(tmp_path / "two.log", both, lambda key: "can0" if key in (ENGINE, GEAR) else "can1")
    names = read_log(two).signals
    assert {"can0.0x123.period", "can1.0x124.period"} <= set(names)
    assert "can0.0x124.period" not in names
    assert read_log(two, signals=["0x124.byte2"])["0x124.byte2"].values[-1] == 3  # on one bus only
    same = shown(tmp_path / "same.log", bus())
    lines = same.read_text().splitlines(keepends=True)
    same.write_text("".join(line.replace("can0", f"can{k % 5 % 2}") for k, line in enumerate(lines)))
    with pytest.raises(ValueError, match=r"0x123 of .* is on 2 buses, can. and can.; .*'can..0x123.period'"):
        read_log(same, signals=["0x123.period"])


def test_identifiers_of_11_and_29_bits_and_names_are_told_apart():
    signals = IdentifierSignals(["0x123.frames", "0x00000123.frames"], "a log", lambda key: False)
    rows = as_frames(*((k / 10, 0x123, b"\1") for k in range(20)))
    rows["extended"][::2] = True
    found = signals.add(rows)
    np.testing.assert_array_equal(found["0x123.frames"].values, [10, 0] * 9)
    np.testing.assert_array_equal(found["0x00000123.frames"].values, [0, 10] * 9)
    assert parse_name("0x00000123.frames").key == 0x123 | EXTENDED
    for name in ("0x18fedf00.period", "0x1234.period", "0x123.byte64", "0x123.other", "speed"):
        assert parse_name(name) is None


def test_signals_of_identifiers_can_be_named_beside_a_database(tmp_path):
    database = tmp_path / "car.dbc"
    database.write_text('VERSION ""\nNS_ :\nBS_:\nBU_: E\nBO_ 291 M: 3 E\n SG_ gear : 0|8@1+ (1,0) [0|0] "" E\n')
    path = shown(tmp_path / "bus.log", bus())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = read_log(path, signals=["gear", "0x18FEDF00.period"], databases=database)
    assert (log["gear"].values[-1], log["0x18FEDF00.period"].values[-1]) == (1, 0.02)


def test_a_misspelt_name_is_refused_with_how_names_are_written(tmp_path):
    path = shown(tmp_path / "bus.log", bus(2))
    with pytest.raises(ValueError, match=r"'0x18fedf00.period' .* such as .*'0x18FEDF00.byte3'"):
        read_log(path, signals=["0x18fedf00.period"])


@pytest.mark.skipif(not J1939.exists(), reason="the truck's log is not at hand")
def test_the_bus_of_a_truck_has_few_signals_without_noise():
    recipe = bus_recipe([J1939])
    assert 100 < len(recipe.signals) < 300
    assert "0x0CF00203.gap_outside(0.00743-0.0129)" in recipe.signals
    assert "0x0CF00400.byte3" not in recipe.signals  # the low byte of the engine's speed
    rows = read_windows(J1939, recipe).rows
    limits = [column for column in rows if ")" in column]
    assert (rows[limits] == 0).all(axis=None)


def test_a_model_is_fitted_and_scores_a_log_from_the_command_line(tmp_path, capsys):
    normal = shown(tmp_path / "normal.log", bus(20))
    attack = shown(tmp_path / "attack.log", spoiled(FAULTS["unknown.identifiers"]))
    model = tmp_path / "model"
    assert main(["fit", str(normal), "--model", str(model), "--set", "max_epochs=5"]) == 0
    assert "watching 10 of the bus without a database" in capsys.readouterr().err
    assert main(["score", str(attack), str(tmp_path / "scores.csv"), "--model", str(model)]) == 0
    assert "0x124" in capsys.readouterr().err
    scores = pd.read_csv(tmp_path / "scores.csv")
    touched = (scores["start_s"] < 7) & (scores["end_s"] > 5.05)
    assert scores["unknown"].fillna("").tolist() == ["0x124" if each else "" for each in touched]
    assert scores.loc[touched, "anomaly_score"].min() > scores.loc[~touched, "anomaly_score"].max()
    assert main(["health", str(attack), "--model", str(model)]) == 0
    assert "unknown.identifiers: out of range" in capsys.readouterr().out
    assert main(["watch", str(attack), "--model", str(model), "--timeout", "0.1"]) == 5
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(scores) + 1
    assert float(told[9].split(",")[4]) == pytest.approx(scores["anomaly_score"][8])
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "without --dbc" in capsys.readouterr().out
    assert main(["fit", str(normal), "--model", str(model), "--dbc", "car.dbc"]) == 1
    assert "car.dbc is not a file" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".log", ".asc", ".trc", "shown"])
@pytest.mark.filterwarnings("ignore:.* has frames of 1 identifiers that are not known")
def test_lines_that_come_one_by_one_give_the_windows_of_the_file(tmp_path, suffix):
    recipe = bus_recipe([shown(tmp_path / "normal.log", bus())])
    attack = list(spoiled(FAULTS["unknown.identifiers"]))
    path = shown(tmp_path / "a.log", attack) if suffix == "shown" else write(tmp_path / f"a{suffix}", attack)
    whole = read_windows(path, recipe)
    lines = path.read_bytes().splitlines(keepends=True)
    live = LiveBus(lines[0], recipe, kind=path.suffix, recording="a", source="a")
    batches = [batch for begin in range(1, len(lines), 7) for batch in live.add(b"".join(lines[begin : begin + 7]))]
    assert len(batches) > 5
    rows = np.concatenate([batch.rows for batch in [*batches, *live.end()]])
    np.testing.assert_array_equal(rows, whole.rows)
    assert (live.left_out, live.recordings) == (0, 1)
    again = LiveBus(lines[0], recipe, kind=path.suffix, recording="a", source="a")
    list(again.add(b"".join(lines[1:]) + lines[len(lines) // 2]))  # the clock jumps back
    assert again.recording == "a#2"


def test_a_database_without_a_message_is_not_taken_for_none(tmp_path):
    write(tmp_path / "car.log", bus())
    (tmp_path / "cut.dbc").write_text('VERSION ""\n\nBU_: ECU\n\nBO_ 256 Engi')
    with pytest.raises(ValueError, match=r"cut\.dbc describes no message\. Check that the file is whole"):
        read_log(tmp_path / "car.log", databases=tmp_path / "cut.dbc")
