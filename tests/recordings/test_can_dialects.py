"""Dialects of CAN logs: every frame is read, or the file is refused, or what is left out is counted."""

import struct
import warnings
import zlib

import can
import numpy as np
import pytest
from bus_files import ASC_HEAD as HEAD
from bus_files import HEAD as DBC_HEAD

from anomalyvae.recordings import read_log
from anomalyvae.recordings.bus.canbus import _opened

ENGINE = f"""{DBC_HEAD}BO_ 256 Engine: 8 ECU
 SG_ RPM : 0|16@1+ (1,0) [0|65535] "rpm" ECU
"""


@pytest.fixture
def rpm(tmp_path):
    """Return the stamps and values of RPM in a file of this name and content; any warning is an error."""
    (tmp_path / "eng.dbc").write_text(ENGINE)

    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal = read_log(path, databases=tmp_path / "eng.dbc")["RPM"]
        return list(zip(signal.time_s.tolist(), signal.values.tolist(), strict=True))

    return read


def line(time_s, value, form="{t:9.6f} 1  100             Rx   d 8 {d}"):
    return form.format(t=time_s, d=struct.pack("<H6x", value).hex(" ").upper()) + "\n"


FD_LINE = "{t:9.6f} CANFD   1 Rx        100  1 0 8  8 {d}   152750  665   307000 a8098166 4b500150"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + line(-0.5, 1) + line(0.25, 2),
        "base hex  no internal events logged\n// version 7.1.0\n" + line(-0.5, 1) + line(0.25, 2),
        line(-0.5, 1) + line(0.25, 2),
        HEAD + "0.000000 CANFD Start of measurement\n" + line(-0.5, 1) + "CANFD Start of measurement\n" + line(0.25, 2),
        HEAD + line(-0.5, 1, FD_LINE) + line(0.25, 2, FD_LINE.replace("100  ", "100  Engine  ")),
        HEAD + line(-0.5, 1).replace(".", ",") + line(0.25, 2),
        HEAD + line(-0.5, 1)
        + line(0.25, 2, "{t:9.6f} 1 100 Tx d 8 {d} Length = 228000 BitCount = 118 ID = 256"),
        HEAD + "0.1 1  ErrorFrame\n0.1 CANFD 1 Rx ErrorFrame Not Acknowledge error\n0.2 1 100 Rx r\n"
        + line(-0.5, 1) + "0.2 1  Statistic: D 0 R 0\n0.2 CAN 1 Status:chip status error active\n" + line(0.25, 2),
    ],
    ids=["negative", "no header line", "no header", "start", "fd", "comma", "trailer", "events"],
)  # fmt: skip
def test_dialects_of_asc_are_read(rpm, text):
    assert rpm("drive.asc", text) == [(-0.5, 1), (0.25, 2)]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("0.1 1  Engine  Rx d 2 01 00", "line 4: 'Engine' is the name of a message.*numeric identifiers"),
        ("0.1 CANFD 1 Rx Engine 1 0 2 2 01 00", "line 4: 'Engine' is the name of a message"),
        ("0.1 1 100 Rx d 2 01 0G", "line 4: "),
        ("0.1 1 100 Rx d 2 01 00 03", "3 bytes of data, where the line says 2"),
        ("0.1 1 100 Qx d 2 01 00", "line 4: '0.1 1 100 Qx d 2 01 00' is not a frame"),
        ("0.1 1 20000000x Rx d 2 01 00", "more than 29 bits"),
        ("0.1 CANFD 1 Rx 100 1 0 8 12 " + "00 " * 12, "which do not agree"),
        ("0.1 CANXL 1 Rx 100 1 0 8 12", "is not a frame"),
        ("base hex timestamps relative", "line 4: its stamps count from the line before"),
    ],
)
def test_a_line_of_asc_that_may_be_a_frame_is_refused(rpm, odd, said):
    with pytest.raises(ValueError, match=said):
        rpm("drive.asc", HEAD + odd + "\n" + line(0.2, 1))


