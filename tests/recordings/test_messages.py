"""DBC, KCD and ARXML databases give the same signals; a broken one is refused by name."""

import logging
import warnings
from pathlib import Path

import cantools
import numpy as np
import pytest

from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.frames import FRAME
from anomalyvae.recordings.bus.messages import load_messages

DRIVES = Path(__file__).parents[3] / "shared" / "data" / "css_drive"
# Message: identifier, bytes, and of each signal: start, length, big-endian, signed, scale, offset, unit.
CAR = {
    "Wheels": (0x123, 8, {"speed": (7, 16, True, False, 0.01, 0, "km/h"),
                          "slip": (16, 12, False, True, 0.5, -3, "%")}),
    "Engine": (0x18FEF100, 16, {"torque": (0, 16, False, True, 0.25, 0, "N m"),
                                "late": (120, 8, False, False, 1, 0, "")}),
}  # fmt: skip


def dbc(path):
    lines = ['VERSION ""', "NS_ :", "BS_:", "BU_: ECU"]
    for name, (key, size, signals) in CAR.items():
        lines += ["", f"BO_ {key if key < 0x800 else key | 1 << 31} {name}: {size} ECU"]
        for signal, (start, length, big, signed, scale, offset, unit) in signals.items():
            layout = f"{start}|{length}@{0 if big else 1}{'-' if signed else '+'}"
            lines.append(f' SG_ {signal} : {layout} ({scale},{offset}) [0|0] "{unit}" ECU')
    path.write_text("\n".join(lines) + "\n")
    return path


def kcd(path):
    cantools.database.dump_file(cantools.database.load_file(dbc(path.with_suffix(".dbc"))), path)
    return path


def arxml(path, category="LINEAR", scales=1):
    """The least of AUTOSAR 4 that describes the car."""

    def props(tag, inner):
        conditional = f"<SW-DATA-DEF-PROPS-CONDITIONAL>{inner}</SW-DATA-DEF-PROPS-CONDITIONAL>"
        return f"<{tag}><SW-DATA-DEF-PROPS-VARIANTS>{conditional}</SW-DATA-DEF-PROPS-VARIANTS></{tag}>"

    triggerings, elements = [], []
    for encoding in ("NONE", "2C"):
        elements.append(f"<SW-BASE-TYPE><SHORT-NAME>T{encoding}</SHORT-NAME>"
                        f"<BASE-TYPE-ENCODING>{encoding}</BASE-TYPE-ENCODING></SW-BASE-TYPE>")  # fmt: skip
    for name, (key, size, signals) in CAR.items():
        triggerings.append(
            f"<CAN-FRAME-TRIGGERING><SHORT-NAME>on{name}</SHORT-NAME>"
            f"<FRAME-REF DEST='CAN-FRAME'>/car/{name}</FRAME-REF>"
            f"<CAN-ADDRESSING-MODE>{'STANDARD' if key < 0x800 else 'EXTENDED'}</CAN-ADDRESSING-MODE>"
            f"<IDENTIFIER>{key}</IDENTIFIER></CAN-FRAME-TRIGGERING>"
        )
        elements.append(
            f"<CAN-FRAME><SHORT-NAME>{name}</SHORT-NAME><FRAME-LENGTH>{size}</FRAME-LENGTH><PDU-TO-FRAME-MAPPINGS>"
            f"<PDU-TO-FRAME-MAPPING><SHORT-NAME>in{name}</SHORT-NAME><PDU-REF DEST='I-SIGNAL-I-PDU'>/car/pdu{name}"
            f"</PDU-REF></PDU-TO-FRAME-MAPPING></PDU-TO-FRAME-MAPPINGS></CAN-FRAME>"
        )
        mappings = []
        for signal, (start, length, big, signed, scale, offset, unit) in signals.items():
            order = f"MOST-SIGNIFICANT-BYTE-{'FIRST' if big else 'LAST'}"
            mappings.append(
                f"<I-SIGNAL-TO-I-PDU-MAPPING><SHORT-NAME>at{signal}</SHORT-NAME>"
                f"<I-SIGNAL-REF DEST='I-SIGNAL'>/car/{signal}</I-SIGNAL-REF>"
                f"<PACKING-BYTE-ORDER>{order}</PACKING-BYTE-ORDER><START-POSITION>{start}</START-POSITION>"
                f"</I-SIGNAL-TO-I-PDU-MAPPING>"
            )
            kind = f"<BASE-TYPE-REF DEST='SW-BASE-TYPE'>/car/T{'2C' if signed else 'NONE'}</BASE-TYPE-REF>"
            how = f"<COMPU-METHOD-REF DEST='COMPU-METHOD'>/car/how{signal}</COMPU-METHOD-REF>"
            one = (
                f"<COMPU-SCALE><LOWER-LIMIT>-10</LOWER-LIMIT><UPPER-LIMIT>10</UPPER-LIMIT><COMPU-RATIONAL-COEFFS>"
                f"<COMPU-NUMERATOR><V>{offset}</V><V>{scale}</V></COMPU-NUMERATOR>"
                f"<COMPU-DENOMINATOR><V>1</V></COMPU-DENOMINATOR></COMPU-RATIONAL-COEFFS></COMPU-SCALE>"
            )
            elements.append(
                f"<I-SIGNAL><SHORT-NAME>{signal}</SHORT-NAME><LENGTH>{length}</LENGTH>"
                f"{props('NETWORK-REPRESENTATION-PROPS', kind)}"
                f"<SYSTEM-SIGNAL-REF DEST='SYSTEM-SIGNAL'>/car/of{signal}</SYSTEM-SIGNAL-REF></I-SIGNAL>"
                f"<SYSTEM-SIGNAL><SHORT-NAME>of{signal}</SHORT-NAME>{props('PHYSICAL-PROPS', how)}</SYSTEM-SIGNAL>"
                f"<COMPU-METHOD><SHORT-NAME>how{signal}</SHORT-NAME><CATEGORY>{category}</CATEGORY>"
                f"<UNIT-REF DEST='UNIT'>/car/unit{signal}</UNIT-REF><COMPU-INTERNAL-TO-PHYS><COMPU-SCALES>"
                f"{one * scales}</COMPU-SCALES></COMPU-INTERNAL-TO-PHYS></COMPU-METHOD>"
                f"<UNIT><SHORT-NAME>unit{signal}</SHORT-NAME><DISPLAY-NAME>{unit}</DISPLAY-NAME></UNIT>"
            )
        elements.append(
            f"<I-SIGNAL-I-PDU><SHORT-NAME>pdu{name}</SHORT-NAME><LENGTH>{size}</LENGTH><I-SIGNAL-TO-PDU-MAPPINGS>"
            f"{''.join(mappings)}</I-SIGNAL-TO-PDU-MAPPINGS></I-SIGNAL-I-PDU>"
        )
    channel = (
        f"<CAN-PHYSICAL-CHANNEL><SHORT-NAME>wire</SHORT-NAME><FRAME-TRIGGERINGS>{''.join(triggerings)}"
        f"</FRAME-TRIGGERINGS></CAN-PHYSICAL-CHANNEL>"
    )
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<AUTOSAR xmlns="http://autosar.org/schema/r4.0"><AR-PACKAGES>'
        f"<AR-PACKAGE><SHORT-NAME>car</SHORT-NAME><ELEMENTS><CAN-CLUSTER><SHORT-NAME>bus</SHORT-NAME>"
        f"<CAN-CLUSTER-VARIANTS><CAN-CLUSTER-CONDITIONAL><PHYSICAL-CHANNELS>{channel}</PHYSICAL-CHANNELS>"
        f"</CAN-CLUSTER-CONDITIONAL></CAN-CLUSTER-VARIANTS></CAN-CLUSTER>{''.join(elements)}</ELEMENTS></AR-PACKAGE>"
        f"</AR-PACKAGES></AUTOSAR>\n"
    )
    return path


