"""Simple decoders of every format, independent of the package, for `mutations.py`."""

import itertools
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import cantools
import numpy as np
from mutation_files import DATABASE, sent

Frames = list[tuple[float, int, bool, bytes]]  # seconds, identifier, whether it has 29 bits, data
Samples = dict[str, dict[float, float]]  # by signal and second
Found = defaultdict[str, defaultdict[float, list[float]]]  # the same, before samples with one stamp become their mean


class UndecodedError(Exception):
    """The simple decoder does not read this file."""


@cache
def messages() -> dict[tuple[int, bool], Any]:
    database = cantools.database.load_string(DATABASE, "dbc")
    return {(message.frame_id, message.is_extended_frame): message for message in database.messages}  # type: ignore


def nothing() -> Found:
    return defaultdict(lambda: defaultdict(list))


def means(found: Found) -> Samples:
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: {t: float(np.mean(v)) for t, v in times.items()} for name, times in found.items()}


def decoded(frames: Frames, by_key: dict[tuple[int, bool], Any] | None = None, digits: int = 6) -> Samples:
    """Decode frame by frame with cantools."""
    found = nothing()
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
                found[name][round(time_s, digits)].append(float(value))
    return means(found)


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

    found = nothing()

    def collect(value: Any, name: str, time_s: float) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}", time_s)
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                collect(inner, f"{name}[{place}]", time_s)
        elif isinstance(value, int | float):
            found[name][time_s].append(float(value))

    need(data[-8:] == b"\x89MCAP0\r\n")
    summary = make_reader(io.BytesIO(data), validate_crcs=True).get_summary()
    read = list(NonSeekingReader(io.BytesIO(data), validate_crcs=True).iter_messages())
    need(summary is not None and summary.statistics is not None and summary.statistics.message_count == len(read))
    for _, channel, message in read:
        collect(json.loads(message.data), channel.topic, round(message.log_time / 1e9, 6))
    return means(found)


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
    found = nothing()
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
                stamp, value = seconds + nanoseconds / 1e9, struct.unpack("<d", content)[0]
                found[f"{topics[fields[b'conn']]}.data"][stamp].append(value)
    return {name: {t: v for t, v in samples.items() if not np.isnan(v)} for name, samples in means(found).items()}


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
    found = nothing()
    for group in mdf_groups(data):
        time_s = mdf_numbers(*group.pop(""))
        for name, column in group.items():
            need(name not in found)
            samples = found[name]  # a channel without a value counts, too
            for t, v in zip(time_s.tolist(), mdf_numbers(*column).tolist(), strict=True):
                if not np.isnan(v):
                    samples[t].append(v)
    return means(found)


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