def test_a_log_without_a_frame_is_refused(rpm):
    for name, content in (("a.asc", HEAD), ("a.trc", ";\n"), ("a.log", "\n"), ("a.blf", blf(blf_object(65, 1, 0)))):
        with pytest.raises(ValueError, match=f"{name} has no CAN frame with data"):
            rpm(name, content)


def test_lines_of_an_unknown_kind_are_counted(rpm):
    with pytest.raises(UserWarning, match=r"2 lines of .* the first is line 5: '\?\?'"):
        rpm("drive.asc", HEAD + line(0.1, 1) + "??\n" + line(0.2, 2) + "%\n")


ROWS = {
    "1.0": "     1)         0  0100  8  01 00 00 00 00 00 00 00",
    "1.1": "     1)         0.0  Rx         0100  8  01 00 00 00 00 00 00 00",
    "1.2": "     1)         0.000 1  Rx        0100  8  01 00 00 00 00 00 00 00",
    "1.3": "     1)         0.000 1  Rx        0100 -  8    01 00 00 00 00 00 00 00",
    "2.0": "      1         0.000 DT     0100 Rx 8    01 00 00 00 00 00 00 00",
    "2.1": "      1         0.000 DT 1      0100 Rx -  8    01 00 00 00 00 00 00 00",
}


@pytest.mark.parametrize("version", ROWS)
@pytest.mark.parametrize("change", ["", "comma", "no version"])
def test_dialects_of_trc_are_read(rpm, version, change):
    columns = {"2.0": ";$COLUMNS=N,O,T,I,d,l,D\n", "2.1": ";$COLUMNS=N,O,T,B,I,d,R,L,D\n"}.get(version, "")
    text = f";$FILEVERSION={version}\n;$STARTTIME=45248.7383051968\n{columns};---\n{ROWS[version]}\n"
    second = ROWS[version].replace("0.000", "100.5").replace("0.0  R", "100.5  R").replace(" 0  0100", "100  0100")
    text += second.replace("01 00 00 00 00", "02 00 00 00 00") + "\n"
    if change == "comma":
        text = text.replace("0.0", "0,0").replace("100.5", "100,5").replace("8.7", "8,7")
    if change == "no version":
        text = text.replace(f";$FILEVERSION={version}\n", "")
        if version.startswith("2"):
            with pytest.raises(ValueError, match=r"line 4: .*has no version.*with PEAK-Converter"):
                rpm("drive.trc", text)
            return
    assert rpm("drive.trc", text) == [(0, 1), (0.1 if version == "1.0" else 0.1005, 2)]


@pytest.mark.parametrize("version", ROWS)
def test_frames_that_trc_numbers_and_lacks_are_counted(rpm, version):
    """A number that falls begins another trace."""
    columns = {"2.0": ";$COLUMNS=N,O,T,I,d,l,D\n", "2.1": ";$COLUMNS=N,O,T,B,I,d,R,L,D\n"}.get(version, "")
    head = f";$FILEVERSION={version}\n{columns};---\n"
    rows = [ROWS[version].replace("1", str(number), 1) + "\n" for number in (7, 8, 1, 2, 3)]
    assert len(rpm("drive.trc", head + "".join(rows[2:]))) == 1  # of one stamp
    assert len(rpm("drive.trc", head + "".join(rows))) == 1
    with pytest.raises(UserWarning, match=r"^3 frames are missing in .*drive\.trc: .*Export the log again"):
        rpm("drive.trc", head + rows[0] + ROWS[version].replace("1", "10", 1) + "\n" + rows[2] + rows[4])


