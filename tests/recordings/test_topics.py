"""MCAP files and ROS bags give back what was written to them; broken ones give an error that names them."""

import json
import math
import re
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

import sqlite3

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from mcap.writer import CompressionType, IndexType, Writer
from mcap_protobuf.writer import Writer as ProtobufWriter
from rosbags.rosbag1 import Writer as Bag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Bag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from anomalyvae.recordings import READERS, WindowRecipe, list_signals, read_log, stream_windows, topics

DRIVES = Path(__file__).parents[3] / "shared" / "data" / "css_drive" / "css_drive.parquet"
UNIX_NS = 1_627_274_454 * 10**9
AXES = [
    (f"{field}.{axis}", f"{short}_{axis}")
    for field, short in [("linear_acceleration", "acc"), ("angular_velocity", "gyro")]
    for axis in "xyz"
]
ROS = {"bag": get_typestore(Stores.ROS1_NOETIC), "ros2": get_typestore(Stores.LATEST)}


@pytest.fixture(scope="module")
def drive():
    """300 rows at 10 Hz: of a real drive where it is at hand, else made up."""
    columns = [column for _, column in AXES] + ["gps_speed_mps"]
    if DRIVES.exists():
        frame = pd.read_parquet(DRIVES, columns=["drive", "time", *columns])
        frame = frame[frame["drive"] == frame["drive"].iloc[0]].iloc[1000:1300].reset_index(drop=True)
    else:
        frame = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 7)), columns=columns)
        frame["time"] = np.arange(300) / 10
    return frame.assign(ns=UNIX_NS + np.round((frame["time"] - frame["time"].iloc[0]) * 1e9).astype(np.int64))


