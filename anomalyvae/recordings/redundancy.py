"""Bags and MCAP files say much twice, in an index and in their records: where the two differ, one is damaged."""

from __future__ import annotations

import os
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from mcap.summary import Summary
    from rosbags.interfaces import Connection
    from rosbags.rosbag1 import Reader

_Entry = tuple[int, int, int]  # of the index: where a message is in its chunk, its connection, and its time
_FIELDS = {"topic": "topic", "msgtype": "type", "digest": "md5sum", "msgdef": "definition", "ext": "options"}


def check_bag(reader: Reader, path: Path) -> None:
    """Refuse a ROS 1 bag whose index does not lead to each message once, or does not end with the file.

    Its reader refuses the chunks that contradict the index.
    """
    entries: dict[int, list[_Entry]] = {info.pos: [] for info in reader.chunk_infos}
    for key, index in reader.indexes.items():
        for entry in index:
            entries[entry.chunk_pos].append((entry.offset, key, entry.time))
    promised = sum(sum(info.connection_counts.values()) for info in reader.chunk_infos)
    led_to = sum(len({offset for offset, _, _ in found}) for found in entries.values())
    if not promised == led_to == sum(map(len, entries.values())):
        raise ValueError(f"its index leads to {led_to:,} of its {promised:,} messages")
    if not _index_ends_the_file(path):
        raise ValueError("its index has other records than its header says")
    odd = 0
    for info in reader.chunk_infos:
        chunk, found = reader.chunks[info.pos], sorted(entries[info.pos])
        if Counter(key for _, key, _ in found) != Counter(info.connection_counts):
            raise ValueError("its index counts the messages of a connection in two ways")
        times = [time for _, _, time in found]
        odd += bool(times) and (info.start_time, info.end_time - 1) != (min(times), max(times))
        checked = partial(_checked, reader, info.pos, found, chunk.decompressor)
        reader.chunks[info.pos] = chunk._replace(decompressor=checked)
    if odd:
        warnings.warn(
            f"The index of {path} gives {odd:,} of its {len(reader.chunk_infos):,} chunks another first or last time "
            f"than their messages, which count. To repair it, run: rosbag reindex.",
            stacklevel=2,
        )


def _index_ends_the_file(path: Path) -> bool:
    from rosbags.rosbag1.reader import Header, read_uint32

    with path.open("rb") as file:
        file.readline()
        header = Header.read(file)
        file.seek(header.get_uint64("index_pos"))
        for _ in range(header.get_uint32("conn_count") + header.get_uint32("chunk_count")):
            Header.read(file)
            file.seek(read_uint32(file), os.SEEK_CUR)
        return file.tell() == path.stat().st_size


def _checked(
    reader: Reader, chunk_offset: int, entries: list[_Entry], unpack: Callable[[bytes], bytes], packed: bytes
) -> bytes:
    """Return the records of the chunk at an offset; ValueError if the index says otherwise."""
    from rosbags.rosbag1.reader import Header, RecordType, read_uint32

    data = unpack(packed)
    chunk = type(reader)(reader.path)
    chunk.bio = file = BytesIO(data)
    known = {connection.id: connection for connection in reader.connections}
    leads_to: dict[int, int] = {}  # the message, by its offset and those of connections directly before it
    before: list[int] = []
    messages: list[_Entry] = []
    while (offset := file.tell()) < len(data):
        before.append(offset)
        header = Header.read(file)
        if header.get_uint8("op") == RecordType.CONNECTION:
            file.seek(offset)
            found = chunk.read_connection()
            _compare(known.get(found.id), found)
        else:
            leads_to |= dict.fromkeys(before, offset)
            before = []
            messages.append((offset, header.get_uint32("conn"), header.get_time("time")))
            file.seek(read_uint32(file), os.SEEK_CUR)
    if sorted((leads_to.get(offset, -1), key, time) for offset, key, time in entries) != messages:
        raise ValueError("a chunk has other messages than its index says")
    reader.chunks[chunk_offset] = reader.chunks[chunk_offset]._replace(decompressor=unpack)  # once is enough
    return data


def _compare(said: Connection | None, found: Connection) -> None:
    for field, word in _FIELDS.items():
        one, other = getattr(said, field, None), getattr(found, field)
        if one != other:
            raise ValueError(
                f"connection {found.id} has the {word} {str(one)[:80]} in its index, {str(other)[:80]} in a chunk"
            )


def _counts(connections: Iterable[Connection]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for connection in connections:
        counts[connection.topic, connection.msgtype] += connection.msgcount
    return counts


def check_files(storage: Any, path: Path) -> list[Any]:
    """Return the files of a ROS 2 bag; warn if its metadata.yaml does not fit them.

    Raises ValueError if a file has other messages than its topics: its index is damaged, or it lacks a topic.
    """
    files: list[Any] = getattr(storage, "storages", [storage])
    counts = _counts(connection for file in files for connection in file.connections)
    total = sum(file.metadata.message_count for file in files)
    if total != counts.total():
        raise ValueError(f"it has {total:,} messages, and its topics have {counts.total():,}")
    if files == [storage]:
        return files
    listed = _counts(storage.connections)
    wrong = [
        f"{listed[key]:,} messages of {key[0]} ({key[1]}), where the files have {counts[key]:,}"
        for key in sorted(listed.keys() | counts.keys())
        if listed[key] != counts[key]
    ]
    if total and storage.metadata.start_time != min(file.metadata.start_time for file in files):
        wrong.append("another start than the first message")
    if wrong:
        warnings.warn(
            f"The metadata.yaml of {path} does not fit its files, which count: it gives {'; '.join(wrong[:5])}. To "
            f"repair it, run: ros2 bag reindex.",
            stacklevel=2,
        )
    return files


def wrong_in_summary(file: BinaryIO, summary: Summary) -> str:
    """Return how the summary of an MCAP file contradicts itself or the records before it; empty if it does not."""
    from mcap.opcode import Opcode

    chunks: list[tuple[int, int, int, int, dict[int, int]]] = []  # offset, length, first and last time, indexes
    offset, head = file.seek(len(b"\x89MCAP0\r\n")), struct.Struct("<BQ")
    code = 0
    while code != Opcode.DATA_END:
        code, length = head.unpack(file.read(head.size))
        if code == Opcode.CHUNK:
            chunks.append((offset, head.size + length, *struct.unpack("<QQ", file.read(16)), {}))
        elif code == Opcode.MESSAGE_INDEX and chunks:
            chunks[-1][-1][struct.unpack("<H", file.read(2))[0]] = offset
        elif code == Opcode.MESSAGE:
            return "it lacks messages outside of chunks"
        offset = file.seek(offset + head.size + length)
    fields = ("chunk_start_offset", "chunk_length", "message_start_time", "message_end_time", "message_index_offsets")
    if sorted(map(attrgetter(*fields), summary.chunk_indexes), key=itemgetter(0)) != chunks:
        return "it lists other chunks"
    counted, times = summary.statistics, [time for _, _, *span, _ in chunks if any(span) for time in span]
    if counted is None:
        return ""
    if counted.chunk_count != len(chunks) or len(summary.channels) not in (0, counted.channel_count):
        return "it counts other chunks or channels"
    by_channel = counted.channel_message_counts
    if by_channel and sum(by_channel.values()) != counted.message_count:
        return "it counts the messages in two ways"
    if times and (counted.message_start_time, counted.message_end_time) != (min(times), max(times)):
        return "it gives the messages another start or end"
    return ""
