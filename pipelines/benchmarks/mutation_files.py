"""Small files of every format, and damage to them, for `mutations.py`."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import can
import numpy as np

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
