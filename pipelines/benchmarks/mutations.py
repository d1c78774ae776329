"""Damaged files: each is read right, or refused by name, and never read differently, and no reader hangs or crashes.

Small files of every format are damaged at random: bytes, digits, lines, whole parts. Each is read in a child process
with limits of time and memory. Where a simple decoder of its own, written here, reads the damaged file as well, the
values must be equal. It exits with 1 if one differs, hangs, or raises another error than one that names the file.

    .venv/bin/python pipelines/benchmarks/mutations.py                              # 10,000 files
    .venv/bin/python pipelines/benchmarks/mutations.py --count 500 --formats asc blf

To add a format, add an entry to ``FORMATS``.
"""

import argparse
import contextlib
import itertools
import json
import logging
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import can
import cantools
import numpy as np

from anomalyvae.recordings import Log, read_log

Frames = list[tuple[float, int, bool, bytes]]  # seconds, identifier, whether it has 29 bits, data
Samples = dict[str, dict[float, float]]  # by signal and second
TIMEOUT_S, MEMORY = 10.0, 6 << 30
DATABASE = """VERSION ""
NS_ :
BS_:
BU_: ECU
BO_ 256 Engine: 8 ECU
 SG_ RPM : 0|16@1+ (0.25,0) [0|0] "rpm" ECU
 SG_ Temp : 16|8@1- (1,-40) [0|0] "degC" ECU
 SG_ Torque : 31|12@0- (0.5,0) [0|0] "Nm" ECU
BO_ 257 Lamp: 8 ECU
 SG_ Page M : 0|8@1+ (1,0) [0|3] "" ECU
 SG_ Level m0 : 8|8@1+ (1,0) [0|0] "%" ECU
 SG_ Level m1 : 16|8@1+ (0.5,0) [0|0] "%" ECU
BO_ 2566844672 Wheels: 8 ECU
 SG_ Front : 0|32@1- (1,0) [0|0] "m/s" ECU
 SG_ Rear : 39|16@0+ (0.01,0) [0|0] "m/s" ECU
BO_ 258 Long: 64 ECU
 SG_ Last : 496|16@1+ (1,0) [0|0] "" ECU
SIG_VALTYPE_ 2566844672 Front : 1;
"""


class UndecodedError(Exception):
    """The simple decoder does not read this file."""


class Format(NamedTuple):
    """A format of files to damage."""

    suffix: str
    write: Callable[[Path], None]
    damage: Callable[[bytes, np.random.Generator], bytes]
    decode: Callable[[bytes], Samples] | None  # independent of the package; None if there is no such decoder
    read: Callable[[Path], Log] = lambda path: read_log(path, databases=path.with_name("car.dbc"))


# --- samples --------------------------------------------------------------------------------------------


def sent(fd: bool = True) -> Iterator[can.Message]:
    rng = np.random.default_rng(5)
    for n in range(60):
        key = (256, 257, 2566844672 & 0x1FFFFFFF, 258 if fd else 256)[n % 4]
        data = bytearray(rng.bytes(64 if key == 258 else 8))
        if key == 257:
            data[0] = n // 4 % 2
        if key == 2566844672 & 0x1FFFFFFF:
            data[:4] = struct.pack("<f", rng.normal())
        yield can.Message(
            timestamp=1_700_000_000 + n / 50,
            arbitration_id=key,
            is_extended_id=key > 0x7FF,
            is_fd=key == 258,
            data=data,
            channel=0,
        )


