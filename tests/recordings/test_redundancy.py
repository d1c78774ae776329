"""Where a file says one thing twice and the two differ, it is refused, or the difference is named."""

import json
import sqlite3
import struct
import warnings

import pandas as pd
import pytest

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

from mcap.opcode import Opcode
from mcap.writer import CompressionType, Writer
from rosbags.rosbag1 import Writer as Bag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Bag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from anomalyvae.recordings import read_log


def bag_of_speeds(path):
    """The bytes of a ROS 1 bag with the speeds 0, 1, 2, 3 and 4, one every 0.1 s."""
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = store.types["std_msgs/msg/Float64"]
    with Bag1Writer(path) as bag:
        connection = bag.add_connection("/speed", kind.__msgtype__, typestore=store)
        for n in range(5):
            bag.write(connection, n * 10**8, store.serialize_ros1(kind(n), kind.__msgtype__))
    return path.read_bytes()


def test_a_bag_whose_index_misses_messages_is_refused(tmp_path):
    data = bag_of_speeds(tmp_path / "drive.bag")
    assert read_log(tmp_path / "drive.bag")["/speed.data"].values.tolist() == [0, 1, 2, 3, 4]
    place = data.index(b"conn=", data.index(b"ver=")) + 5  # in the index that follows the chunk
    (tmp_path / "drive.bag").write_bytes(data[:place] + b"\7" + data[place + 1 :])
    with pytest.raises(ValueError, match=r"drive.bag cannot be read as .*its index leads to 0 of its 5 messages"):
        read_log(tmp_path / "drive.bag")
    # Entries that lead to the start of the chunk lead to its first message.
    for n, said in [
        (2, "a chunk has other messages than its index says"),
        (3, "its index leads to 4 of its 5 messages"),
    ]:
        place = data.rindex(struct.pack("<LL", 0, n * 10**8))
        data = data[:place] + bytes(12) + data[place + 12 :]
        (tmp_path / "drive.bag").write_bytes(data)
        with pytest.raises(ValueError, match=said):
            read_log(tmp_path / "drive.bag")


def test_a_damaged_start_of_a_bag_does_not_shift_its_times(tmp_path):
    data = bag_of_speeds(tmp_path / "drive.bag")
    place = data.rindex(b"start_time=") + len(b"start_time=")
    (tmp_path / "drive.bag").write_bytes(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])
    with pytest.warns(
        UserWarning, match=r"drive.bag gives 1 of its 1 chunks another first or last time.*rosbag reindex"
    ):
        log = read_log(tmp_path / "drive.bag")
    assert log["/speed.data"].time_s.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


def bag_in_chunks(path):
    """The bytes of a bag with a chunk of one speed, and a chunk of four speeds and a limit."""
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = store.types["std_msgs/msg/Float64"]
    bag = Bag1Writer(path)
    bag.chunk_threshold = 300  # bytes, which the records of the two connections fill
    with bag:
        speed, limit = (bag.add_connection(topic, kind.__msgtype__, typestore=store) for topic in ("/speed", "/limit"))
        for n in range(5):
            bag.write(speed, n * 10**8, store.serialize_ros1(kind(n), kind.__msgtype__))
        bag.write(limit, 5 * 10**8, store.serialize_ros1(kind(9), kind.__msgtype__))
    return path.read_bytes()


def places(data, text):
    return [place for place in range(len(data)) if data.startswith(text, place)]


BAG_DAMAGE = {
    # The bytes before the damage, which of their places, the new bytes, and what the error says.
    "topic in the index": (
        b"topic=/spee",
        -2,
        b"2",
        "connection 0 has the topic /spee2 in its index, /speed in a chunk",
    ),
    "topic in a chunk": (b"topic=/spee", 0, b"2", "connection 0 has the topic /speed in its index, /spee2"),
    "connection in a chunk": (b"op=\7\x09\0\0\0conn=", 0, b"\2", "connection 2 has the topic None in its index"),
    "chunks": (b"chunk_count=", 0, b"\1", "its index has other records than its header says"),
    "no chunks": (b"chunk_count=", 0, b"\0", "its index has other records than its header says"),
    "connection of a message": (b"op=\2\x09\0\0\0conn=", 1, b"\1", "a chunk has other messages than its index says"),
}


