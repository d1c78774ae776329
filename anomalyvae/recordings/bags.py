"""MCAP files and ROS bags: messages on topics, in order of the time at which they were logged.

The rules are in :mod:`anomalyvae.recordings.topics`.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from anomalyvae.lazy import not_installed
from anomalyvae.recordings.redundancy import check_bag, check_files, wrong_in_summary
from anomalyvae.untrusted import distinct

if TYPE_CHECKING:
    from mcap.summary import Summary

Decode = Callable[[bytes], Any]


class Raw(NamedTuple):
    """A message as the file stores it."""

    topic: str
    log_ns: int
    data: bytes
    decode: Decode | str  # text: why the topic cannot be read


class Source(Protocol):
    """An open file: its first log time, and its messages, in order of log time if the file has an index."""

    start_ns: int
    topics: list[str] | None  # None if only reading the whole file would show them

    def messages(self, wanted: Callable[[str], bool]) -> Iterator[Raw]:
        """Yield the messages of the topics that are wanted."""

    def close(self) -> None:
        """Close the file."""


def open_topics(path: Path) -> Source:
    """Open an MCAP file or a ROS bag; ValueError if it is damaged or empty."""
    try:
        return _Mcap(path) if path.suffix.lower() == ".mcap" else _Bag(path)
    except ModuleNotFoundError as error:
        raise not_installed(error, "reading MCAP files and ROS bags", "anomalyvae[logs]") from error
    except Exception as error:  # the libraries raise errors of any type
        raise _broken(path, error) from error


def decoded(source: Source, path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[Raw, Any]]:
    """Yield messages with their decoded content, None if they cannot be read; ValueError if the file is damaged."""
    try:
        for raw in source.messages(wanted):
            yield raw, (None if isinstance(raw.decode, str) else raw.decode(raw.data))
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ValueError:
    kind = "MCAP" if path.suffix.lower() == ".mcap" else "a ROS bag"
    advice = "Repair the file, or copy it again."
    if (path.parent / "metadata.yaml").is_file():  # it describes compression, which the files of a bag do not
        advice = f"Pass the folder {path.parent}, the bag that it belongs to; if that fails too, repair the file."
    return ValueError(f"{path} cannot be read as {kind} ({str(error) or type(error).__name__}). {advice}")


class _Mcap:
    """An MCAP file, in order of log time if it has an index that fits its records, otherwise as it was written."""

    def __init__(self, path: Path) -> None:
        from mcap.reader import SeekingReader

        self._path, self._file, self._size = path, path.open("rb"), path.stat().st_size
        self._decoders: dict[int, Decode | str] = {}
        self._known: dict[tuple[str, int], Any] = {}  # schemas and channels by their numbers
        self._promised: dict[int, int] = {}  # messages by channel, as the statistics count them
        self._chunks: list[Any] = []  # of the index; empty if it is not used
        self.topics: list[str] | None = None
        self.start_ns = -1
        try:
            reader = SeekingReader(self._file, validate_crcs=True, record_size_limit=self._size)
            self._cut = not self._has_end()
            summary = None if self._cut else reader.get_summary()
            if summary is not None:
                self._use(summary)
            if self.start_ns < 0:
                self.start_ns = next((raw.log_ns for raw in self.messages(lambda topic: True)), 0)
        except Exception:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def messages(self, wanted: Callable[[str], bool]) -> Iterator[Raw]:
        counts: Counter[int] = Counter()
        for message in self._indexed_records(wanted) if self._chunks else self._records():
            channel = self._get("Channel", message.channel_id)
            if wanted(channel.topic):
                counts[channel.id] += 1
                if channel.id not in self._decoders:
                    schema = self._get("Schema", channel.schema_id) if channel.schema_id else None
                    self._decoders[channel.id] = _decoder(channel.message_encoding, schema)
                yield Raw(channel.topic, message.log_time, message.data, self._decoders[channel.id])
        for key in self._promised and self._promised.keys() | counts.keys():
            topic, count, promised = self._get("Channel", key).topic, counts[key], self._promised.get(key, 0)
            if wanted(topic) and count != promised:
                raise ValueError(f"it has {count:,} messages of {topic}, and its statistics count {promised:,}")

    def _has_end(self) -> bool:
        """Return whether the file has its last record; refuse a file whose index does not match its checksum."""
        tail = struct.Struct("<BQQQI8s")  # the footer: code, length, where summary and offsets begin, checksum, magic
        self._file.seek(max(self._size - tail.size, 0))
        end = self._file.read()
        if len(end) < tail.size or end[-8:] != b"\x89MCAP0\r\n":
            return False
        _, _, summary, _, checksum, _ = tail.unpack(end)
        if summary and checksum:
            self._file.seek(summary)
            if zlib.crc32(self._file.read()[:-12]) != checksum:
                raise ValueError("its index has the wrong checksum")
        return True

    def _use(self, summary: Summary) -> None:
        """Use the index, if it fits the records and names all channels."""
        counted = summary.statistics
        wrong = wrong_in_summary(self._file, summary) if summary.chunk_indexes else ""
        if wrong:
            warnings.warn(
                f"The index of {self._path} does not fit its records: {wrong}. The file is read without its index. To "
                f"repair it, run: mcap recover.",
                stacklevel=2,
            )
            return
        self._promised = counted.channel_message_counts if counted else {}
        used = {key for chunk in summary.chunk_indexes for key in chunk.message_index_offsets} | {*self._promised}
        schemas = {channel.schema_id for channel in summary.channels.values()} - {0}
        known = bool(summary.channels) and used <= {*summary.channels} and schemas <= {*summary.schemas}
        if not (summary.chunk_indexes and known):
            return
        for record in (*summary.schemas.values(), *summary.channels.values()):
            self._learn(record)
        self._chunks = summary.chunk_indexes
        self.topics = sorted({channel.topic for channel in summary.channels.values()})
        self.start_ns = counted.message_start_time if counted else -1

    def _learn(self, record: Any) -> None:
        """Keep a schema or a channel; refuse another one with its number."""
        kind = type(record).__name__
        known = self._known.setdefault((kind, record.id), record)
        if known != record:
            raise ValueError(
                f"its {kind.lower()} {record.id} is {str(known)[:150]} in one place, {str(record)[:150]} in another"
            )

    def _get(self, kind: str, key: int) -> Any:
        if (kind, key) not in self._known:
            raise ValueError(f"it has no {kind.lower()} {key}")
        return self._known[kind, key]

    def _indexed_records(self, wanted: Callable[[str], bool]) -> Iterator[Any]:
        """Yield the messages that are wanted in order of log time; a chunk is read when its first one is next."""
        from mcap.data_stream import ReadDataStream
        from mcap.records import Chunk, Message
        from mcap.stream_reader import breakup_chunk

        queue: list[tuple[int, int, int, Any]] = []  # chunks and messages: time, offset, number in the chunk, message
        for index in self._chunks:
            keys = index.message_index_offsets
            if not keys or any(wanted(self._get("Channel", key).topic) for key in keys):
                queue.append((index.message_start_time, index.chunk_start_offset, -1, None))
        heapify(queue)
        while queue:
            _, offset, _, message = heappop(queue)
            if message is not None:
                yield message
                continue
            self._file.seek(offset + 9)
            chunk = Chunk.read(ReadDataStream(self._file))
            records = breakup_chunk(chunk, validate_crc=True)
            times = [record.log_time for record in records if isinstance(record, Message)]
            if times and (min(times), max(times)) != (chunk.message_start_time, chunk.message_end_time):
                raise ValueError("a chunk has messages of other times than its header says")
            for number, record in enumerate(records):
                if not isinstance(record, Message):
                    self._learn(record)
                elif wanted(self._get("Channel", record.channel_id).topic):
                    heappush(queue, (record.log_time, offset, number, record))

    def _records(self) -> Iterator[Any]:
        from mcap.records import Channel, Message, Schema
        from mcap.stream_reader import StreamReader

        self._file.seek(0)
        count = 0
        try:
            for record in StreamReader(self._file, validate_crcs=True, record_size_limit=self._size).records:
                if isinstance(record, Message):
                    count += 1
                    yield record
                elif isinstance(record, (Schema, Channel)):
                    self._learn(record)
        except Exception:
            if not (self._cut and count):
                raise
        if self._cut:
            warnings.warn(
                f"{self._path} has no end; its recorder was probably killed. It is read as far as it goes, {count:,} "
                f"messages. To repair it, run: mcap recover.",
                stacklevel=2,
            )


class _Bag:
    """A ROS 1 bag, or a ROS 2 bag: its folder, or one of its database files."""

    def __init__(self, path: Path) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.rosbag1 import Reader as Rosbag1Reader
        from rosbags.rosbag2.storage_mcap import McapReader
        from rosbags.typesys import Stores, get_typestore

        # Before Iron, ROS 2 bags had no definitions of messages; those that come with ROS are known.
        self._reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        self._reader.open()
        self._parts: list[_Mcap] = []  # of a bag in MCAP files
        bag: Any = self._reader.readers[0]
        try:
            if isinstance(bag, Rosbag1Reader):
                check_bag(bag, path)
                self._connections = bag.connections
                starts = [one.time for entries in bag.indexes.values() for one in entries]
            else:
                files = check_files(bag.storage, path)
                self._connections = [connection for file in files for connection in file.connections]
                starts = [file.metadata.start_time for file in files if file.metadata.message_count]
                if isinstance(files[0], McapReader):
                    self._parts = [_Mcap(file.path) for file in files]
                    self._zstd = bag.compression_mode == "message"
        except Exception:
            self.close()
            raise
        self.topics: list[str] | None = sorted({connection.topic for connection in self._connections})
        self.start_ns = min(starts, default=0)  # of the messages: a damaged start would shift all times

    def close(self) -> None:
        for part in self._parts:
            part.close()
        self._reader.close()

    def messages(self, wanted: Callable[[str], bool]) -> Iterator[Raw]:
        for part in self._parts:
            for raw in part.messages(wanted):
                yield raw._replace(data=_unpacked(raw.data)) if self._zstd else raw
        connections = [connection for connection in self._connections if wanted(connection.topic)]
        if self._parts or not connections:  # an empty list means all
            return
        decoders = {kind: self._decoder(kind) for kind in {connection.msgtype for connection in connections}}
        for connection, log_ns, data in self._reader.readers[0].messages(connections):
            yield Raw(connection.topic, log_ns, data, decoders[connection.msgtype])

    def _decoder(self, kind: str) -> Decode | str:
        if kind not in self._reader.typestore.fielddefs:
            return f"messages of type {kind}, which the file does not define"
        if len({connection.digest for connection in self._connections if connection.msgtype == kind} - {""}) > 1:
            return f"messages of type {kind}, which the file defines in several ways"
        return lambda data: self._reader.deserialize(data, kind)


def _unpacked(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _decoder(encoding: str, schema: Any) -> Decode | str:
    """Return the decoder of the messages of an MCAP topic, or why there is no decoder."""
    described = schema.encoding if schema is not None else ""
    if encoding == "json":
        return partial(json.loads, object_pairs_hook=distinct)
    if encoding == "protobuf" and described == "protobuf":
        from mcap_protobuf.decoder import DecoderFactory

        return DecoderFactory().decoder_for(encoding, schema) or "messages without a description"
    if (encoding, described) in (("cdr", "ros2msg"), ("cdr", "ros2idl"), ("ros1", "ros1msg")):
        from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
        from rosbags.typesys.msg import normalize_msgtype

        kind, text = normalize_msgtype(schema.name), schema.data.decode()
        store = get_typestore(Stores.EMPTY)
        if described == "ros2idl":
            for part in re.split(r"^=+\n(?:IDL: .*\n)?", text, flags=re.MULTILINE):
                store.register(get_types_from_idl(part))
        else:
            store.register(get_types_from_msg(text, kind))
        deserialize = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr
        return lambda data: deserialize(data, kind)
    if encoding == "cdr" and schema is not None and not described:  # the recorder found no definition
        from rosbags.typesys import Stores, get_typestore

        known = get_typestore(Stores.LATEST)
        if schema.name in known.fielddefs:
            return lambda data: known.deserialize_cdr(data, schema.name)
    return f"messages in {encoding!r}, described in {described!r}"
