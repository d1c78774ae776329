"""Frames mean what cantools says, J1939 and on-board diagnostics included; unknown frames are reported."""

import sys
import warnings

import cantools
import numpy as np
import pytest
from bus_files import HEAD, as_j1939, frames
from cantools.database.can import Message, Signal
from cantools.database.conversion import BaseConversion
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings.bus.decode import Decoder

MULTIPLEXED = (
    HEAD
    + """
BO_ 256 Plain: 8 ECU
 SG_ kind M : 0|4@1+ (1,0) [0|15] "" ECU
 SG_ first m0 : 8|8@1+ (0.5,1) [0|0] "V" ECU
 SG_ second m3 : 15|12@0- (0.1,0) [0|0] "A" ECU

BO_ 257 Nested: 8 ECU
 SG_ outer M : 0|8@1+ (1,0) [0|0] "" ECU
 SG_ inner m1M : 8|8@1+ (1,0) [0|0] "" ECU
 SG_ deep m2 : 16|16@1+ (1,0) [0|0] "" ECU
 SG_ wide m0 : 24|8@1+ (1,0) [0|0] "" ECU

SG_MUL_VAL_ 257 inner outer 1-2, 5-5;
SG_MUL_VAL_ 257 deep inner 2-4;
SG_MUL_VAL_ 257 wide outer 0-0;
"""
)
J1939 = (
    HEAD
    + """
BO_ 2364540158 EEC1: 8 ECU
 SG_ speed : 24|16@1+ (0.125,0) [0|8031.875] "rpm" ECU
 SG_ torque : 16|8@1+ (1,-125) [0|0] "%" ECU
 SG_ mode : 0|2@1+ (1,0) [0|0] "" ECU

BO_ 2565800190 Directed: 8 ECU
 SG_ request : 0|8@1+ (1,0) [0|255] "" ECU
"""
    + as_j1939(2364540158, 2565800190)
)


@pytest.fixture
def database(write):
    return lambda text, name="car.dbc": write(text, name)


def samples(found, name):
    return dict(zip(found[name].time_s.tolist(), found[name].values.tolist(), strict=True))


@st.composite
def layouts(draw):
    """A message with one number in it, wherever and whatever it is."""
    length = draw(st.sampled_from([1, 2, 5, 8, 12, 64]))
    is_float = length >= 4 and draw(st.booleans())
    bits = (
        draw(st.sampled_from([32, 64] if length >= 8 else [32]))
        if is_float
        else draw(st.integers(1, min(64, 8 * length)))
    )
    big = draw(st.booleans())
    place = draw(st.integers(0, 8 * length - bits))  # of the first bit in the order of the bytes
    start = place // 8 * 8 + 7 - place % 8 if big else place
    scale, offset = draw(st.sampled_from([(1, 0), (0.5, 0), (0.001, -40), (-2, 7), (1e-7, 1e5)]))
    return Message(
        draw(st.integers(0, 0x7FF)),
        "M",
        length,
        [
            Signal(
                "x",
                start,
                bits,
                byte_order="big_endian" if big else "little_endian",
                is_signed=draw(st.booleans()) and not is_float,
                conversion=BaseConversion.factory(scale=scale, offset=offset, is_float=is_float),
            )
        ],
        strict=True,
    )


