"""Databases: by bus, with names that signals share, and in their encoding."""

import struct
import warnings

import cantools
import numpy as np
import pytest
from bus_files import ASC_HEAD, HEAD

from anomalyvae import read_log
from anomalyvae.recordings.bus import canbus
from anomalyvae.recordings.bus.frames import EXTENDED
from anomalyvae.recordings.bus.messages import load_messages

ENGINE = f"""{HEAD}BO_ 256 Engine: 8 ECU
 SG_ RPM : 0|16@1+ (1,0) [0|0] "rpm" ECU
 SG_ Temp : 16|8@1- (1,0) [0|0] "degC" ECU
"""

J1939 = """BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_DEF_ "VFrameFormat" "J1939PG";
BA_ "VFrameFormat" BO_ 2566834709 3;
"""
LAMP = """BO_ 800 Lamp: 8 ECU
 SG_ Page M : 0|8@1+ (1,0) [0|3] "" ECU
 SG_ Level m0 : 8|8@1+ (1,0) [0|0] "%" ECU
 SG_ Level m1 : 16|8@1+ (0.5,0) [0|0] "%" ECU
"""  # a signal on two pages of a multiplexer


@pytest.fixture
def engine(write):
    return write(ENGINE, "engine.dbc")


@pytest.mark.parametrize(
    ("name", "text", "buses"),
    [
        ("two.log", "(0.1) can0 100#1000\n(0.2) can1 100#FF00\n(0.3) slcan0 100#0100\n", ("can0", "can1", "slcan0")),
        ("two.asc", ASC_HEAD + "0.1 1 100 Rx d 2 10 00\n0.1 2 100 Rx d 2 FF 00\n0.3 3 100 Rx d 1 1\n", ("1", "2", "3")),
    ],
)
def test_frames_of_two_buses_are_never_joined(tmp_path, engine, name, text, buses):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=f"Message Engine of .* is on .* buses, {buses[0]} and {buses[1]}.*--dbc"):
        read_log(path, databases=engine)
    both = read_log(path, databases={buses[0]: engine, buses[1]: engine})
    assert {signal: log.values.tolist() for signal, log in both.signals.items() if "RPM" in signal} == {
        f"{buses[0]}.RPM": [16],
        f"{buses[1]}.RPM": [255],
    }
    assert read_log(path, databases={buses[1]: engine})["RPM"].values.tolist() == [255]
    with pytest.raises(ValueError, match=f"no frame on the bus can9; it has {', '.join(buses)}"):
        read_log(path, databases={"can9": engine})


# Databases


