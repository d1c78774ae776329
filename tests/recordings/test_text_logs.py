"""CAN logs: each dialect gives all of its frames, and what is not understood is an error."""

import struct
import zlib

import numpy as np
import pytest

from anomalyvae import read_log

ENGINE = """VERSION ""
NS_ :
BS_:
BU_: ECU
BO_ 256 Engine: 8 ECU
 SG_ RPM : 0|16@1+ (1,0) [0|0] "rpm" ECU
 SG_ Temp : 16|8@1- (1,0) [0|0] "degC" ECU
"""
ASC = "date Thu May 16 06:16:50.884 pm 2024\nbase hex  timestamps absolute\ninternal events logged\n"


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "engine.dbc"
    path.write_text(ENGINE)
    return path


def rpm_of(path, text, database):
    path.write_text(text)
    signal = read_log(path, databases=database)["RPM"]
    return dict(zip(signal.time_s.tolist(), signal.values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ASC + "  -0.500000 1  100  Rx   d 8 01 00 05 00\n   0.300000 1  100  Tx   d 2 03 00\n", {-0.5: 1, 0.3: 3}),
        ("date x\nbase hex  no internal events logged\n// v\n1.5 1 100 Rx d 8 E3 0C 00\n", {1.5: 0xCE3}),
        ("1.5 1 100 Rx d 8 E3 0C 00\n", {1.5: 0xCE3}),  # no header at all
        (ASC + "0.1 CANFD Start of measurement\n0,2 1 100x Rx d 1 1\n0,3 1 100 Rx d 2 1 1 Length = 9\n", {0.3: 257}),
        (ASC + "0.1 1 100 Rx r\n0.2 1 ErrorFrame\n0.3 1 Statistic: D 1 R 2\n0.4 1 100 Rx d 2 7 0\n", {0.4: 7}),
        (ASC + "0.1 CANFD 1 Rx 100 Engine 1 0 8 08 95 0b 80 00 00 00 00 00 0 0\n", {0.1: 0xB95}),
        ("base dec timestamps absolute\n0.1 1 256 Rx d 2 17 1\n", {0.1: 273}),
    ],
)
def test_dialects_of_asc_give_their_frames(tmp_path, engine, text, expected):
    assert rpm_of(tmp_path / "drive.asc", text, engine) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("     1)         0  0100  8  03 00 05 00 00 00 00 00 \n", {0: 3}),
        (";$FILEVERSION=1.1\n1) 100.1 Rx 0100 2 04 00 \n2) 100.2 Warng FFFFFFFF 4 00 00 00 08 \n", {0.1001: 4}),
        (";$FILEVERSION=1.2\n;$STARTTIME=45248.7\n1)  100,1 1  Rx  0100  2  05 00 \n", {0.1001: 5}),
        (";$FILEVERSION=1.3\n1)  100.1 1  Rx  0100 - 2  06 00 \n2) 101.0 1 Rx 0100 - 2 RTR\n", {0.1001: 6}),
        ("1)  100.1 1  Rx  0100  2  05 00 \n", {0.1001: 5}),  # no version
        (";$FILEVERSION=2.1\n;$COLUMNS=N,O,T,B,I,d,L,D\n1 1.0 DT 1 0100 Rx 2 07 00\n2 2.0 ER 1 - Rx 1 0\n", {0.001: 7}),
    ],
)
def test_dialects_of_trc_give_their_frames(tmp_path, engine, text, expected):
    assert rpm_of(tmp_path / "drive.trc", text, engine) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.asc",
            ASC + "0.1 1 Engine Rx d 8 01 00\n",
            "line 4: 'Engine' is the name of a message.*numeric identifiers",
        ),
        ("a.asc", ASC + "0.1 1 100 Rx d 2 01 00\n0.2 ? 100 Rx d 2 01 00\n", "line 5: .* is no frame of a known form"),
        ("a.asc", ASC, "has no CAN frame with data"),
        ("a.trc", ";$FILEVERSION=3.0\n1) 0 0100 1 00\n", "version 3.0 .* convert the file with PEAK-Converter"),
        ("a.trc", "1) 0 0100 8 00 01\n", "line 1: .* has 2 bytes, but its length says 8"),
        ("a.trc", "1) 0 0100 1 00\n2) 5 wrong\n", "line 2: .* is no frame .* PEAK-Converter"),
        ("a.log", "(1.0) can0 100#00\n(2.0) can0 100#0\n", "line 2: .* is no frame of candump -L"),
    ],
)
def test_a_line_that_is_not_understood_is_an_error(tmp_path, engine, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_log(path, databases=engine)


# Buses


@pytest.mark.parametrize(
    ("name", "text", "buses"),
    [
        ("two.log", "(0.1) can0 100#1000\n(0.2) can1 100#FF00\n(0.3) slcan0 100#0100\n", ("can0", "can1", "slcan0")),
        ("two.asc", ASC + "0.1 1 100 Rx d 2 10 00\n0.1 2 100 Rx d 2 FF 00\n0.3 3 100 Rx d 1 1\n", ("1", "2", "3")),
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
    path.write_bytes(('VERSION ""\nNS_ :\nBS_:\nBU_: ECU\n' + text).encode(encoding))
    return path


def test_a_signal_on_two_pages_of_a_multiplexer_is_one_signal(tmp_path):
    path = tmp_path / "lamp.log"
    frames = [(k % 2, 3 * k % 250, 5 * k % 250) for k in range(40)]
    path.write_text("".join(f"({k / 10:.1f}) can0 320#{p:02X}{a:02X}{b:02X}\n" for k, (p, a, b) in enumerate(frames)))
    pages = (
        'BO_ 800 Lamp: 8 ECU\n SG_ Page M : 0|8@1+ (1,0) [0|3] "" ECU\n SG_ Level m0 : 8|8@1+ (1,0) [0|0] "%" ECU\n'
        ' SG_ Level m1 : 16|8@1+ (0.5,0) [0|0] "{unit}" ECU\n'
    )
    level = read_log(path, databases=database(tmp_path, pages.format(unit="%")))["Level"]
    assert level.values.tolist() == [b / 2 if page else a for page, a, b in frames]
    apart = read_log(path, databases=database(tmp_path, pages.format(unit="V")))
    assert apart["Level@byte1.bit0"].values.tolist() == [a for page, a, _ in frames if not page]
    assert apart["Level@byte2.bit0"].unit == "V"


def test_small_negative_numbers_of_j1939_are_numbers(tmp_path):
    text = (
        'BO_ 2566834709 Steer: 8 ECU\n SG_ Angle : 0|16@1- (0.1,0) [0|0] "deg" ECU\n'
        ' SG_ Level : 16|8@1+ (1,0) [0|0] "" ECU'
        '\nBA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";\n'
        'BA_DEF_DEF_ "VFrameFormat" "J1939PG";\nBA_ "VFrameFormat" BO_ 2566834709 3;\n'
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
        log = read_log(path, databases=database(tmp_path, text), signals=["Angle", "Level"])
    np.testing.assert_allclose(log["Angle"].values, np.array(sent) / 10)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_units_of_a_database_are_read_in_its_encoding(tmp_path, encoding):
    path = tmp_path / "a.log"
    path.write_text("(0.0) can0 100#05\n")
    text = 'BO_ 256 M: 8 ECU\n SG_ Temp : 0|8@1+ (1,0) [0|0] "°C" ECU\n'
    assert read_log(path, databases=database(tmp_path, text, encoding))["Temp"].unit == "°C"


# BLF


def blf_object(kind, body, version=1, header=32, size=None):
    head = struct.pack("<4sHHLL", b"LOBJ", header, version, 16 + len(body) if size is None else size, kind)
    return head + body + b"\0" * (len(body) % 4)


def blf(*objects, packed=True):
    inside = b"".join(objects)
    if packed:
        inside = blf_object(10, struct.pack("<H6xL4x", 2, len(inside)) + zlib.compress(inside), header=16)
    return (
        struct.pack("<4sLBBBBBBBBQQLL16s16s", b"LOGG", 144, *[0] * 8, 144 + len(inside), 0, 0, 0, b"", b"").ljust(
            144, b"\0"
        )
        + inside
    )


def blf_frame(rpm, version=1, size=None):
    body = struct.pack("<LHHQ", 2, 0, 0, 10**6 * rpm) + struct.pack("<HBBLH6x", 1, 0, 8, 256, rpm)
    return blf_object(1, body, version, size=size)


def test_every_frame_of_a_blf_file_is_read_or_the_file_is_refused(tmp_path, engine):
    path = tmp_path / "drive.blf"
    path.write_bytes(blf(*map(blf_frame, range(5))))
    assert read_log(path, databases=engine)["RPM"].values.tolist() == [0, 1, 2, 3, 4]
    for data, said in (
        (blf(*map(blf_frame, range(5)), packed=False), "frames outside of containers"),
        (blf(blf_frame(0), blf_frame(1, version=3)), "header of version 3"),
        (blf(blf_frame(0), blf_frame(1, size=0)), "an object of 0 bytes, which is damaged"),
        (blf(blf_frame(0), blf_frame(1)[:40]), "whose last object is cut"),
        (blf(blf_object(115, bytes(40))), "no CAN frame"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"drive.blf .*{said}"):
            read_log(path, databases=engine)