@given(layouts(), st.lists(st.binary(max_size=64), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_every_layout_is_decoded_as_cantools_does(tmp_path_factory, message, starts, random):
    path = tmp_path_factory.mktemp("database") / "car.dbc"
    path.write_text(cantools.database.can.Database([message]).as_dbc_string(), encoding="cp1252")
    parsed = cantools.database.load_file(path).messages[0]
    sent = [
        data[: message.length] + random.randbytes(random.choice([0, max(message.length - len(data), 0)]))
        for data in starts
    ]
    sent = [data[: message.length] for data in sent]
    found = Decoder(path, None, "a log").decode(frames(*((n, message.frame_id, data) for n, data in enumerate(sent))))
    expected = {}
    for n, data in enumerate(sent):
        decoded = parsed.decode(data, decode_choices=False, allow_truncated=True)
        if "x" in decoded and decoded["x"] == decoded["x"]:  # NaN is no sample
            expected[float(n)] = float(decoded["x"])
    got = samples(found, "x") if found else {}
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-12, atol=1e-12)


def test_multiplexed_signals_have_the_samples_that_cantools_finds(database):
    path = database(MULTIPLEXED)
    parsed = cantools.database.load_file(path)
    rng = np.random.default_rng(0)
    sent = [(n, 256 + n % 2, bytes([*rng.integers(0, 6, 2), *rng.integers(0, 256, 6)])) for n in range(400)]
    found = Decoder(path, None, "a log").decode(frames(*sent))
    expected = {}
    for time_s, key, data in sent:
        try:
            decoded = parsed.decode_message(key, data, decode_choices=False)
        except cantools.database.errors.DecodeError:  # a multiplexer with a value that selects nothing
            decoded = {name: data[place] & mask for name, place, mask in OUTERMOST[key] if chosen(name, data)}
        for name, value in decoded.items():
            expected.setdefault(name, {})[time_s] = value
    assert set(found) == set(expected) == {"kind", "first", "second", "outer", "inner", "deep", "wide"}
    for name in expected:
        assert samples(found, name) == pytest.approx(expected[name])


# What stays readable where a multiplexer selects nothing.
OUTERMOST = {256: [("kind", 0, 15)], 257: [("outer", 0, 255), ("inner", 1, 255)]}


def chosen(name, data):
    return name != "inner" or data[0] in (1, 2, 5)


def test_a_frame_that_ends_early_gives_no_value(database):
    path = database(HEAD + 'BO_ 5 M: 8 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n SG_ b : 7|16@0+ (1,0) [0|0] "" ECU\n')
    found = Decoder(path, None, "a log").decode(frames((0, 5, b"\x01"), (1, 5, b"\x01\x02"), (2, 5, b"")))
    assert samples(found, "a") == {0: 1, 1: 1}
    assert samples(found, "b") == {1: 0x0102}


def test_frames_of_a_message_with_the_same_stamp_become_their_mean(database):
    path = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n')
    decoder = Decoder(path, None, "a log")
    found = decoder.decode(frames((0, 5, b"\x01"), (1, 5, b"\x02"), (1, 5, b"\x04"), (2, 5, b"\x08"), (2, 5, b"\x08")))
    assert samples(found, "a") == {0: 1, 1: 3, 2: 8}
    with pytest.warns(UserWarning, match=r"^1 samples in a log are means of different values .* with one stamp: a 1\."):
        decoder.finish(others=False)


def test_frames_of_two_messages_or_two_pages_may_have_one_stamp(database, recwarn):
    path = database(
        HEAD
        + """BO_ 5 M: 2 ECU
 SG_ page M : 0|8@1+ (1,0) [0|0] "" ECU
 SG_ a m0 : 8|8@1+ (1,0) [0|0] "" ECU
 SG_ b m1 : 8|8@1+ (1,0) [0|0] "" ECU

BO_ 6 N: 1 ECU
 SG_ c : 0|8@1+ (1,0) [0|0] "" ECU
"""
    )
    decoder = Decoder(path, ["a", "b", "c"], "a log")
    found = decoder.decode(frames((0, 5, b"\0\x01"), (0, 5, b"\x01\x02"), (0, 6, b"\x03")))
    assert [samples(found, name) for name in "abc"] == [{0: 1}, {0: 2}, {0: 3}]
    decoder.finish(others=False)
    assert not recwarn


def test_identifiers_of_11_and_29_bits_are_distinguished(database):
    path = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n')
    rows = np.concatenate((frames((0, 5, b"\x01")), frames((1, 5, b"\x02"), extended=True)))
    assert samples(Decoder(path, None, "a log").decode(rows), "a") == {0: 1}


def test_names_depend_on_the_databases_alone(database):
    first = database(
        HEAD
        + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n'
        + 'BO_ 6 N: 2 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n SG_ b : 8|8@1+ (1,0) [0|0] "km/h" ECU\n'
    )
    decoder = Decoder(first, None, "a log")
    found = decoder.decode(frames((0, 5, b"\x01")))
    assert list(found) == ["M.a"]
    assert decoder.names == ["M.a", "N.a", "b"]
    assert (decoder.empty("b").unit, decoder.empty("b").source) == ("km/h", "N")
    second = database(HEAD + 'BO_ 7 N: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n', "more.dbc")
    assert Decoder([first, second], None, "a log").names == ["M.a", "N(0x6).a", "b", "N(0x7).a"]


def test_the_first_database_that_knows_a_message_decides(database):
    first = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n')
    second = database(HEAD + 'BO_ 5 Other: 1 ECU\n SG_ b : 0|8@1+ (9,0) [0|0] "" ECU\n', "second.dbc")
    assert list(Decoder([first, second], None, "a log").decode(frames((0, 5, b"\x01")))) == ["a"]
    assert list(Decoder([second, first], None, "a log").decode(frames((0, 5, b"\x01")))) == ["b"]


@pytest.mark.filterwarnings("ignore:25.0% of the 4 frames of a log are in no database")
def test_j1939_is_found_by_group_from_any_sender_and_to_any_destination(database):
    speed = bytes([0, 0, 130, 0x40, 0x1F, 0, 0, 0])
    decoder = Decoder(database(J1939), None, "a log")
    rows = frames(
        (0, 0x0CF00400, speed), (1, 0x18F00427, speed), (2, 0x18F005FE, speed), (3, 0x18EF2711, b"\x07"), extended=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decoder.decode(rows)
    assert samples(found, "speed") == {0: 1000, 1: 1000}
    assert samples(found, "request") == {3: 7}
    with pytest.warns(UserWarning, match=r"EEC1 of a log has 2 senders \(0x0CF00400 on bus 0, 0x18F00427"):
        decoder.finish(others=False)


def test_j1939_values_that_mean_error_or_not_available_are_no_samples(database):
    def data(speed, torque, mode):
        return bytes([mode, 0, torque, *speed.to_bytes(2, "little"), 0, 0, 0])

    sent = [data(64255, 250, 1), data(0xFE00, 0xFE, 2), data(0xFFFF, 0xFF, 3)]
    found = Decoder(database(J1939), None, "a log").decode(
        frames(*((n, 0x0CF00400, d) for n, d in enumerate(sent)), (3, 0x18EF2711, b"\xff"), extended=True)
    )
    assert samples(found, "speed") == {0: 8031.875}
    assert samples(found, "torque") == {0: 125}
    assert samples(found, "mode") == {0: 1}
    assert samples(found, "request") == {3: 255}  # its range in the database says that this is a value


@pytest.mark.parametrize(
    ("data", "name", "unit", "value"),
    [
        ("04410C1AF8", "obd_engine_speed", "rpm", 1726.0),
        ("03410D50", "obd_vehicle_speed", "km/h", 80.0),
        ("0341055A", "obd_coolant_temperature", "degC", 50.0),
        ("034104FF", "obd_engine_load", "%", 100.0),
        ("03410680", "obd_short_fuel_trim_1", "%", 0.0),
        ("03410E80", "obd_timing_advance", "deg", 0.0),
        ("0441100FA0", "obd_air_flow", "g/s", 40.0),
        ("04413C1388", "obd_catalyst_temperature_1_1", "degC", 460.0),
        ("044142332C", "obd_module_voltage", "V", 13.1),
        ("0441140A80", "obd_oxygen_voltage_1", "V", 0.05),
        ("0641348000C0A5", "obd_oxygen_pump_lambda_1", "", 1.0),
        ("0441310102", "obd_distance_since_cleared", "km", 258.0),
        ("0641A6000186A0", "obd_odometer", "km", 10000.0),
    ],
)
def test_replies_of_on_board_diagnostics_need_no_database(data, name, unit, value):
    found = Decoder(None, None, "a log").decode(frames((0, 0x7E8, bytes.fromhex(data))))
    assert list(found) == [name]
    assert (found[name].values.tolist(), found[name].unit) == ([pytest.approx(value)], unit)


def test_other_control_units_have_their_address_in_the_name():
    reply = bytes.fromhex("03410D50")
    rows = np.concatenate(
        (frames((0, 0x7E9, reply)), frames((1, 0x18DAF110, reply), (2, 0x18DAF10E, reply), extended=True))
    )
    decoder = Decoder(None, ["obd_vehicle_speed.18DAF10E"], "a log")
    decoder.check([])
    assert list(decoder.decode(rows)) == ["obd_vehicle_speed.18DAF10E"]
    names = ["obd_vehicle_speed.7E9", "obd_vehicle_speed", "obd_vehicle_speed.18DAF10E"]
    assert sorted(Decoder(None, None, "a log").decode(rows)) == sorted(names)


@pytest.mark.parametrize("data", ["03410D", "02410D50", "03420D50", "10410D50", "034F0D50", "0341FF50"])
def test_an_incomplete_reply_is_not_decoded(data):
    assert not Decoder(None, None, "a log").decode(frames((0, 0x7E8, bytes.fromhex(data))))


def test_a_database_that_covers_the_replies_decides(database):
    path = database(HEAD + 'BO_ 2024 Reply: 8 ECU\n SG_ parameter : 16|8@1+ (1,0) [0|0] "" ECU\n')
    assert list(Decoder(path, None, "a log").decode(frames((0, 0x7E8, bytes.fromhex("03410D50"))))) == ["parameter"]


def test_the_share_of_unknown_frames_is_reported_with_the_most_frequent(database):
    path = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n')
    decoder = Decoder(path, None, "drive.asc")
    decoder.decode(frames((0, 5, b"\x01"), (1, 6, b"\x01"), (2, 7, b"\x01"), (3, 6, b"")))
    message = r"75.0% of the 4 frames of drive.asc are in no database; .* 0x006 \(2\), 0x007 \(1\). Check that"
    with pytest.warns(UserWarning, match=message):
        decoder.finish(others=False)


def test_with_named_signals_other_frames_are_not_reported(database):
    path = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\n')
    decoder = Decoder(path, ["a"], "drive.asc")
    decoder.decode(frames((0, 5, b"\x01"), (1, 6, b"\x01")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.finish(others=False)


def test_a_log_of_which_nothing_can_be_read_is_refused(database):
    unread = frames((0, 6, b"\x01"), (0.1, 0x7E8, b"\x10\x41\x0d"))
    decoder = Decoder(None, None, "drive.asc")
    decoder.decode(unread)
    with pytest.raises(ValueError, match=r"None of the 2 frames of drive.asc .* 0x006 \(1\).*databases='car.dbc'"):
        decoder.finish(others=False)
    decoder = Decoder(database(J1939), None, "drive.asc")
    decoder.decode(unread)
    with pytest.raises(ValueError, match="Check that the database belongs to this vehicle and bus"):
        decoder.finish(others=False)
    with pytest.warns(UserWarning, match="All of the 2 frames of drive.asc are in no database"):
        decoder.finish(others=True)


def test_an_unknown_signal_is_refused_with_the_nearest(database):
    with pytest.raises(ValueError, match=r"Signal 'sped' is not among .*databases.*Did you mean 'speed'"):
        Decoder(database(J1939), ["sped"], "drive.asc").check([])
    with pytest.raises(ValueError, match=r"Signal 'speed' of drive.asc is unknown without .* Pass the vehicle's"):
        Decoder(None, ["speed"], "drive.asc").check([])
    with pytest.raises(ValueError, match=r"without a database; only those of on-board .* mean 'obd_engine_speed'"):
        Decoder(None, ["obd_engine_sped"], "drive.asc").check([])
    with pytest.raises(ValueError, match=r"the 1 of drive.mf4\. Use one of 'acc'\. If frames hold it: Pass the"):
        Decoder(None, ["speed"], "drive.mf4").check(["acc"])


def test_a_signal_that_is_no_number_is_left_out_with_the_reason(database):
    text = database(HEAD + 'BO_ 5 M: 16 ECU\n SG_ serial : 0|80@1+ (1,0) [0|0] "" ECU\n')
    assert Decoder(text, None, "drive.asc").left_out == {"serial": "80 bits"}
    with pytest.raises(ValueError, match=r"'serial' of drive.asc has 80 bits; a signal is a number"):
        Decoder(text, ["serial"], "drive.asc").check([])


def test_a_broken_database_is_refused_with_file_and_line(database):
    path = database(HEAD + 'BO_ 5 M: 1 ECU\n SG_ a : 0|8@1+ (1,0) [0|0] "" ECU\nVAL_ 295 GEAR 1 "D" 0 "P" ;\n')
    with pytest.raises(ValueError, match=r"car.dbc cannot be read at line 7 \(.*VAL_ 295 GEAR"):
        Decoder(path, None, "a log")
    with pytest.raises(ValueError, match=r"bad.dbc cannot be read .*line 5"):
        Decoder(database(HEAD + "BO_ five M: 1 ECU\n", "bad.dbc"), None, "a log")
    with pytest.raises(FileNotFoundError, match=r"The database .*none.dbc is not a file"):
        Decoder(path.with_name("none.dbc"), None, "a log")


def test_a_missing_extra_says_what_to_install(database, monkeypatch):
    path = database(J1939, "not read before.dbc")
    monkeypatch.setitem(sys.modules, "cantools.database", None)
    with pytest.raises(ImportError, match=r"is not installed.* pip install 'anomalyvae\[logs\]'"):
        Decoder(path, None, "a log")