def test_other_versions_of_trc_are_refused_by_name(rpm):
    with pytest.raises(ValueError, match=r"line 1: version 3.0 of TRC, where 1.0, .* can be read; .*PEAK-Converter"):
        rpm("drive.trc", ";$FILEVERSION=3.0\n" + ROWS["2.0"] + "\n")
    with pytest.raises(ValueError, match=r"line 2: 7 bytes of data, where the line says 8"):
        rpm("drive.trc", ";$FILEVERSION=1.1\n" + ROWS["1.1"][:-3] + "\n")
    for cell, odd, said in (
        ("0100", "-100", "'-100', where an integer"),
        ("0.000", "0_0.0", "'0_0.0', where a number"),
    ):
        with pytest.raises(ValueError, match=f"line 2: {said} is expected"):
            rpm("drive.trc", ";$FILEVERSION=2.0\n" + ROWS["2.0"].replace(cell, odd) + "\n")


@pytest.mark.parametrize(
    "text",
    [
        "(1700000000.000000) can0 100#0100000000000000\n(1700000000.100000) can0 100##10200000000000000\n",
        "(1700000000.000000)  can0  100   [8]  01 00 00 00 00 00 00 00\n"
        "(1700000000.100000)  can0  RX B -  100  [08]  02 00 00 00 00 00 00 00   '........'\n",
        "(2023-11-14 22:13:20.000000)  can0  100   [8]  01 00 00 00 00 00 00 00\n"
        "(2023-11-14 22:13:20.100000)  can0  100   [8]  02 00 00 00 00 00 00 00\n",
        "(1700000000.000000) can0 100#0100000000000000 R\n(1700000000.05) can0 100#R8\n"
        "(1700000000.06) can0 20000080#0000000000000000\n(1700000000.100000) can0 100#0200000000000000 T\n",
    ],
    ids=["fd", "shown", "dates", "remote and error"],
)
def test_dialects_of_candump_are_read(rpm, text):
    assert rpm("drive.log", text) == [(0, 1), (0.1, 2)]


def test_stamps_of_candump_that_count_from_the_line_before_are_refused(rpm):
    for steps in ([0.0, *[0.1] * 9], [0.0, 0.1, 0.09, 0.11, 0.1]):
        with pytest.raises(ValueError, match=r"do not grow.*candump -t d.*candump -L"):
            rpm("drive.log", "".join(f"({s:010.6f}) can0 100#0{n}00\n" for n, s in enumerate(steps)))
        grown = "".join(f"({s:010.6f}) can0 100#0{n}00\n" for n, s in enumerate(np.cumsum(steps)))
        assert len(rpm("drive.log", grown)) == len(steps)


def blf_object(kind, value, time_ns, version=1, size=None):
    data = struct.pack("<H6x", value)
    if kind in (1, 86):
        body = struct.pack("<HBBL8s", 1, 0, 8, 256, data) + (b"\0" * 8 if kind == 86 else b"")
    elif kind == 100:
        body = struct.pack("<HBBLLBBB5x64s", 1, 0, 8, 256, 0, 0, 1, 8, data)
    else:
        body = struct.pack("<BBBBLLLLLLLHBBL", 1, 8, 8, 0, 256, 0, 0x1000, 0, 0, 0, 0, 0, 0, 0, 0) + data
    extra = struct.pack("<8x") if version == 2 else b""
    top = struct.pack("<LHHQ", 2, 0, 0, time_ns) + extra
    length = 16 + len(top) + len(body) if size is None else size
    made = struct.pack("<4sHHLL", b"LOBJ", 16 + len(top), version, length, kind) + top + body
    return made + b"\0" * (-len(made) % 4)


def container(data, method=2):
    packed = zlib.compress(data) if method == 2 else data
    made = struct.pack("<4sHHLL", b"LOBJ", 16, 1, 32 + len(packed), 10) + struct.pack("<H6xL4x", method, len(data))
    return made + packed + b"\0" * (-len(packed) % 4)


def blf(*parts, count=0):
    body = b"".join(parts)
    moment = struct.pack("<8H", 2023, 11, 2, 14, 22, 13, 20, 0)
    head = struct.pack("<4sL8BQQLL", b"LOGG", 144, *range(8), 144 + len(body), 0, count, 0) + moment
    return head.ljust(144, b"\0") + body