def database(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "car.dbc"
    path.write_bytes((HEAD + text).encode(encoding))
    return path


def test_a_signal_on_two_pages_of_a_multiplexer_is_one_signal(tmp_path):
    path = tmp_path / "lamp.log"
    frames = [(k % 2, 3 * k % 250, 5 * k % 250) for k in range(40)]
    path.write_text("".join(f"({k / 10:.1f}) can0 320#{p:02X}{a:02X}{b:02X}\n" for k, (p, a, b) in enumerate(frames)))
    level = read_log(path, databases=database(tmp_path, LAMP))["Level"]
    assert level.values.tolist() == [b / 2 if page else a for page, a, b in frames]
    apart = read_log(path, databases=database(tmp_path, LAMP.replace('(0.5,0) [0|0] "%"', '(0.5,0) [0|0] "V"')))
    assert apart["Level@byte1.bit0"].values.tolist() == [a for page, a, _ in frames if not page]
    assert apart["Level@byte2.bit0"].unit == "V"


def test_small_negative_numbers_of_j1939_are_numbers(tmp_path):
    text = (
        'BO_ 2566834709 Steer: 8 ECU\n SG_ Angle : 0|16@1- (0.1,0) [0|0] "deg" ECU\n'
        ' SG_ Level : 16|8@1+ (1,0) [0|0] "" ECU\n'
    )
    sent = list(range(-520, 10, 13))
    path = tmp_path / "steer.log"
    path.write_text(
        "".join(
            f"({k}.0) can0 {2566834709 & 0x1FFFFFFF:08X}#{struct.pack('<hB', v, 0xFF).hex()}\n"
            for k, v in enumerate(sent)
        )
    )
    with pytest.warns(UserWarning, match="no sample of Level"):
        log = read_log(path, databases=database(tmp_path, text + J1939), signals=["Angle", "Level"])
    np.testing.assert_allclose(log["Angle"].values, np.array(sent) / 10)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_units_of_a_database_are_read_in_its_encoding(tmp_path, encoding, write):
    path = write("(0.0) can0 100#05\n", "a.log")
    text = 'BO_ 256 M: 8 ECU\n SG_ Temp : 0|8@1+ (1,0) [0|0] "°C" ECU\n'
    assert read_log(path, databases=database(tmp_path, text, encoding))["Temp"].unit == "°C"


def test_a_database_in_two_encodings_is_read(tmp_path):
    path = tmp_path / "car.dbc"
    path.write_bytes(
        b'VERSION ""\nNS_ :\nBS_:\nBU_: ECU\nBO_ 256 M: 8 ECU\n SG_ T : 0|8@1+ (1,0) [0|0] "\xc2\xb0C" ECU\n'
        b' SG_ U : 8|8@1+ (1,0) [0|0] "\xb5V" ECU\nCM_ SG_ 256 T "K\xfchler" ;\n'
    )
    (tmp_path / "a.log").write_text("(0.0) can0 100#0505\n")
    log = read_log(tmp_path / "a.log", databases=path)
    assert (log["T"].unit, log["U"].unit) == ("°C", "µV")


def test_messages_that_others_hide_are_named(tmp_path):
    text = 'BO_ 256 {0}: 8 ECU\n SG_ {1} : 0|8@1+ (1,0) [0|0] "" ECU\n'
    first = database(tmp_path, text.format("Engine", "rpm")).rename(tmp_path / "first.dbc")
    second = database(tmp_path, text.format("Body", "door"))
    (tmp_path / "a.log").write_text("(0.0) can0 100#05\n(0.1) can1 100#07\n")
    with pytest.warns(UserWarning, match=r"1 messages of the databases are hidden .*: Body of car.dbc by Engine"):
        load_messages([first, second])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_messages([first, first])
        log = read_log(tmp_path / "a.log", databases={"can0": first, "can1": second})
    assert (log["rpm"].values.tolist(), log["door"].values.tolist()) == ([5], [7])


@pytest.mark.parametrize(
    ("layout", "range_", "missing"),
    [
        ("0|8@1+ (1,0)", "0|250", [254, 255]),
        ("0|8@1+ (1,0)", "0|0", [254, 255]),
        ("0|8@1+ (1,0)", "0|254", [255]),
        ("0|8@1+ (1,0)", "0|255", []),
        ("0|8@1+ (1,-125)", "-125|125", [254, 255]),
        ("0|8@1+ (-1,0)", "-254|0", [255]),
        ("0|8@1- (1,0)", "-128|127", []),
        ("0|8@1- (1,0)", "0|0", []),
        ("0|2@1+ (1,0)", "0|0", [2, 3]),
        ("0|2@1+ (1,0)", "0|3", []),
        ("0|4@1+ (1,0)", "0|14", [15]),
        ("0|1@1+ (1,0)", "0|0", []),
    ],
)
def test_the_values_of_j1939_that_are_not_available(tmp_path, layout, range_, missing, write):
    text = f'BO_ 2566834709 M: 8 ECU\n SG_ x : {layout} [{range_}] "" ECU\n{J1939}'
    bits = int(layout.partition("|")[2].partition("@")[0])
    path = write("".join(f"({k}.0) can0 {2566834709 & 0x1FFFFFFF:08X}#{k:02X}\n" for k in range(1 << bits)), "a.log")
    signal = read_log(path, databases=database(tmp_path, text))["x"]
    assert sorted(set(range(1 << bits)) - set(signal.time_s.astype(int).tolist())) == missing


# An independent decoder: cantools, frame by frame


def random_database(rng):
    """Return a DBC text: messages of 11 and 29 bits, in both byte orders, multiplexed, as integers and floats."""
    lines, floats = ['VERSION ""\nNS_ :\nBS_:\nBU_: ECU'], []
    keys = {int(k) for k in rng.integers(1, 0x700, 4)} | {int(k) | 1 << 31 for k in rng.integers(1, 1 << 29, 3)}
    for number, key in enumerate(sorted(keys)):
        size = int(rng.choice([1, 3, 8, 8, 8, 64]))
        lines.append(f"BO_ {key} M{number}: {size} ECU")
        pages = size > 2 and rng.integers(2)
        if pages:
            lines.append(f' SG_ page{number} M : 0|8@1+ (1,0) [0|0] "" ECU')
        for place in range(int(rng.integers(1, 6))):
            length = int(rng.integers(1, min(33, 8 * size - 8 * pages + 1)))
            as_float = rng.integers(5) == 0 and 8 * size - 8 * pages >= 32
            length = 32 if as_float else length
            first = int(rng.integers(8 * pages, 8 * size - length + 1))
            big = rng.integers(2)
            start = first // 8 * 8 + 7 - first % 8 if big else first
            page = f" m{place % 3}" if pages and place else ""
            scale, offset = rng.choice([1, 0.5, -0.01, 3]), rng.choice([0, -40, 0.25])
            sign = "-" if as_float or rng.integers(2) else "+"
            name = "level" + str(number) if page and rng.integers(3) == 0 and not as_float else f"s{number}_{place}"
            lines.append(f' SG_ {name}{page} : {start}|{length}@{1 - big}{sign} ({scale},{offset}) [0|0] "" ECU')
            if as_float:
                floats.append(f"SIG_VALTYPE_ {key} {name} : 1;")
    return "\n".join([*lines, "", *floats, ""]), sorted(keys)


@pytest.mark.parametrize("seed", [*range(15), *(pytest.param(s, marks=pytest.mark.slow) for s in range(15, 300))])
def test_random_databases_mean_what_cantools_says(tmp_path, seed, write):
    rng = np.random.default_rng(seed)
    text, keys = random_database(rng)
    path = write(text, "car.dbc")
    messages = {
        m.frame_id | m.is_extended_frame << 31: m for m in cantools.database.load_file(path, strict=False).messages
    }
    log, expected = [], {}
    for k in range(200):
        key = keys[rng.integers(len(keys))]
        message = messages[key]
        size = int(rng.choice([message.length, message.length, rng.integers(message.length + 1)]))
        data = bytearray(rng.bytes(size))
        if "page" in str(message.signal_tree) and size:
            data[0] = rng.integers(4)
        shown = f"{key & ~EXTENDED:08X}" if key & EXTENDED else f"{key:03X}"
        log.append(f"({k / 10:.6f}) can0 {shown}{'##0' if size > 8 else '#'}{data.hex()}")
        try:
            values = message.decode(bytes(data), decode_choices=False, allow_truncated=True)
        except (cantools.database.DecodeError, KeyError):  # a page that the message does not have; two of one name
            continue
        for name, value in values.items():
            if not np.isnan(value):
                expected.setdefault(name, {})[k / 10] = value
    (tmp_path / "a.log").write_text("\n".join(log) + "\n")
    found = read_log(tmp_path / "a.log", databases=path).signals
    for name, samples in expected.items():
        same = [signal for signal in found if signal == name or signal.startswith(f"{name}@")]
        ours = {t: v for signal in same for t, v in zip(found[signal].time_s, found[signal].values, strict=True)}
        for time_s, value in samples.items():
            if len(same) == 1:  # cantools keeps one of the fields that share a name, if no page separates them
                assert ours[time_s] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("rows", [7, 1000])
def test_pages_of_a_multiplexer_are_merged_in_pieces_of_any_size(tmp_path, monkeypatch, rows):
    path = tmp_path / "lamp.log"
    path.write_text(
        "".join(f"({k / 1000:.3f}) can0 320#{k // 9 % 2:02X}{k % 250:02X}{k % 99:02X}\n" for k in range(500))
    )
    monkeypatch.setattr(canbus, "_ROWS", rows)
    level = read_log(path, databases=database(tmp_path, LAMP))["Level"]
    assert level.values.tolist() == [k % 99 / 2 if k // 9 % 2 else k % 250 for k in range(500)]
    assert level.time_s.tolist() == [k / 1000 for k in range(500)]


def test_frames_that_end_before_a_signal_are_counted(tmp_path):
    (tmp_path / "a.log").write_text("(0.0) can0 100#0102\n(0.1) can0 100#01\n(0.2) can0 100#\n")
    path = database(tmp_path, 'BO_ 256 M: 2 E\n SG_ a : 0|8@1+ (1,0) [0|0] "" E\n SG_ b : 8|8@1+ (1,0) [0|0] "" E\n')
    said = r"2 of the 3 frames of a.log.*end before signals of their message \(M 2\)"
    with pytest.warns(UserWarning, match=said.replace("a.log", ".*a.log ")):
        log = read_log(tmp_path / "a.log", databases=path)
    assert (log["a"].values.tolist(), log["b"].values.tolist()) == ([1, 1], [2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "a.log").write_text("(0.0) can0 100#0102\n(0.1) can0 100#01\n")
        read_log(tmp_path / "a.log", databases=path, signals=["a"])


def test_a_signal_of_impossible_bits_is_refused(tmp_path):
    path = database(tmp_path, 'BO_ 256 M: 8 ECU\n SG_ x : -6|8@1+ (1,0) [0|0] "" ECU\n')
    with pytest.raises(ValueError, match=r"car.dbc gives signal x of M 8 bits from bit -6\. Correct that line"):
        load_messages(path)