def decoded(path):
    """What 200 frames of random bytes mean."""
    made = np.zeros(200, dtype=FRAME)
    made["time_s"] = np.arange(200)
    for message, (key, size, _) in enumerate(CAR.values()):
        made["id"][message::2], made["extended"][message::2], made["length"][message::2] = key, key > 0x7FF, size
    made["data"][:, :16] = np.random.default_rng(0).integers(0, 256, (200, 16))
    return Decoder(path, None, "a log").decode(made)


@pytest.mark.parametrize("make", [kcd, arxml])
def test_every_kind_of_database_gives_the_same_signals(tmp_path, make):
    expected, found = decoded(dbc(tmp_path / "car.dbc")), decoded(make(tmp_path / f"car.{make.__name__}"))
    assert found.keys() == expected.keys() == {"speed", "slip", "torque", "late"}
    for name, signal in expected.items():
        assert (found[name].unit, found[name].source) == (signal.unit, signal.source)
        np.testing.assert_array_equal(found[name].time_s, signal.time_s)
        np.testing.assert_array_equal(found[name].values, signal.values)


@pytest.mark.skipif(not DRIVES.exists(), reason="a real DBC file is not at hand")
def test_a_real_database_means_the_same_as_kcd(tmp_path):
    real = DRIVES / "canmod-gps.dbc"
    cantools.database.dump_file(cantools.database.load_file(real), tmp_path / "gps.kcd")
    by_key = {message.key: message for message in load_messages(tmp_path / "gps.kcd")}
    assert {message.key: message for message in load_messages(real)} == by_key


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"category": "RAT_FUNC"}, "category RAT_FUNC is not yet implemented"),
        ({"category": "SCALE_LINEAR_AND_TEXTTABLE", "scales": 2}, "multiple segments"),
    ],
)
def test_conversions_that_cantools_does_not_follow_are_reported_every_time(tmp_path, capfd, options, said):
    path = arxml(tmp_path / "car.arxml", **options)
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"car.arxml has conversions .*{said}.*linear ones"):
            load_messages(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_messages(arxml(tmp_path / "plain.arxml"))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("cantools.database.can.formats.arxml").propagate


@pytest.mark.parametrize("make", [kcd, arxml])
def test_a_database_that_is_cut_or_damaged_is_refused_or_read_as_one(tmp_path, make):
    text = make(tmp_path / f"car.{make.__name__}").read_text()
    path = tmp_path / f"broken.{make.__name__}"
    rng = np.random.default_rng(0)
    complaints = []
    for turn in range(40):
        place = int(rng.integers(1, len(text) - 2))
        path.write_text(text[:place] if turn % 2 else text[:place] + text[place + int(rng.integers(1, 30)) :])
        try:
            load_messages([path])
        except ValueError as error:
            complaints.append(str(error))
    assert len(complaints) > 20
    for complaint in complaints:
        assert complaint.startswith(f"The database {path} cannot be read (")
        assert complaint.endswith(("Correct that line.", "Correct the file, or export it again."))


def test_other_files_are_refused_by_their_suffix(tmp_path):
    (tmp_path / "car.xml").write_text("<a/>")
    with pytest.raises(ValueError, match=r"car.xml has none of the suffixes .dbc, .arxml, .kcd, .sym. Export it"):
        load_messages(tmp_path / "car.xml")