@pytest.mark.parametrize("damage", BAG_DAMAGE.values(), ids=BAG_DAMAGE)
def test_a_bag_that_contradicts_itself_is_refused(tmp_path, damage):
    before, which, new, said = damage
    data = bag_in_chunks(tmp_path / "drive.bag")
    assert read_log(tmp_path / "drive.bag")["/speed.data"].values.tolist() == [0, 1, 2, 3, 4]
    place = places(data, before)[which] + len(before)
    assert data[place : place + len(new)] != new
    (tmp_path / "drive.bag").write_bytes(data[:place] + new + data[place + len(new) :])
    with pytest.raises(ValueError, match=rf"drive.bag cannot be read as a ROS bag \({said}"):
        read_log(tmp_path / "drive.bag")


def mcap(path, **options):
    """The bytes of an MCAP file without checksums in two chunks, with the speeds 0 to 3 and the limits 0 to 3."""
    options = {"chunk_size": 200, "compression": CompressionType.NONE, "enable_crcs": False, **options}
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start()
        channels = [writer.register_channel(topic, "json", 0) for topic in ("/speed", "/limit")]
        for n in range(8):
            time_ns = (1_700_000_000 + n) * 10**9
            writer.add_message(channels[n % 2], time_ns, json.dumps({"x": n // 2}).encode(), time_ns)
        writer.finish()
    return path.read_bytes()


def damaged(data, code, number, place, new):
    """Change bytes of the content of a record: the first, second, ... of its kind outside of chunks."""
    begin = 8
    while True:
        found, length = struct.unpack_from("<BQ", data, begin)
        if found == code and not number:
            begin += 9 + place
            assert data[begin : begin + len(new)] != new
            return data[:begin] + new + data[begin + len(new) :]
        number -= found == code
        begin += 9 + length


MCAP_DAMAGE = {
    # The kind of record, which of them, where in it, the new bytes, and what the error says.
    "topic in the index": ([(Opcode.CHANNEL, 0, 13, b"2")], "its channel 1 is .*'/spee2'.* in another"),
    "topic in a chunk": ([(Opcode.CHUNK, 0, 62, b"2")], "its channel 1 is .*'/speed'.* in another"),
    "time of a message": ([(Opcode.CHUNK, 0, 125, bytes(8))], "a chunk has messages of other times"),
    "messages in the statistics": (
        [(Opcode.STATISTICS, 0, 0, b"\7"), (Opcode.STATISTICS, 0, 48, b"\3")],
        "it has 4 messages of /speed, and its statistics count 3",
    ),
}


@pytest.mark.parametrize("damage", MCAP_DAMAGE.values(), ids=MCAP_DAMAGE)
def test_an_mcap_file_that_contradicts_itself_is_refused(tmp_path, damage):
    changes, said = damage
    path = tmp_path / "drive.mcap"
    data = mcap(path)
    for change in changes:
        data = damaged(data, *change)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"drive.mcap cannot be read as MCAP \({said}"):
        read_log(path)


INDEX_DAMAGE = {
    "a chunk less": ((Opcode.CHUNK_INDEX, 1, -9, b"\x88"), "it lists other chunks"),
    "start of a chunk": ((Opcode.CHUNK_INDEX, 0, 0, bytes(8)), "it lists other chunks"),
    "channel in a chunk": ((Opcode.CHUNK_INDEX, 0, 36, b"\3"), "it lists other chunks"),
    "number of chunks": ((Opcode.STATISTICS, 0, 22, b"\3"), "it counts other chunks"),
    "messages of a channel": ((Opcode.STATISTICS, 0, 48, b"\3"), "it counts the messages in two ways"),
    "start": ((Opcode.STATISTICS, 0, 26, bytes(4)), "it gives the messages another start or end"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE.values(), ids=INDEX_DAMAGE)
def test_an_mcap_index_that_does_not_fit_is_named_and_not_used(tmp_path, damage):
    change, said = damage
    path = tmp_path / "drive.mcap"
    path.write_bytes(damaged(mcap(path), *change))
    with pytest.warns(UserWarning, match=rf"The index of .*drive.mcap does not fit its records: {said}"):
        log = read_log(path, signals=["/speed.x"])
    assert log.start == pd.Timestamp(1_700_000_000, unit="s", tz="UTC")
    assert (log["/speed.x"].time_s.tolist(), log["/speed.x"].values.tolist()) == ([0, 2, 4, 6], [0, 1, 2, 3])


@pytest.mark.parametrize("options", [{"repeat_channels": False}, {"use_statistics": False}, {"use_chunking": False}])
def test_an_mcap_file_whose_index_lacks_parts_is_read_without_a_warning(tmp_path, options):
    mcap(tmp_path / "drive.mcap", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = read_log(tmp_path / "drive.mcap")
    assert log["/speed.x"].values.tolist() == log["/limit.x"].values.tolist() == [0, 1, 2, 3]


def bag_folder(path, storage=StoragePlugin.SQLITE3):
    """A bag of ROS 2 with the speeds and limits 0 to 4."""
    store = get_typestore(Stores.LATEST)
    kind = store.types["std_msgs/msg/Float64"]
    with Bag2Writer(path, version=9, storage_plugin=storage) as bag:
        topics = [bag.add_connection(topic, kind.__msgtype__, typestore=store) for topic in ("/speed", "/limit")]
        for n in range(5):
            for topic in topics:
                bag.write(topic, (1_700_000_000 + n) * 10**9, store.serialize_cdr(kind(float(n)), kind.__msgtype__))
    return path


METADATA_DAMAGE = {
    "topic": ("name: /speed", "name: /spee2", r"5 messages of /spee2 \(std_msgs/msg/Float64\), where the files have 0"),
    "type": ("type: std_msgs/msg/Float64", "type: std_msgs/msg/Float32", "5 messages of /speed .std_msgs/msg/Float32"),
    "count": ("- message_count: 5", "- message_count: 4", r"4 messages of /speed .* where the files have 5"),
    "start": ("  starting_time:\n    nanoseconds_since_epoch: 17", "  starting_time:\n    nanoseconds_since_epoch: 16",
              "another start than the first message"),
}  # fmt: skip


@pytest.mark.parametrize("damage", METADATA_DAMAGE.values(), ids=METADATA_DAMAGE)
def test_metadata_that_do_not_fit_the_files_of_a_bag_are_named_and_not_used(tmp_path, damage):
    old, new, said = damage
    metadata = bag_folder(tmp_path / "drive") / "metadata.yaml"
    text = metadata.read_text()
    assert old in text
    metadata.write_text(text.replace(old, new, 1))
    with pytest.warns(UserWarning, match=rf"The metadata.yaml of .*drive does not fit .* it gives .*{said}"):
        log = read_log(tmp_path / "drive")
    assert log.start == pd.Timestamp(1_700_000_000, unit="s", tz="UTC")
    assert log["/speed.data"].values.tolist() == log["/limit.data"].values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE messages SET topic_id = 7 WHERE id = 3", "it has 10 messages, and its topics have 9"),
        (
            "DROP INDEX timestamp_idx; CREATE INDEX timestamp_idx ON messages (timestamp) WHERE id > 1;"
            "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = "
            "'CREATE INDEX timestamp_idx ON messages (timestamp)' WHERE name = 'timestamp_idx'",
            "it has 9 messages, and its topics have 10",
        ),
    ],
    ids=["topic", "index"],
)
def test_a_database_that_contradicts_itself_is_refused(tmp_path, change, said):
    path = bag_folder(tmp_path / "drive")
    with sqlite3.connect(path / "drive.db3") as base:
        base.executescript(change)
    base.close()
    for one in (path, path / "drive.db3"):
        with pytest.raises(ValueError, match=rf"cannot be read as a ROS bag \({said}"):
            read_log(one)


def test_mcap_files_of_a_bag_are_compared_with_their_index(tmp_path):
    path = bag_folder(tmp_path / "drive", StoragePlugin.MCAP) / "drive.mcap"
    data = path.read_bytes()
    assert read_log(tmp_path / "drive")["/speed.data"].values.tolist() == [0, 1, 2, 3, 4]
    place = data.rindex(b"/speed")
    path.write_bytes(data[: place + 5] + b"2" + data[place + 6 : -12] + bytes(4) + data[-8:])  # no checksum
    with (
        pytest.warns(UserWarning, match="0 messages of /spee2 .* the files have 5; 5 messages of /speed"),
        pytest.raises(ValueError, match=r"its channel \d is .*'/speed'.* in another"),
    ):
        read_log(tmp_path / "drive")


def test_a_type_that_a_bag_defines_in_two_ways_is_left_out(tmp_path):
    with Bag1Writer(tmp_path / "drive.bag") as bag:
        for topic, fields in [("/one", "float64 x\nfloat64 y"), ("/two", "float64 y\nfloat64 x")]:
            store = get_typestore(Stores.ROS1_NOETIC)
            store.register(get_types_from_msg(fields, "own/msg/Own"))
            own = store.types["own/msg/Own"](x=1.0, y=2.0)
            bag.write(
                bag.add_connection(topic, "own/msg/Own", typestore=store), 0, store.serialize_ros1(own, "own/msg/Own")
            )
    log = read_log(tmp_path / "drive.bag")
    assert not log.signals
    assert log.left_out == dict.fromkeys(
        ("/one", "/two"), "messages of type own/msg/Own, which the file defines in several ways"
    )