def ros_messages(store, frame, stamps):
    """Yield (topic, type, log time, message): an IMU, the speed at a tenth of its rate, a picture."""
    kinds = store.types
    time, header = kinds["builtin_interfaces/msg/Time"], kinds["std_msgs/msg/Header"]
    seq = {"seq": 7} if "seq" in header.__dataclass_fields__ else {}
    vector, turn = kinds["geometry_msgs/msg/Vector3"], kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    for row in frame.itertuples():
        stamp = stamps[row.Index]
        head = header(**seq, stamp=time(sec=int(stamp // 10**9), nanosec=int(stamp % 10**9)), frame_id="car")
        spread = np.arange(9.0)
        acc, gyro = vector(row.acc_x, row.acc_y, row.acc_z), vector(row.gyro_x, row.gyro_y, row.gyro_z)
        imu = kinds["sensor_msgs/msg/Imu"](head, turn, spread, gyro, spread, acc, spread)
        yield "/imu", "sensor_msgs/msg/Imu", row.ns, imu
        if row.Index % 10 == 0:
            speed = kinds["std_msgs/msg/Float64"](row.gps_speed_mps)
            yield "/speed", "std_msgs/msg/Float64", row.ns, speed
        if row.Index % 100 == 0:
            picture = kinds["sensor_msgs/msg/CompressedImage"](head, "jpeg", np.zeros(1000, np.uint8))
            yield "/camera", "sensor_msgs/msg/CompressedImage", row.ns, picture


def plain_messages(frame, stamps):
    for row in frame.itertuples():
        stamp = {"sec": int(stamps[row.Index] // 10**9), "nsec": int(stamps[row.Index] % 10**9)}
        parts = {
            field: {axis: getattr(row, f"{short}_{axis}") for axis in "xyz"}
            for field, short in [("linear_acceleration", "acc"), ("angular_velocity", "gyro")]
        }
        yield "/imu", row.ns, {"timestamp": stamp, **parts}
        if row.Index % 10 == 0:
            yield "/speed", row.ns, {"data": row.gps_speed_mps}


def write_bag(path, frame, stamps, compression=None):
    store, bag = ROS["bag"], Bag1Writer(path)
    if compression:
        bag.set_compression(Bag1Writer.CompressionFormat[compression])
    fill(bag, store, store.serialize_ros1, frame, stamps)


def write_folder(path, frame, stamps, storage=StoragePlugin.SQLITE3, compression=None):
    store, bag = ROS["ros2"], Bag2Writer(path, version=9, storage_plugin=storage)
    if compression:
        bag.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    fill(bag, store, store.serialize_cdr, frame, stamps)


def fill(bag, store, serialize, frame, stamps):
    with bag:
        connections = {}
        for topic, kind, log_ns, message in ros_messages(store, frame, stamps):
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=store)
            bag.write(connections[topic], log_ns, serialize(message, kind))


def write_split(path, frame, stamps):
    """One ROS 2 bag in two files."""
    write_folder(path, frame[:170], stamps)
    write_folder(path.with_name("rest"), frame[170:].reset_index(drop=True), stamps[170:])
    (path.with_name("rest") / "rest.db3").rename(path / "rest.db3")
    text, name = (path / "metadata.yaml").read_text(), f"{path.name}.db3"
    text = text.replace(f"  - {name}\n", f"  - {name}\n  - rest.db3\n", 1)
    counts = re.finditer(r"message_count: (\d+)", (path.with_name("rest") / "metadata.yaml").read_text())
    text = re.sub(r"message_count: (\d+)", lambda found: f"message_count: {int(found[1]) + int(next(counts)[1])}", text)
    (path / "metadata.yaml").write_text(text)


@contextmanager
def mcap(path, **options):
    """The writer of an MCAP file, which is complete after the block."""
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start()
        yield writer
        writer.finish()


def write_ros_mcap(path, frame, stamps, ros1=False):
    store = ROS["bag" if ros1 else "ros2"]
    serialize, words = (
        (store.serialize_ros1, ("ros1msg", "ros1")) if ros1 else (store.serialize_cdr, ("ros2msg", "cdr"))
    )
    channels = {}
    with mcap(path, chunk_size=4096) as writer:
        for topic, kind, log_ns, message in ros_messages(store, frame, stamps):
            if topic not in channels:
                text, _ = store.generate_msgdef(kind, ros_version=1 if ros1 else 2)
                schema = writer.register_schema(kind, words[0], text.encode())
                channels[topic] = writer.register_channel(topic, words[1], schema)
            writer.add_message(channels[topic], log_ns, bytes(serialize(message, kind)), log_ns)


def write_json(path, frame, stamps, **options):
    with mcap(path, **{"chunk_size": 4096, **options}) as writer:
        schema = writer.register_schema("Imu", "jsonschema", b'{"type": "object"}')
        channels = {"/imu": writer.register_channel("/imu", "json", schema)}
        channels["/speed"] = writer.register_channel("/speed", "json", 0)  # without a schema
        for topic, log_ns, message in plain_messages(frame, stamps):
            writer.add_message(channels[topic], log_ns, json.dumps(message).encode(), log_ns)


def protobuf_kinds():
    file = descriptor_pb2.FileDescriptorProto(name="drive.proto", package="drive", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in [
        ("Vector", [(axis, kinds.TYPE_DOUBLE, "") for axis in "xyz"]),
        ("Speed", [("data", kinds.TYPE_DOUBLE, "")]),
        ("Imu", [("timestamp", kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
                 ("linear_acceleration", kinds.TYPE_MESSAGE, ".drive.Vector"),
                 ("angular_velocity", kinds.TYPE_MESSAGE, ".drive.Vector"),
                 ("absent", kinds.TYPE_MESSAGE, ".drive.Vector")]),
    ]:  # fmt: skip
        message = file.message_type.add(name=name)
        for number, (field, kind, type_name) in enumerate(fields, 1):
            message.field.add(name=field, number=number, type=kind, type_name=type_name or None, label=1)
    pool = descriptor_pool.DescriptorPool()
    timestamp_file = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp_file)
    pool.Add(timestamp_file)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"drive.{name}")) for name in ("Imu", "Speed")
    }


def write_protobuf(path, frame, stamps):
    kinds = protobuf_kinds()
    with path.open("wb") as file, ProtobufWriter(file, chunk_size=4096) as writer:
        for topic, log_ns, message in plain_messages(frame, stamps):
            made = kinds["Imu" if topic == "/imu" else "Speed"]()
            if topic == "/speed":
                made.data = message["data"]
            else:
                made.timestamp.seconds, made.timestamp.nanos = message["timestamp"]["sec"], message["timestamp"]["nsec"]
                for field in ("linear_acceleration", "angular_velocity"):
                    for axis in "xyz":
                        setattr(getattr(made, field), axis, message[field][axis])
            writer.write_message(topic, made, log_ns, log_ns)


FORMATS = {
    "json.mcap": write_json,
    "unchunked.mcap": lambda *args: write_json(*args, use_chunking=False),
    "lz4.mcap": lambda *args: write_json(*args, compression=CompressionType.LZ4),
    "noindex.mcap": lambda *args: write_json(
        *args, use_summary_offsets=False, use_statistics=False, index_types=IndexType.NONE
    ),
    "protobuf.mcap": write_protobuf,
    "cdr.mcap": write_ros_mcap,
    "ros1.mcap": lambda *args: write_ros_mcap(*args, ros1=True),
    "drive.bag": write_bag,
    "folder": write_folder,
    "mcap_folder": lambda *args: write_folder(*args, storage=StoragePlugin.MCAP),
    "bz2.bag": lambda *args: write_bag(*args, compression="BZ2"),
    "lz4.bag": lambda *args: write_bag(*args, compression="LZ4"),
    "packed_files": lambda *args: write_folder(*args, compression="FILE"),
    "packed_messages": lambda *args: write_folder(*args, compression="MESSAGE"),
    "packed_mcap": lambda *args: write_folder(*args, storage=StoragePlugin.MCAP, compression="FILE"),
    "split": write_split,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, drive):
    """Every format, written with its own library; messages are stamped 20 ms before they were logged."""
    folder = tmp_path_factory.mktemp("topics")
    for name, write in FORMATS.items():
        write(folder / name, drive, drive["ns"].to_numpy() - 20_000_000)
    return {**{name: folder / name for name in FORMATS}, "file.db3": folder / "folder" / "folder.db3"}


@pytest.mark.parametrize("name", [*FORMATS, "file.db3"])
def test_written_messages_come_back_bit_for_bit(files, drive, name):
    log = read_log(files[name])
    assert log.recording == files[name].stem
    assert log.start == pd.Timestamp(UNIX_NS, unit="ns", tz="UTC")
    seconds = (drive["ns"].to_numpy() - UNIX_NS - 20_000_000) / 1e9
    for field, column in AXES:
        signal = log[f"/imu.{field}"]
        np.testing.assert_array_equal(signal.time_s, seconds)
        np.testing.assert_array_equal(signal.values, drive[column])
        assert (signal.source, signal.time_s is log["/imu.linear_acceleration.x"].time_s) == ("/imu", True)
    np.testing.assert_array_equal(log["/speed.data"].values, drive["gps_speed_mps"][::10])
    np.testing.assert_array_equal(
        log["/speed.data"].time_s, (drive["ns"][::10] - UNIX_NS) / 1e9
    )  # as logged: unstamped
    assert "the time of the message" in log.left_out.values()
    assert not [found for found in log.signals if "stamp" in found or "absent" in found]


def test_lists_have_an_index_and_pictures_are_left_out(files):
    log = read_log(files["drive.bag"])
    assert log["/imu.orientation_covariance[8]"].values.tolist() == [8.0] * 300
    assert log.left_out["/camera.data"] == "lists of more than 64 values"
    with pytest.raises(ValueError, match=r"Signal '/camera\.data'.* holds lists of more than 64 values"):
        read_log(files["drive.bag"], signals=["/camera.data"])


@pytest.mark.parametrize("name", ["json.mcap", "unchunked.mcap", "protobuf.mcap", "drive.bag", "folder"])
def test_only_what_is_asked_for_is_read_and_an_unknown_name_is_refused(files, name):
    wanted = ["/imu.angular_velocity.z", "/speed.data"]
    part, whole = read_log(files[name], signals=wanted), read_log(files[name])
    assert sorted(part.signals) == wanted
    for signal in wanted:
        assert part[signal].values.tobytes() == whole[signal].values.tobytes()
        assert part[signal].time_s.tobytes() == whole[signal].time_s.tobytes()
    for unknown, near in [("/imu.angular_velocity.w", "/imu.angular_velocity."), ("/sped.data", "/speed.data")]:
        with pytest.raises(ValueError, match=f"signal '{unknown}'.*Did you mean '{near}"):
            read_log(files[name], signals=[unknown])


@pytest.mark.parametrize("name", ["json.mcap", "noindex.mcap", "cdr.mcap", "drive.bag", "split", "file.db3"])
@pytest.mark.parametrize("messages", [7, 150])
def test_pieces_give_the_windows_of_the_whole(files, monkeypatch, name, messages):
    signals = ("/imu.linear_acceleration.x", "/speed.data")
    recipe = WindowRecipe(signals, 10, length_s=2, stride_s=0.5, max_gap_s=1.2)
    whole = recipe.windows(read_log(files[name], signals=signals))
    monkeypatch.setattr(topics, "_PIECE", messages)
    batches = list(stream_windows(files[name], recipe, rows=10, timeout_s=math.inf))
    assert len(whole) > 40
    assert np.concatenate([batch.rows for batch in batches]).tobytes() == whole.rows.to_numpy().tobytes()
    pd.testing.assert_frame_equal(
        pd.concat([s.spans for s in batches], ignore_index=True), whole.spans, check_exact=True
    )


def test_a_piece_holds_no_sample_older_than_one_before_it(files, monkeypatch):
    monkeypatch.setattr(topics, "_PIECE", 20)
    pieces = [log for log in topics.topic_pieces(files["cdr.mcap"], None) if log.signals]
    assert len(pieces) > 5
    ends = [max(signal.time_s[-1] for signal in log.signals.values()) for log in pieces]
    begins = [min(signal.time_s[0] for signal in log.signals.values()) for log in pieces]
    assert all(begin > end for begin, end in zip(begins[1:], ends[:-1], strict=True))


def test_signals_are_listed(files):
    table = list_signals(files["folder"]).set_index("signal")
    assert table.loc["/speed.data", ["samples", "source"]].tolist() == [30, "/speed"]
    assert table.loc["/imu.linear_acceleration.x", "rate_hz"] == pytest.approx(10, rel=0.01)


def write_messages(path, messages, **options):
    """Write messages, each a topic, its log time, and an object or bytes of JSON."""
    with mcap(path, chunk_size=100, **options) as writer:
        channel = {topic: writer.register_channel(topic, "json", 0) for topic, _, _ in messages}
        for topic, log_ns, message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            writer.add_message(channel[topic], log_ns, data, log_ns)
    return path


def stamped(seconds, x):
    return {"header": {"stamp": {"sec": int(seconds), "nanosec": round(seconds % 1 * 1e9)}}, "x": x}


def test_a_stamp_counts_where_it_is_set_and_of_the_same_clock(tmp_path):
    logged = [100.0, 101.0, 102.0, 103.0, 104.0]
    stamps = [99.5, 0.0, 90.0, 5000.0, 103.5]
    messages = [("/a", int(log * 1e9), stamped(stamp, log)) for log, stamp in zip(logged, stamps, strict=True)]
    log = read_log(write_messages(tmp_path / "drive.mcap", messages))
    assert log.start is None  # the log times are no unix times
    assert log["/a.x"].time_s.tolist() == [99.5, 101.0, 102.0, 103.0, 103.5]
    assert log["/a.x"].values.tolist() == [100.0, 101.0, 102.0, 103.0, 104.0]


def test_samples_are_sorted_by_their_stamps_and_those_of_one_stamp_are_one(tmp_path):
    messages = [("/a", int(log * 1e9), stamped(stamp, x)) for log, stamp, x in
                [(100, 99.5, 1.0), (101, 99.0, 2.0), (102, 101.5, 3.0), (103, 101.5, 5.0)]]  # fmt: skip
    messages[3][2]["y"] = True
    path = write_messages(tmp_path / "drive.mcap", messages)
    with pytest.warns(UserWarning, match=r"^1 samples in .*drive.mcap are means of .* with one stamp: /a.x 1\. Record"):
        log = read_log(path)
    assert log["/a.x"].time_s.tolist() == [99.0, 99.5, 101.5]
    assert log["/a.x"].values.tolist() == [2.0, 1.0, 4.0]
    np.testing.assert_array_equal(log["/a.y"].values, [np.nan, np.nan, 1.0])


def test_what_json_may_hold(tmp_path):
    message = {
        "on": True,
        "gone": None,
        "text": "P",
        "list": [1, 2.5],
        "objects": [{"x": 1}],
        "deep": {"a.b": {"c": 3}},
    }
    messages = [("/a", 10**9, message), ("/b/c", 2 * 10**9, 7.5), ("/a", 3 * 10**9, {"list": [4]})]
    log = read_log(write_messages(tmp_path / "drive.mcap", messages))
    assert sorted(log.signals) == ["/a.deep.a.b.c", "/a.list[0]", "/a.list[1]", "/a.on", "/b/c"]
    np.testing.assert_array_equal(log["/a.list[1]"].values, [2.5, np.nan])
    assert log.left_out == {"/a.text": "text", "/a.objects": "lists of something other than numbers"}
    assert read_log(tmp_path / "drive.mcap", signals=["/a.deep.a.b.c"])["/a.deep.a.b.c"].values[0] == 3.0


def test_a_topic_in_an_unknown_encoding_is_left_out(tmp_path):
    path = tmp_path / "drive.mcap"
    with mcap(path) as writer:
        schema = writer.register_schema("Scan", "flatbuffer", b"")
        writer.add_message(writer.register_channel("/scan", "flatbuffer", schema), 1, b"??", 1)
        writer.add_message(writer.register_channel("/a", "json", 0), 1, b'{"x": 1}', 1)
    log = read_log(path)
    assert (list(log.signals), log.left_out) == (
        ["/a.x"],
        {"/scan": "messages in 'flatbuffer', described in 'flatbuffer'"},
    )
    with pytest.raises(ValueError, match=r"Signal '/scan\.x'.* holds messages in 'flatbuffer'"):
        read_log(path, signals=["/scan.x"])


def test_a_bag_without_definitions_is_read_with_those_of_ros(tmp_path, drive):
    store = get_typestore(Stores.LATEST)
    store.register(get_types_from_msg("float64 x", "own_msgs/msg/Own"))
    with Bag2Writer(tmp_path / "bag", version=9) as bag:
        known = bag.add_connection("/speed", "std_msgs/msg/Float64", typestore=store)
        own = bag.add_connection("/own", "own_msgs/msg/Own", typestore=store)
        bag.write(known, 5, store.serialize_cdr(store.types["std_msgs/msg/Float64"](2.5), "std_msgs/msg/Float64"))
        bag.write(own, 5, store.serialize_cdr(store.types["own_msgs/msg/Own"](2.5), "own_msgs/msg/Own"))
    with sqlite3.connect(tmp_path / "bag" / "bag.db3") as base:
        base.execute("DELETE FROM message_definitions")
    base.close()
    log = read_log(tmp_path / "bag")
    assert log["/speed.data"].values.tolist() == [2.5]
    assert log.left_out == {"/own": "messages of type own_msgs/msg/Own, which the file does not define"}


def test_mcap_messages_without_a_definition_are_read_with_those_of_ros(tmp_path):
    store = get_typestore(Stores.LATEST)
    with mcap(tmp_path / "drive.mcap") as writer:
        for topic, kind in [("/speed", "std_msgs/msg/Float64"), ("/own", "own_msgs/msg/Own")]:
            channel = writer.register_channel(topic, "cdr", writer.register_schema(kind, "", b""))
            data = bytes(store.serialize_cdr(store.types["std_msgs/msg/Float64"](2.5), "std_msgs/msg/Float64"))
            writer.add_message(channel, 5, data, 5)
    log = read_log(tmp_path / "drive.mcap")
    assert log["/speed.data"].values.tolist() == [2.5]
    assert log.left_out == {"/own": "messages in 'cdr', described in ''"}


@pytest.mark.parametrize("name", ["json.mcap", "unchunked.mcap", "cdr.mcap"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_an_mcap_file_whose_recorder_was_killed_is_read_as_far_as_it_goes(files, tmp_path, name, share):
    content = files[name].read_bytes()
    path = tmp_path / "drive.mcap"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.warns(UserWarning, match=r"drive\.mcap has no end.*read as far as it goes, \d+ messages"):
        log = read_log(path)
    whole = read_log(files[name])
    signal, full = log["/imu.linear_acceleration.x"], whole["/imu.linear_acceleration.x"]
    assert 20 < len(signal.values) <= 300
    np.testing.assert_array_equal(signal.values, full.values[: len(signal.values)])
    np.testing.assert_array_equal(signal.time_s, full.time_s[: len(signal.values)])
    assert log.start == whole.start


def test_other_files_are_refused(files, tmp_path):
    for suffix in (".mcap", ".bag", ".db3"):
        path = tmp_path / f"drive{suffix}"
        for content in (b"", b"time_s,x\n0,1\n", files["json.mcap"].read_bytes()[:40], bytes(500)):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"drive\{suffix} cannot be read as .*Repair the file"):
                read_log(path)
    with pytest.raises(ValueError, match=r"json\.mcap has time stamps of its own"):
        read_log(files["json.mcap"], time="t")
    with pytest.raises(ValueError, match=r"json\.mcap describes its messages"):
        read_log(files["json.mcap"], databases=["car.dbc"])
    with pytest.raises(IsADirectoryError, match=r"is a folder; a recording is one file"):
        read_log(tmp_path)


def test_a_part_of_a_bag_that_only_the_folder_explains_is_refused_with_its_name(files, tmp_path, drive):
    with pytest.raises(ValueError, match=r"packed_messages.db3 cannot be read .* Pass the folder .*messages, "):
        read_log(files["packed_messages"] / "packed_messages.db3")
    with pytest.raises(
        ValueError, match=r"'packed_files.db3.zstd' is a compressed file, .* pass the folder of the ROS"
    ):
        read_log(files["packed_files"] / "packed_files.db3.zstd")
    part = read_log(files["split"] / "rest.db3")["/imu.linear_acceleration.x"]
    np.testing.assert_array_equal(part.values, drive["acc_x"][170:])
    write_split(tmp_path / "drive", drive, drive["ns"].to_numpy())
    (tmp_path / "drive" / "rest.db3").unlink()
    with pytest.raises(ValueError, match=r"drive cannot be read as a ROS bag \(Some database files are missing"):
        read_log(tmp_path / "drive")


def test_unpacked_files_are_removed(tmp_path, monkeypatch, drive):
    write_folder(tmp_path / "drive", drive, drive["ns"].to_numpy(), compression="FILE")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    read_log(tmp_path / "drive", timeout_s=math.inf)
    pieces = topics.topic_pieces(tmp_path / "drive", None)
    next(pieces)
    pieces.close()
    packed = tmp_path / "drive" / "drive.db3.zstd"
    content = packed.read_bytes()
    for share in (0.2, 0.9):
        packed.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"drive cannot be read as a ROS bag .* Repair the file"):
            read_log(tmp_path / "drive", timeout_s=math.inf)
    assert list(scratch.iterdir()) == []


def test_log_times_that_jump_back_are_refused_where_no_index_sorts_them(tmp_path):
    path = tmp_path / "drive.mcap"
    messages = [("/a", second * 10**9, {"x": second}) for second in (100, 101, 102, 80, 103)]
    for chunked in (True, False):
        write_messages(path, messages, use_chunking=chunked)
        if chunked:
            assert read_log(path)["/a.x"].values.tolist() == [80, 100, 101, 102, 103]
        else:
            with pytest.raises(ValueError, match=r"a message of /a that was logged 22 s before one ahead of it"):
                read_log(path)


@pytest.mark.parametrize(
    "name",
    ["json.mcap", "unchunked.mcap", "protobuf.mcap", "cdr.mcap", "drive.bag", "bz2.bag", "lz4.bag", "file.db3"],
)
@pytest.mark.parametrize("turns", [9, pytest.param(60, marks=pytest.mark.slow)])
def test_a_damaged_file_gives_a_log_or_an_error_that_names_it(tmp_path, drive, files, name, turns):
    rng = np.random.default_rng(0)
    small = tmp_path / f"small_{name}"
    if name == "file.db3":
        write_folder(tmp_path / "bag", drive[:40], drive["ns"].to_numpy())
        small = tmp_path / "bag" / "bag.db3"
    else:
        FORMATS[name](small, drive[:40], drive["ns"].to_numpy())
    content = np.frombuffer(small.read_bytes(), np.uint8)
    truth = read_log(small)
    path = tmp_path / f"drive{small.suffix}"
    complaints = []
    for turn in range(turns):
        damaged = content.copy()
        if turn % 3 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            places = rng.integers(0, len(damaged), rng.integers(1, 5))
            damaged[places] = (
                rng.choice([0, 255, 127, 1], len(places)) if turn % 3 == 1 else rng.integers(0, 256, len(places))
            )
        path.write_bytes(damaged.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                log = read_log(path)
        except ValueError as error:
            complaints.append(str(error))
        else:
            for signal in log.signals.values():
                assert len(signal.time_s) == len(signal.values)
                assert (np.diff(signal.time_s) > 0).all()
            if name in ("json.mcap", "protobuf.mcap", "cdr.mcap"):  # chunks carry a checksum: no number is wrong
                for known, signal in log.signals.items():
                    np.testing.assert_array_equal(signal.values, truth[known].values[: len(signal.values)])
    assert len(complaints) > turns / 6
    assert all(str(path) in complaint for complaint in complaints)


def test_the_suffixes_are_known():
    assert {".mcap", ".bag", ".db3"} <= set(READERS)


# Fields that share a name, and fields that hold numbers only at times


def write_objects(path, *messages):
    """Write messages, each a topic and an object or bytes of JSON, every 0.1 s."""
    return write_messages(path, [(topic, place * 10**8, message) for place, (topic, message) in enumerate(messages)])


@pytest.mark.parametrize(
    "messages",
    [
        [("/imu", {"a.b": 1, "a": {"b": 2}, "ok": 3})] * 2,
        [("/imu", {"a.b": 1, "ok": 3}), ("/imu", {"a": {"b": 2}, "ok": 3})],
        [("/imu", {"a": [1, 2], "a[0]": 3, "ok": 3})] * 2,
        [("/imu", {"a": {"b": 1}, "ok": 3}), ("/imu", {"ok": 3}), ("/imu.a", {"b": 2})],
    ],
    ids=["nested and dotted", "in turn", "list", "topics"],
)
def test_two_fields_with_one_name_are_left_out_by_name(tmp_path, messages, monkeypatch):
    path = write_objects(tmp_path / "drive.mcap", *messages)
    name = "/imu.a[0]" if "a[0]" in messages[0][1] else "/imu.a.b"
    monkeypatch.setattr(topics, "_PIECE", 1)
    with pytest.warns(
        UserWarning, match=r"'/imu.a.* is the name of two fields, .* > .* and .* > .*; both are left out"
    ):
        log = read_log(path)
    assert name in log.left_out
    assert name not in log.signals
    assert log["/imu.ok"].values.tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"holds the name of two fields"):
        read_log(path, signals=[name])


def test_text_among_numbers_is_missing_and_counted(tmp_path, monkeypatch):
    odd = [{"x": "init", "y": 1, "l": [1, 2]}, {"x": 5, "y": "?", "l": [1]}, {"x": 6, "y": {"z": 7}, "l": [1] * 65}]
    path = write_objects(tmp_path / "drive.mcap", *(("/t", message) for message in odd))
    for piece in (20_000, 1):
        monkeypatch.setattr(topics, "_PIECE", piece)
        with pytest.warns(
            UserWarning, match=r"3 fields of .*: /t.x \(1 times text\), /t.y \(1 times text\), /t.l \(1 ti"
        ):
            log = read_log(path)
        assert not log.left_out
        assert {name: signal.values[np.isfinite(signal.values)].tolist() for name, signal in log.signals.items()} == {
            "/t.x": [5, 6],
            "/t.y": [1],
            "/t.y.z": [7],
            "/t.l[0]": [1, 1],
            "/t.l[1]": [2],
        }


def test_a_key_that_comes_twice_is_refused_and_huge_integers_are_infinite(tmp_path):
    path = write_objects(tmp_path / "drive.mcap", ("/t", b'{"a": 1, "b": {"c": 1, "c": 2}}'))
    with pytest.raises(ValueError, match=r"drive.mcap cannot be read as MCAP \(the key 'c' occurs twice\)"):
        read_log(path)
    path = write_objects(tmp_path / "drive.mcap", ("/t", b'{"a": 1' + b"0" * 400 + b"}"))
    assert read_log(path)["/t.a"].values.tolist() == [np.inf]