def written_by(writer: Any, fd: bool = True, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with writer(path, **options) as log:
            for message in sent(fd):
                log.on_message_received(message)

    return write


def write_trc_1(path: Path) -> None:
    lines = [";$FILEVERSION=1.1", ";$STARTTIME=45248.5", ";---+--   ----+----"]
    for n, message in enumerate(sent(fd=False), 1):
        key = f"{message.arbitration_id:0{8 if message.is_extended_id else 4}X}"
        lines.append(f"{n:6d}) {20.0 * n:11.1f}  Rx  {key:>8}  8  {bytes(message.data).hex(' ').upper()} ")
    path.write_text("\n".join(lines) + "\n")


def write_mcap(path: Path) -> None:
    from mcap.writer import CompressionType, Writer

    with path.open("wb") as file:
        writer = Writer(file, chunk_size=500, compression=CompressionType.NONE)
        writer.start()
        channels = [writer.register_channel(topic, "json", 0) for topic in ("/imu", "/gps")]
        for n in range(60):
            message = {"a": n / 3, "b": {"c": -n}, "list": [n, n + 1]}
            writer.add_message(channels[n % 2], n * 10**8, json.dumps(message).encode(), n * 10**8)
        writer.finish()


def write_bag(path: Path) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    kind = store.types["std_msgs/msg/Float64"]
    with Writer(path) as bag:
        connection = bag.add_connection("/speed", kind.__msgtype__, typestore=store)
        for n in range(60):
            bag.write(connection, n * 10**8, store.serialize_ros1(kind(n / 3), kind.__msgtype__))


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = np.arange(300)
    table = pa.table(
        {
            "time_s": n / 10,
            "speed_mps": np.sin(n),
            "gear": pa.array([None if i % 7 == 0 else i % 5 for i in n.tolist()]),
            "count": n,
            "level": pa.array(np.sin(n // 50)).dictionary_encode(),
        }
    )
    pq.write_table(table, path, row_group_size=100, write_page_checksum=True)


def damaged_parquet(data: bytes, rng: np.random.Generator) -> bytes:
    """Half of the files are damaged in the footer, which has counts, sizes and places; these may become huge."""
    foot = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if rng.random() < 0.5:
        return damaged_bytes(data, rng)
    broken = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(foot, len(data) - 8))
        huge = rng.choice([b"\xfe\xff\xff\xff\x0f", b"\xfe" + 8 * b"\xff" + b"\x01", rng.bytes(1), rng.bytes(1)])
        broken[place : place + len(huge)] = huge
    broken[-8:] = (len(broken) - 8 - foot).to_bytes(4, "little") + b"PAR1"
    return bytes(broken)


def write_mf4(path: Path) -> None:
    from asammdf import MDF, Signal

    stamps = np.arange(200) / 50
    with MDF() as mdf:
        mdf.append([Signal(np.arange(200) * 0.5, stamps, name="speed", unit="m/s"),
                    Signal(np.arange(200, dtype=np.int16), stamps, name="gear")])  # fmt: skip
        made = mdf.save(path.with_suffix(".mf4"), overwrite=True, compression=0)
    made.replace(path)


def write_mf4_frames(path: Path) -> None:
    made = path.with_suffix(".mf4")
    written_by(can.MF4Writer, database=None, compression_level=0)(made)
    made.replace(path)


def write_database(path: Path) -> None:
    path.write_text(DATABASE)
    written_by(can.CanutilsLogWriter)(path.with_name("whole.log"))


# --- damage ---------------------------------------------------------------------------------------------


def damaged_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes, or cut, remove, repeat or fill a part."""
    out = bytearray(data)
    begin = int(rng.integers(len(out)))
    end = min(len(out), begin + int(rng.integers(1, 64)))
    match rng.integers(7):
        case 0 | 1:
            for place in rng.integers(0, len(out), rng.choice([1, 2, 8])):
                out[place] = rng.integers(256)
        case 2:
            del out[begin:]
        case 3:
            del out[begin:end]
        case 4:
            out[begin:begin] = out[begin:end]
        case 5:
            out[begin:end] = bytes([rng.choice([0, 255])]) * (end - begin)
        case 6:
            begin -= begin % 4
            out[begin : begin + 4] = struct.pack("<L", rng.choice([0, 1, 16, 0x7FFFFFFF, 0xFFFFFFFF]))
    return bytes(out)


def damaged_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a digit or a letter, or remove, repeat, swap or cut lines."""
    lines = data.decode("utf-8", "replace").splitlines(keepends=True)
    one, two = rng.integers(0, len(lines), 2)
    line = lines[one]
    place = int(rng.integers(len(line)))
    match rng.integers(9):
        case 0 | 1 | 2:
            digits = [n for n, letter in enumerate(line) if letter.isalnum()] or [place]
            place = int(rng.choice(digits))
            lines[one] = line[:place] + str(rng.choice(list("0123456789ABCDEFxR-.,"))) + line[place + 1 :]
        case 3:
            del lines[one]
        case 4:
            lines.insert(two, line)
        case 5:
            lines[one], lines[two] = lines[two], lines[one]
        case 6:
            lines[one] = line[:place] + line[place + 1 :]
        case 7:
            words = line.split(" ")
            del words[int(rng.integers(len(words)))]
            lines[one] = " ".join(words)
        case 8:
            return damaged_bytes(data, rng)
    return "".join(lines).encode()


def damaged_blf(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage the file, or what is in its container, with lengths that fit, so that only its objects show it."""
    if rng.integers(4) == 0:
        return damaged_bytes(data, rng)
    length = struct.unpack_from("<L", data, 144 + 8)[0]
    inside = zlib.decompress(data[144 + 32 : 144 + length])
    inside = damaged_bytes(inside, rng) if rng.integers(2) else swapped_objects(inside, rng)
    packed = zlib.compress(inside)
    head = struct.pack("<4sHHLL", b"LOBJ", 16, 1, 32 + len(packed), 10) + struct.pack("<H6xL4x", 2, len(inside))
    body = head + packed + bytes(-len(packed) % 4)
    return data[:16] + struct.pack("<Q", 144 + len(body)) + data[24:144] + body


def swapped_objects(data: bytes, rng: np.random.Generator) -> bytes:
    objects = [b"LOBJ" + part for part in data.split(b"LOBJ")[1:]]
    one, two = rng.integers(0, len(objects), 2)
    match rng.integers(3):
        case 0:
            objects[one], objects[two] = objects[two], objects[one]
        case 1:
            del objects[one]
        case 2:
            objects.insert(two, objects[one])
    return b"".join(objects)


# --- simple decoders ------------------------------------------------------------------------------------


@cache
def messages() -> dict[tuple[int, bool], Any]:
    database = cantools.database.load_string(DATABASE, "dbc")
    return {(message.frame_id, message.is_extended_frame): message for message in database.messages}  # type: ignore


def decoded(frames: Frames, by_key: dict[tuple[int, bool], Any] | None = None, digits: int = 6) -> Samples:
    """Decode frame by frame with cantools; samples with the same stamp become their mean."""
    found: dict[str, dict[float, list[float]]] = {}
    for time_s, key, extended, data in frames:
        message = (messages() if by_key is None else by_key).get((key, extended))
        if message is None:
            continue
        try:
            values = message.decode(data, decode_choices=False, allow_truncated=True)
        except cantools.database.DecodeError:  # a page of the multiplexer that the database does not have
            need(by_key is None)
            values = {"Page": data[0]} if data else {}
        for name, value in values.items():
            if not np.isnan(value):
                found.setdefault(name, {}).setdefault(round(time_s, digits), []).append(float(value))
    with np.errstate(over="ignore", invalid="ignore"):
        return {n: {t: float(np.mean(v)) for t, v in times.items()} for n, times in found.items()}


def need(holds: bool) -> None:
    if not holds:
        raise UndecodedError


def of_lines(row: Callable[[list[str]], tuple[float, int, bool, bytes] | None]) -> Callable[[bytes], Samples]:
    """Return a decoder of text whose lines it reads without exception, or not at all."""

    def decode(data: bytes) -> Samples:
        text = data.decode("ascii").replace("\r\n", "\n").replace("\r", "\n")
        frames = [row(line.split()) for line in text.split("\n")[:-1]]
        first = next(frame[0] for frame in frames if frame)
        zero = first if first >= 1e8 else 0.0
        return decoded([(frame[0] - zero, *frame[1:]) for frame in frames if frame])

    return decode


def candump_row(words: list[str]) -> tuple[float, int, bool, bytes] | None:
    if not words:
        return None
    stamp, _, frame, *_ = words
    need(stamp[0] == "(" and stamp[-1] == ")" and len(words) == 4 and words[3] in "RT")
    key, _, data = frame.partition("#")
    need(len(key) in (3, 8) and int(key, 16) <= 0x1FFFFFFF and not data.startswith("R"))
    return float(stamp[1:-1]), int(key, 16), len(key) == 8, bytes.fromhex(data[2:] if data[0] == "#" else data)


def asc_row(words: list[str]) -> tuple[float, int, bool, bytes] | None:
    if not words or words[0] in ("date", "base", "internal", "Begin", "End") or "measurement" in words:
        need("relative" not in words and "dec" not in words)
        return None
    fd = words[1] == "CANFD"
    channel, key = (words[2], words[4]) if fd else (words[1], words[2])
    need(channel.isdigit() and (words[3] in ("Rx", "Tx")) and (words[8].isdigit() if fd else words[4] == "d"))
    need(not fd or (words[5].isdigit() and len(words) >= 9 + int(words[8])))
    size = int(words[8]) if fd else int(words[5], 16)
    data = words[9 : 9 + size] if fd else words[6:]
    need(size == len(data) and all(len(byte) == 2 for byte in data))
    number = int(key.rstrip("x"), 16)
    return float(words[0]), number, key.endswith("x") or number > 0x7FF, bytes.fromhex(" ".join(data))


def trc_1_row(words: list[str]) -> tuple[float, int, bool, bytes] | None:
    if not words or words[0].startswith(";"):
        return None
    number, stamp, kind, key, size, *data = words
    need(number.endswith(")") and kind in ("Rx", "Tx") and int(size) == len(data) and len(key) in (4, 8))
    return float(stamp) / 1000, int(key, 16), len(key) == 8, bytes.fromhex("".join(data))


def trc_2_row(words: list[str]) -> tuple[float, int, bool, bytes] | None:
    if not words or words[0].startswith(";"):
        need(not words or not words[0].startswith(";$COLUMNS") or words[0] == ";$COLUMNS=N,O,T,B,I,d,R,L,D")
        return None
    _, stamp, kind, _, key, _, _, size, *data = words
    need(kind == "DT" and int(size) == len(data) and len(key) in (4, 8))
    return float(stamp) / 1000, int(key, 16), len(key) == 8, bytes.fromhex("".join(data))


def decoded_blf(data: bytes) -> Samples:
    """Read the objects of containers one after the other."""
    need(data[:4] == b"LOGG" and struct.unpack_from("<L", data, 4)[0] == 144)
    place, inside = 144, b""
    while place < len(data):
        signature, header, version, length, kind = struct.unpack_from("<4sHHLL", data, place)
        need(signature == b"LOBJ" and kind == 10 and length >= 32 and place + length <= len(data))
        method, size = struct.unpack_from("<H6xL", data, place + 16)
        need(method == 2)
        part = zlib.decompress(data[place + 32 : place + length])
        need(len(part) == size)
        inside += part
        place += length + length % 4
    frames: Frames = []
    place = 0
    while place + 16 <= len(inside):
        signature, header, version, length, kind = struct.unpack_from("<4sHHLL", inside, place)
        need(signature == b"LOBJ" and length >= 16 and place + length <= len(inside))
        if kind in (1, 86, 100, 101):
            need(version in (1, 2) and header == (32 if version == 1 else 40))
            unit, stamp = struct.unpack_from("<L4xQ", inside, place + 16)
            body = place + header
            if kind in (1, 86):
                _, flags, code, key, content = struct.unpack_from("<HBBL8s", inside, body)
                size = min(code, 8)
            elif kind == 100:
                _, flags, code, key, size, content = struct.unpack_from("<HBBL6xB5x64s", inside, body)
            else:
                raise UndecodedError
            need(code <= 15 and size <= 64)
            if not flags & 0x80:
                seconds = stamp / (1e5 if unit == 1 else 1e9)
                frames.append((seconds, key & 0x1FFFFFFF, bool(key >> 31), content[:size]))
        place += length + length % 4
    need(place >= len(inside))
    start = struct.unpack_from("<8H", data, 40)
    need(1 <= start[1] <= 12 and 1 <= start[3] <= 31 and start[0] > 1970)
    return decoded(frames)


def decoded_mcap(data: bytes) -> Samples:
    """Read the records one after the other, without the index."""
    import io

    from mcap.reader import NonSeekingReader, make_reader

    found: dict[str, dict[float, list[float]]] = {}

    def collect(value: Any, name: str, time_s: float) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}", time_s)
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                collect(inner, f"{name}[{place}]", time_s)
        elif isinstance(value, int | float):
            found.setdefault(name, {}).setdefault(time_s, []).append(float(value))

    need(data[-8:] == b"\x89MCAP0\r\n")
    summary = make_reader(io.BytesIO(data), validate_crcs=True).get_summary()
    read = list(NonSeekingReader(io.BytesIO(data), validate_crcs=True).iter_messages())
    need(summary is not None and summary.statistics is not None and summary.statistics.message_count == len(read))
    for _, channel, message in read:
        collect(json.loads(message.data), channel.topic, round(message.log_time / 1e9, 6))
    return {name: {t: float(np.mean(v)) for t, v in times.items()} for name, times in found.items()}


def bag_records(data: bytes) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Yield the header and the data of each record."""
    place = 0
    while place < len(data):
        parts = []
        for _ in range(2):
            size = struct.unpack_from("<L", data, place)[0]
            need(place + 4 + size <= len(data))
            parts.append(data[place + 4 : place + 4 + size])
            place += 4 + size
        header, fields, at = parts[0], dict[bytes, bytes](), 0
        while at < len(header):
            size = struct.unpack_from("<L", header, at)[0]
            need(at + 4 + size <= len(header))
            name, _, value = header[at + 4 : at + 4 + size].partition(b"=")
            fields[name] = value
            at += 4 + size
        yield fields, parts[1]


def decoded_bag(data: bytes) -> Samples:
    """Read the records of a ROS 1 bag one after the other, without its index."""
    found: dict[str, dict[float, list[float]]] = {}
    topics: dict[bytes, str] = {}
    need(data[:13] == b"#ROSBAG V2.0\n")
    for chunk, inside in bag_records(data[13:]):
        if chunk[b"op"] != b"\x05":
            continue
        need(chunk[b"compression"] == b"none" and struct.unpack("<L", chunk[b"size"])[0] == len(inside))
        for fields, content in bag_records(inside):
            if fields[b"op"] == b"\x07":
                need(b"type=std_msgs/Float64" in content and fields[b"conn"] not in topics)
                topics[fields[b"conn"]] = fields[b"topic"].decode()
            else:
                need(fields[b"op"] == b"\x02" and len(content) == 8)
                seconds, nanoseconds = struct.unpack("<LL", fields[b"time"])
                samples = found.setdefault(f"{topics[fields[b'conn']]}.data", {})
                samples.setdefault(seconds + nanoseconds / 1e9, []).append(struct.unpack("<d", content)[0])
    means = {name: {t: float(np.mean(v)) for t, v in times.items()} for name, times in found.items()}
    return {name: {t: v for t, v in samples.items() if not np.isnan(v)} for name, samples in means.items()}


def mdf_groups(data: bytes) -> Iterator[dict[str, tuple[int, np.ndarray]]]:
    """Yield the groups of a plain MDF 4 file: of each channel its type of data, and its bytes in each record."""

    def block(place: int, kind: bytes) -> tuple[tuple[int, ...], int]:
        found, length, count = struct.unpack_from("<4s4xQQ", data, place)
        need(
            found == kind
            and (count == 0) == (kind in (b"##TX", b"##DT"))
            and 24 + 8 * count <= length
            and place + length <= len(data)
        )
        return struct.unpack_from(f"<{count}Q", data, place + 24), place + 24 + 8 * count

    def channels(place: int, records: np.ndarray) -> Iterator[tuple[str, tuple[int, np.ndarray]]]:
        while place:
            links, body = block(place, b"##CN")
            kind, sync, form, bit, byte, bits, flags = struct.unpack_from("<BBBBLLL", data, body)
            name = data[block(links[2], b"##TX")[1] :].split(b"\0")[0].decode()
            plain = flags & 3 == 0 and kind in (0, 2) and sync == (1 if kind == 2 else 0) and not links[4]
            need(plain and bit == 0 and byte + -(-bits // 8) <= records.shape[1])
            if links[1]:
                yield from channels(links[1], records)
            else:
                need(bits % 8 == 0 or form == 0)
                part = records[:, byte : byte + -(-bits // 8)].copy()
                if bits % 8:
                    part[:, -1] &= (1 << bits % 8) - 1
                yield ("" if kind == 2 else name), (form, part)
            place = links[0]

    need(data[:8] == b"MDF     ")
    group = block(64, b"##HD")[0][0]
    while group:
        (group, first, start, _), body = block(group, b"##DG")
        need(data[body] == 0)
        links, body = block(first, b"##CG")
        cycles, flags, size, invalid = struct.unpack_from("<8xQH6xLL", data, body)
        need(not links[0] and not flags & 1 and not invalid)
        if cycles:
            _, body = block(start, b"##DT")
            need(struct.unpack_from("<Q", data, start + 8)[0] - 24 == cycles * size)
            records = np.frombuffer(data, np.uint8, cycles * size, body).reshape(cycles, size)
            found = list(channels(links[1], records))
            need(len(dict(found)) == len(found))
            yield dict(found)


def mdf_numbers(form: int, part: np.ndarray) -> np.ndarray:
    need(form in range(6) and part.shape[1] in (1, 2, 4, 8))
    return part.view(f"{'<>'[form % 2]}{'uif'[form // 2]}{part.shape[1]}")[:, 0].astype(float)


def decoded_mdf(data: bytes) -> Samples:
    """Read measured channels of plain types."""
    found: dict[str, dict[float, list[float]]] = {}
    for group in mdf_groups(data):
        time_s = mdf_numbers(*group.pop(""))
        for name, column in group.items():
            need(name not in found)
            samples = found.setdefault(name, {})
            for t, v in zip(time_s.tolist(), mdf_numbers(*column).tolist(), strict=True):
                if not np.isnan(v):
                    samples.setdefault(t, []).append(v)
    return {name: {t: float(np.mean(v)) for t, v in times.items()} for name, times in found.items()}


def decoded_mdf_frames(data: bytes) -> Samples:
    """Read recorded CAN frames."""
    frames: Frames = []
    for group in mdf_groups(data):
        columns = {name.rpartition(".")[2]: column for name, column in group.items()}
        need("ID" in columns and "DataBytes" in columns and "DataLength" in columns)
        time_s, extended, lengths = (mdf_numbers(*columns[name]) for name in ("", "IDE", "DataLength"))
        keys = columns["ID"][1].copy().view("<u4")[:, 0] & 0x1FFFFFFF
        need(bool((lengths <= columns["DataBytes"][1].shape[1]).all()))
        for t, key, ide, size, content in zip(time_s, keys, extended, lengths, columns["DataBytes"][1], strict=True):
            frames.append((float(t), int(key), bool(ide) or key > 0x7FF, bytes(content[: int(size)])))
    return decoded(frames, digits=400)


def decoded_by(data: bytes) -> Samples:
    """Decode the frames of a whole log with this database."""
    found = cantools.database.load_string(data.decode("ascii"), "dbc", strict=False).messages  # type: ignore[union-attr]
    names = [name for message in found for name in {signal.name for signal in message.signals}]
    need(len(names) == len(set(names)) and all(message.protocol is None for message in found))
    for message in found:
        need(all(signal.length <= 64 and signal.scale for signal in message.signals))
        for one, other in itertools.combinations(message.signals, 2):
            if one.name == other.name:  # one signal, if it means the same on different pages
                pages = (signal.multiplexer_ids or () for signal in (one, other))
                need(one.unit == other.unit and one.is_multiplexer == other.is_multiplexer)
                need(one.multiplexer_ids is not None and other.multiplexer_ids is not None)
                need(not set.intersection(*map(set, pages)))
    by_key: dict[tuple[int, bool], Any] = {}
    for message in found:
        by_key.setdefault((message.frame_id, message.is_extended_frame), message)
    frames = [(m.timestamp - 1.7e9, m.arbitration_id, m.is_extended_id, bytes(m.data)) for m in sent()]
    return decoded(frames, by_key)


FORMATS = {
    "candump": Format(".log", written_by(can.CanutilsLogWriter), damaged_lines, of_lines(candump_row)),
    "asc": Format(".asc", written_by(can.ASCWriter), damaged_lines, of_lines(asc_row)),
    "trc 1": Format(".trc", write_trc_1, damaged_lines, of_lines(trc_1_row)),
    "trc 2": Format(".trc", written_by(can.TRCWriter, fd=False), damaged_lines, of_lines(trc_2_row)),
    "blf": Format(".blf", written_by(can.BLFWriter), damaged_blf, decoded_blf),
    "mcap": Format(".mcap", write_mcap, damaged_bytes, decoded_mcap, read_log),
    "bag": Format(".bag", write_bag, damaged_bytes, decoded_bag, read_log),
    "mf4": Format(".mf4", write_mf4, damaged_bytes, decoded_mdf, read_log),
    "mf4 frames": Format(".mf4", write_mf4_frames, damaged_bytes, decoded_mdf_frames),
    "parquet": Format(".parquet", write_parquet, damaged_parquet, None, read_log),
    "dbc": Format(
        ".dbc",
        write_database,
        damaged_lines,
        decoded_by,
        lambda path: read_log(path.with_name("whole.log"), databases=path),
    ),
}


# --- reading --------------------------------------------------------------------------------------------


def outcome(name: str, path: Path) -> tuple[str, str]:
    """Read a file, and compare its values with those of the simple decoder."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            log = FORMATS[name].read(path)
        except (ValueError, OSError) as error:
            return (
                ("refused", "") if path.parent.name in str(error) else ("crashed", f"{type(error).__name__}: {error}")
            )
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {error}"
    decode = FORMATS[name].decode
    try:
        if decode is None:
            raise UndecodedError
        expected = decode(path.read_bytes())
    except Exception:
        return "read, not comparable", ""
    different = difference(log, expected)
    texts = [str(warning.message) for warning in said]
    if different and any("not read" in text or "left out" in text for text in texts):
        return "loss counted", ""
    return ("different", f"{different} {texts}") if different else ("read and equal", "")


def difference(log: Log, expected: Samples) -> str:
    """Return what differs, nothing if a recording has the expected samples."""
    for signal, samples in expected.items():
        if signal not in log.signals:
            return f"{signal} is missing"
        found = log[signal]
        times = np.array(sorted(samples))
        values = np.array([samples[t] for t in times])
        kept = ~np.isnan(found.values)
        if len(times) != kept.sum() or not np.allclose(found.time_s[kept], times, rtol=0, atol=2e-6):
            return f"{signal}: {kept.sum()} samples for {len(times)}"
        if not np.allclose(found.values[kept], values, rtol=1e-9, atol=0, equal_nan=True):
            return f"{signal}: other values"
    more = log.signals.keys() - expected.keys()
    return f"{more} are not there" if more else ""


def serve(connection: Any) -> None:
    """Answer until the other side hangs up; a child of its own, so that a hang or a crash ends only this process."""
    logging.getLogger("cantools").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(outcome(*connection.recv()))


class Child:
    """A process that reads files, started again if it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # its imports are no reading, and take long on a busy machine

    def ask(self, *job: Any) -> tuple[str, str]:
        """Return the outcome of a file."""
        self._connection.send(job)
        try:
            if self._connection.poll(TIMEOUT_S):
                answer: tuple[str, str] = self._connection.recv()
                return answer
            result = "hung", f"more than {TIMEOUT_S:g} s"
        except EOFError:
            result = "crashed", f"the process died with exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()


def run(formats: list[str], count: int, seed: int, keep: Path | None = None) -> dict[str, Counter[str]]:
    """Return how often each outcome came, by format; files that are not read as they should be are kept in ``keep``."""
    outcomes: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(Child()) as child:
        (Path(scratch) / "car.dbc").write_text(DATABASE)
        for place, name in enumerate(formats):
            counts = outcomes[name] = Counter()
            path = Path(scratch) / f"drive{FORMATS[name].suffix}"
            FORMATS[name].write(path)
            whole = path.read_bytes()
            result = child.ask(name, path)  # the first one takes long: imports
            rng = np.random.default_rng([seed, place])
            for number in range(count // len(formats)):
                if number:
                    path.write_bytes(FORMATS[name].damage(whole, rng))
                    result = child.ask(name, path)
                counts[result[0]] += 1
                if result[0] in BAD:
                    print(f"{name}, file {number}: {result[0]}: {result[1][:300]}", file=sys.stderr)
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{name.replace(' ', '-')}-{number}{path.suffix}").write_bytes(path.read_bytes())
    return outcomes


GOOD, BAD = ("read and equal", "read, not comparable", "loss counted", "refused"), ("different", "crashed", "hung")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that are not read as they should be")
    options = parser.parse_args()
    began = time.perf_counter()
    outcomes = run(options.formats, options.count, options.seed, options.keep)
    total: Counter[str] = sum(outcomes.values(), Counter())
    print(f"{'format':12}{'files':>8}" + "".join(f"{what:>22}" for what in (*GOOD, *BAD)))
    for name, counts in [*outcomes.items(), ("all", total)]:
        print(f"{name:12}{counts.total():8,}" + "".join(f"{counts[what]:22,}" for what in (*GOOD, *BAD)))
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(any(total[what] for what in BAD))


if __name__ == "__main__":
    main()
