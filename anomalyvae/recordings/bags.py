"""MCAP files and ROS bags: messages on topics, in order of the time at which they were logged.

The rules are in :mod:`anomalyvae.recordings.topics`.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from anomalyvae.recordings.redundancy import check_bag

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
        raise ImportError(
            f"{error.name} is not installed; it reads MCAP files and ROS bags. Run: pip install 'anomalyvae[logs]'."
        ) from error
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
    """An MCAP file, in order of log time if it has an index, otherwise as it was written."""

    def __init__(self, path: Path) -> None:
        from mcap.reader import SeekingReader

        size = path.stat().st_size
        self._path, self._file = path, path.open("rb")
        self._decoders: dict[int, Decode | str] = {}
        self.topics: list[str] | None = None
        self.start_ns, self._indexed = -1, False
        try:
            self._reader = SeekingReader(self._file, validate_crcs=True, record_size_limit=size)
            self._cut = not self._has_end(size)
            summary = None if self._cut else self._reader.get_summary()
            if summary is not None and summary.chunk_indexes:
                self._indexed, self.topics = True, sorted({channel.topic for channel in summary.channels.values()})
                self.start_ns = summary.statistics.message_start_time if summary.statistics else -1
            if self.start_ns < 0:
                self.start_ns = next((raw.log_ns for raw in self.messages(lambda topic: True)), 0)
        except Exception:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def messages(self, wanted: Callable[[str], bool]) -> Iterator[Raw]:
        for schema, channel, message in self._indexed_records(wanted) if self._indexed else self._records():
            if wanted(channel.topic):
                if channel.id not in self._decoders:
                    self._decoders[channel.id] = _decoder(channel.message_encoding, schema)
                yield Raw(channel.topic, message.log_time, message.data, self._decoders[channel.id])

    def _has_end(self, size: int) -> bool:
        """Return whether the file has its last record; refuse a file whose index does not match its checksum."""
        tail = struct.Struct("<BQQQI8s")  # the footer: code, length, where summary and offsets begin, checksum, magic
        self._file.seek(max(size - tail.size, 0))
        end = self._file.read()
        if len(end) < tail.size or end[-8:] != b"\x89MCAP0\r\n":
            return False
        _, _, summary, _, checksum, _ = tail.unpack(end)
        if summary and checksum:
            self._file.seek(summary)
            if zlib.crc32(self._file.read()[:-12]) != checksum:
                raise ValueError("its index has the wrong checksum")
        return True

    def _indexed_records(self, wanted: Callable[[str], bool]) -> Iterator[tuple[Any, Any, Any]]:
        topics = [topic for topic in self.topics or () if wanted(topic)]
        return self._reader.iter_messages(topics) if topics else iter(())

    def _records(self) -> Iterator[tuple[Any, Any, Any]]:
        from mcap.reader import NonSeekingReader

        self._file.seek(0)
        size = self._path.stat().st_size
        reader = NonSeekingReader(self._file, validate_crcs=True, record_size_limit=size)
        count = 0
        try:
            for record in reader.iter_messages(log_time_order=False):
                count += 1
                yield record
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
        from rosbags.typesys import Stores, get_typestore

        # Before Iron, ROS 2 bags had no definitions of messages; those that come with ROS are known.
        self._reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        self._reader.open()
        starts = []  # by the index of messages: a damaged start would shift all times
        try:
            for reader in self._reader.readers:
                if isinstance(reader, Rosbag1Reader):
                    check_bag(reader, path)
                    starts += [one.time for entries in reader.indexes.values() for one in entries]
        except Exception:
            self._reader.close()
            raise
        self.topics: list[str] | None = sorted({connection.topic for connection in self._reader.connections})
        self.start_ns = min(starts, default=self._reader.start_time if self._reader.message_count else 0)

    def close(self) -> None:
        self._reader.close()

    def messages(self, wanted: Callable[[str], bool]) -> Iterator[Raw]:
        connections = [connection for connection in self._reader.connections if wanted(connection.topic)]
        decoders = {connection.id: self._decoder(connection.msgtype) for connection in connections}
        if connections:  # an empty list means all
            for connection, log_ns, data in self._reader.messages(connections):
                yield Raw(connection.topic, log_ns, data, decoders[connection.id])

    def _decoder(self, kind: str) -> Decode | str:
        if kind not in self._reader.typestore.fielddefs:
            return f"messages of type {kind}, which the file does not define"
        return lambda data: self._reader.deserialize(data, kind)


def _json(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"a JSON message has the key {twice!r} twice")
    return found


def _decoder(encoding: str, schema: Any) -> Decode | str:
    """Return the decoder of the messages of an MCAP topic, or why there is no decoder."""
    described = schema.encoding if schema is not None else ""
    if encoding == "json":
        return _json
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
    return f"messages in {encoding!r}, described in {described!r}"
