"""Frames, logs and databases of vehicle buses, for tests."""

import can
import numpy as np

from anomalyvae.recordings.bus.frames import FRAME

HEAD = 'VERSION ""\nNS_ :\nBS_:\nBU_: ECU\n'  # of a DBC file
ASC_HEAD = "date Thu May 16 06:16:50.884 pm 2024\nbase hex  timestamps absolute\ninternal events logged\n"
WRITERS = {
    ".blf": can.BLFWriter,
    ".asc": can.ASCWriter,
    ".trc": can.TRCWriter,
    ".log": can.CanutilsLogWriter,
}


def as_j1939(*identifiers):
    """The end of a DBC file: which messages are of J1939."""
    groups = "".join(f'BA_ "VFrameFormat" BO_ {identifier} 3;\n' for identifier in identifiers)
    return f"""
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_DEF_ "VFrameFormat" "J1939PG";
BA_DEF_ "ProtocolType" STRING ;
BA_DEF_DEF_ "ProtocolType" "";
BA_ "ProtocolType" "J1939";
{groups}"""


def write(path, messages):
    with WRITERS[path.suffix](path) as writer:
        for message in messages:
            writer.on_message_received(message)
    return path


def frames(*rows, extended=None, bus=0):
    """Frames of (seconds, identifier, bytes); by default, identifiers of more than 11 bits have 29."""
    made = np.zeros(len(rows), dtype=FRAME)
    for frame, (time_s, key, data) in zip(made, rows, strict=True):
        frame["time_s"], frame["id"], frame["bus"], frame["length"] = time_s, key, bus, len(data)
        frame["extended"] = key > 0x7FF if extended is None else extended
        frame["data"][: len(data)] = list(data)
    return made


def assert_same_signals(found, expected):
    """Assert that a log has the samples of another, bit for bit."""
    for name, signal in expected.signals.items():
        np.testing.assert_array_equal(found[name].time_s, signal.time_s)
        np.testing.assert_array_equal(found[name].values, signal.values)


def assert_in_order(pieces):
    """Assert that no sample of a piece is as old as one of an earlier piece."""
    newest = -1.0
    for piece in pieces:
        stamps = np.concatenate([signal.time_s for signal in piece.signals.values()])
        assert not len(stamps) or stamps.min() > newest
        newest = max(newest, stamps.max(initial=newest))