FOUR = [blf_object(kind, kind, 10**8 * n, 1 + n % 2) for n, kind in enumerate((1, 86, 100, 101))]
READ = [(0.0, 1), (0.1, 86), (0.2, 100), (0.3, 101)]


@pytest.mark.parametrize(
    "data",
    [
        blf(*FOUR),
        blf(container(b"".join(FOUR))),
        blf(container(b"".join(FOUR), method=0)),
        blf(FOUR[0], container(FOUR[1] + FOUR[2]), FOUR[3]),
        blf(container(b"".join(FOUR)[:75]), container(b"".join(FOUR)[75:]), container(b"")),
        blf(container(b"".join([*FOUR[:2], blf_object(65, 1, 0), *FOUR[2:]])), count=5),
    ],
    ids=["top level", "container", "not packed", "mixed", "continued", "another kind"],
)
def test_every_frame_of_blf_is_read(rpm, data):
    assert rpm("drive.blf", data) == READ


def test_blf_that_cannot_be_read_whole_is_refused_or_counted(rpm):
    with pytest.raises(ValueError, match=r"drive.blf has frames with object headers of version 3, where 1 and 2"):
        rpm("drive.blf", blf(container(FOUR[0] + blf_object(1, 1, 0, version=3))))
    for size in (0, 15, 40, 5000):
        for inside in (container, bytes):
            with pytest.raises(ValueError, match=r"drive.blf is a BLF file that is cut or damaged near byte"):
                rpm("drive.blf", blf(inside(blf_object(1, 1, 0, size=size))))
    with pytest.raises(UserWarning, match="has 1 objects, of which 1 are of an unknown kind"):
        rpm("drive.blf", blf(blf_object(200, 1, 0)))
    with pytest.raises(UserWarning, match=r"has 4 objects, fewer than the header says \(the header says 9\)"):
        rpm("drive.blf", blf(*FOUR, count=9))
    with pytest.raises(UserWarning, match=r"has 4 objects, more than the header says \(the header says 3\)"):
        rpm("drive.blf", blf(*FOUR, count=3))
    assert rpm("drive.blf", blf(*FOUR, blf_object(115, 1, 0), count=4)) == READ  # of a kind that is not counted


@pytest.mark.parametrize(
    ("suffix", "writer", "reader"),
    [
        (".blf", can.BLFWriter, can.BLFReader),
        (".asc", can.ASCWriter, can.ASCReader),
        (".trc", can.TRCWriter, can.TRCReader),
        (".log", can.CanutilsLogWriter, can.CanutilsLogReader),
    ],
)
def test_random_frames_are_those_that_python_can_reads(tmp_path, suffix, writer, reader):
    rng = np.random.default_rng(3)
    path = tmp_path / f"drive{suffix}"
    with writer(path) as log:
        for n in range(500):
            fd = bool(rng.integers(2)) and suffix != ".trc"
            size = int(rng.choice([1, 5, 8, *([12, 24, 64] if fd else [0])]))
            extended, remote = bool(rng.integers(2)), bool(rng.integers(8) == 0) and not fd
            log.on_message_received(
                can.Message(
                    timestamp=1.7e9 + n / 1000,
                    arbitration_id=int(rng.integers(1 << (29 if extended else 11))),
                    is_extended_id=extended,
                    is_fd=fd,
                    is_remote_frame=remote,
                    is_error_frame=bool(rng.integers(16) == 0) and not (fd or remote),
                    dlc=size,
                    data=None if remote else rng.bytes(size),
                    channel=int(rng.integers(3)),
                )
            )
    expected = [m for m in reader(path) if not (m.is_remote_frame or m.is_error_frame)]
    with _opened(path) as (_, _, chunks):
        found = np.concatenate(list(chunks))
    assert len(found) == len(expected) > 300
    for frame, message in zip(found, expected, strict=True):
        key = message.arbitration_id
        assert (frame["id"], frame["extended"]) == (key, message.is_extended_id or key > 0x7FF)
        assert frame["data"][: frame["length"]].tobytes() == bytes(message.data)
