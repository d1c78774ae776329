"""Messages of several packets mean what cantools says of their bytes; incomplete ones are left out and reported."""

import warnings
from pathlib import Path

import can
import cantools
import numpy as np
import pytest
from bus_files import HEAD, as_j1939, assert_same_signals, frames
from cantools.database.can import Message, Signal
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings import read_log
from anomalyvae.recordings.bus import canbus
from anomalyvae.recordings.bus.canbus import can_pieces
from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.frames import FRAME
from anomalyvae.recordings.log import joined

FIXTURES = Path(__file__).parents[3] / "shared" / "data" / "fixtures" / "mf4"
GROUP, DIRECTED = 0xFEE3, 0xEF00
DATABASE = (
    HEAD
    + """
BO_ 2566841342 EC1: 39 ECU
 SG_ idle_speed : 0|16@1+ (0.125,0) [0|8031.875] "rpm" ECU
 SG_ idle_torque : 16|8@1+ (1,-125) [-125|125] "%" ECU
 SG_ reference_torque : 152|16@1+ (1,0) [0|64255] "N m" ECU
 SG_ last : 304|8@1+ (1,0) [0|255] "" ECU

BO_ 2565810174 Own: 20 ECU
 SG_ counter : 0|8@1+ (1,0) [0|255] "" ECU
 SG_ same : 152|8@1+ (1,0) [0|255] "" ECU
"""
    + as_j1939(2566841342, 2565810174)
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "truck.dbc"
    path.write_text(DATABASE)
    return path


def frame(time_s, key, data, bus=0):
    return frames((time_s, key, data), bus=bus)


def in_order(frames):
    every = np.concatenate(frames)
    return every[np.argsort(every["time_s"], kind="stable")]


def packets(payload):
    padded = payload + b"\xff" * (-len(payload) % 7)
    return [bytes([place // 7 + 1]) + padded[place : place + 7] for place in range(0, len(padded), 7)]


def control(first, payload, group, fifth=0xFF):
    sizes = len(payload).to_bytes(2, "little") + bytes([-(-len(payload) // 7), fifth])
    return bytes([first]) + sizes + group.to_bytes(3, "little")


def broadcast(time_s, payload, source=0, group=GROUP, bus=0, step_s=0.05):
    """The frames of a message to all: BAM, and its packets."""
    sent = [frame(time_s, 0x1CECFF00 | source, control(32, payload, group), bus)]
    for number, packet in enumerate(packets(payload), 1):
        sent.append(frame(time_s + number * step_s, 0x1CEBFF00 | source, packet, bus))
    return sent


def segmented(time_s, payload, key=0x7E8, step_s=0.01):
    """The frames of a long reply: the first, and the consecutive ones."""
    sent = [frame(time_s, key, bytes([0x10 | len(payload) >> 8, len(payload) & 255]) + payload[:6])]
    for number, place in enumerate(range(6, len(payload), 7), 1):
        data = bytes([0x20 | number & 15]) + payload[place : place + 7]
        sent.append(frame(time_s + number * step_s, key, data.ljust(8, b"\0")))
    return sent


def engine(idle, last=7):
    return (
        idle.to_bytes(2, "little") + bytes([200]) + bytes(16) + (2386).to_bytes(2, "little") + bytes(17) + bytes([last])
    )


def samples(found, name):
    return dict(zip(np.round(found[name].time_s, 6).tolist(), found[name].values.tolist(), strict=True))


def quietly(decoder, frames):
    """Decode to the end without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decoder.decode(frames)
        decoder.finish(others=True)
    return found


@given(st.integers(9, 1785), st.integers(1, 64), st.booleans(), st.data())
def test_any_number_in_a_joined_message_is_what_cantools_decodes(tmp_path_factory, size, bits, big, data):
    place = data.draw(st.integers(0, 8 * size - bits))
    start = place // 8 * 8 + 7 - place % 8 if big else place
    order = "big_endian" if big else "little_endian"
    message = Message(0x18FEE3FE, "EC1", size, [Signal("x", start, bits, byte_order=order)], is_extended_frame=True)
    text = cantools.database.can.Database([message]).as_dbc_string() + as_j1939(2566841342)
    path = tmp_path_factory.mktemp("database") / "truck.dbc"
    path.write_text(text, encoding="cp1252")
    payload = np.random.default_rng(place).integers(0, 256, size, dtype=np.uint8).tobytes()
    expected = cantools.database.load_file(path).messages[0].decode(payload)["x"]
    special = {1: 2, 2: 2}.get(bits, 1 if bits % 8 else 2 << (bits - 8))  # the highest raw values are none
    found = Decoder(path, None, "a log").decode(in_order(broadcast(0, payload)))
    if expected >= 2**bits - special and bits > 1:
        assert found == {}
    else:
        assert samples(found, "x") == {round(-(-size // 7) * 0.05, 6): float(expected)}


def test_messages_of_several_senders_and_buses_at_once_are_distinguished(database):
    sent = [
        *broadcast(0, engine(100), source=0),
        *broadcast(0.001, engine(200), source=1),
        *broadcast(0.002, engine(300), source=0, bus=1),
        *broadcast(0.003, bytes([5] * 20), source=0, group=DIRECTED),  # ends what source 0 had begun
    ]
    decoder = Decoder({"0": database, "1": database}, None, "a log")
    found = decoder.decode(in_order(sent))
    assert samples(found, "0.idle_speed") == {0.301: 25}
    assert samples(found, "1.idle_speed") == {0.302: 37.5}
    assert {name.partition(".")[2] for name in found} == {"idle_speed", "idle_torque", "reference_torque", "last"}
    with pytest.warns(UserWarning, match=r"belong to incomplete messages \(0x18EFFF00 \(10\), 0x18FEE300 \(1\)\)"):
        decoder.finish(others=True)
    with pytest.raises(ValueError, match="EC1 of a log is on 2 buses, 0 and 1"):
        Decoder(database, None, "a log").decode(in_order(sent))


def test_a_receiver_may_ask_for_packets_again(database):
    payload = bytes([9] * 19 + [4])
    one, two, three = packets(payload)
    request, reply = 0x1CEC2701, 0x1CEC0127
    sent = [
        frame(0.0, request, control(16, payload, DIRECTED, fifth=3)),
        frame(0.1, reply, bytes([17, 0, 255, 255, 255, 0, 0xEF, 0])),  # wait
        frame(1.2, reply, bytes([17, 3, 1, 255, 255, 0, 0xEF, 0])),
        frame(1.3, 0x1CEB2701, one),
        frame(1.4, 0x1CEB2701, two),
        frame(1.5, 0x1CEB2701, b"\x04" + three[1:]),  # garbled
        frame(1.6, reply, bytes([17, 2, 2, 255, 255, 0, 0xEF, 0])),
        frame(1.7, 0x1CEB2701, two),
        frame(1.8, 0x1CEB2701, three),
        frame(1.9, reply, control(19, payload, DIRECTED)),
    ]
    found = quietly(Decoder(database, None, "a log"), in_order(sent))
    assert samples(found, "counter") == {1.8: 9}
    assert samples(found, "same") == {1.8: 4}


def test_a_message_may_come_in_one_frame_or_in_several(database):
    short = frame(0.2, 0x18FEE305, engine(8)[:8])
    found = quietly(Decoder(database, None, "a log"), in_order([*broadcast(1, engine(16), source=5), short]))
    assert samples(found, "idle_speed") == {0.2: 1, 1.3: 2}
    assert samples(found, "reference_torque") == {1.3: 2386}


def without(place):
    return lambda sent: sent[:place] + sent[place + 1 :]


def moved(sent, place, by_s):
    for later in sent[place:]:
        later["time_s"] += by_s
    return sent


def swapped(sent):
    sent[2]["data"], sent[3]["data"] = sent[3]["data"].copy(), sent[2]["data"].copy()
    return sent


def cut(sent):
    sent[-1]["length"] = 3
    return sent


HARM = {
    "a packet is missing": without(3),
    "the first packet is missing": without(1),
    "the last packet is missing": lambda sent: sent[:-1],
    "a packet comes again": lambda sent: moved([*sent[:3], sent[2].copy(), *sent[3:]], 3, 0.01),
    "packets change places": swapped,
    "a packet comes too late": lambda sent: moved(sent, 3, 1.0),
    "a packet is cut": cut,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
@pytest.mark.parametrize("kind", ["broadcast", "reply"])
def test_an_incomplete_message_is_left_out_and_its_share_is_reported(database, kind, harm):
    make, name = {
        "broadcast": (lambda time_s: broadcast(time_s, engine(80)), "idle_speed"),
        "reply": (
            lambda time_s: segmented(time_s, bytes.fromhex("410C1AF80D5005A00B60" + "0F28" * 10)),
            "obd_engine_speed",
        ),
    }[kind]
    decoder = Decoder(database, None, "truck.log")
    found = decoder.decode(np.concatenate([*make(0), *harm(make(10)), *make(20)]))
    assert [round(time_s) for time_s in found[name].time_s] == [0, 20]
    key = "0x18FEE300" if kind == "broadcast" else "0x7E8"
    with pytest.warns(
        UserWarning,
        match=rf"truck.log belong to incomplete .* \({key} \(\d\)\), .* loses no frame",
    ):
        decoder.finish(others=True)


def test_with_other_signals_incomplete_messages_are_not_reported(database):
    sent = [*broadcast(0, engine(80))[:3], *broadcast(5, engine(80)), *broadcast(9, bytes([1] * 20), 1, DIRECTED)]
    sent = in_order(sent)
    quietly(Decoder(database, ["counter"], "a log"), sent)
    decoder = Decoder(database, ["idle_speed"], "a log")
    decoder.decode(sent)
    with pytest.warns(UserWarning, match=r"30.0% of the 10 packets of longer messages in a log belong to incomplete"):
        decoder.finish(others=False)


def test_what_began_before_the_recording_or_ends_after_it_is_no_loss(database):
    sent = in_order([*broadcast(0, engine(80)), *broadcast(5, engine(88)), *broadcast(9, engine(96))])
    found = quietly(Decoder(database, None, "a log"), sent[3:-2])
    assert samples(found, "idle_speed") == {5.3: 11}


def test_groups_that_no_database_knows_count_as_unknown_by_the_identifier_they_would_have(database):
    sent = in_order(
        [*broadcast(0, engine(80)), *broadcast(5, bytes(18), 3, 0xFECA), *broadcast(9, bytes(18), 3, 0xFECA)[:2]]
    )
    decoder = Decoder(database, None, "a log")
    decoder.decode(np.concatenate([sent, frame(20, 0x18FEE300, engine(1)[:8])]))
    with pytest.warns(UserWarning, match=r"42.9% of the 14 frames of a log are in no database; .* 0x18FECA03 \(6\)\. "):
        decoder.finish(others=False)


@pytest.mark.parametrize(
    "announced",
    ["2027000500E3FE00", "2008000200E3FE00", "20FAFF0600E3FE00", "20270006", "2000000000E3FE00"],
)
def test_an_announcement_that_contradicts_itself_gives_no_message(database, announced):
    sent = broadcast(0, engine(80))
    sent[0] = frame(0, 0x1CECFF00, bytes.fromhex(announced))
    assert Decoder(database, None, "a log").decode(in_order(sent)) == {}


@pytest.mark.parametrize("rows", [1, 5])
def test_pieces_give_what_the_whole_gives(database, tmp_path, monkeypatch, rows):
    path = tmp_path / "drive.log"
    sent = [broadcast(second, engine(8 * second), second % 2) for second in range(1, 9)]
    sent += [segmented(second + 0.5, bytes.fromhex("410C1AF80D500528")) for second in range(1, 9)]
    with can.CanutilsLogWriter(path) as writer:
        for each in in_order([packet for message in sent for packet in message]):
            data, key = each["data"][: each["length"]].tobytes(), int(each["id"])
            writer.on_message_received(can.Message(1.7e9 + each["time_s"], key, key > 0x7FF, data=data, channel="can0"))
    with pytest.warns(UserWarning, match="2 senders"):
        whole = read_log(path, databases=database)
    assert whole["idle_speed"].values.tolist() == list(range(1, 9))
    assert whole["obd_coolant_temperature"].values.tolist() == [0.0] * 8
    monkeypatch.setattr(canbus, "_ROWS", rows)
    with pytest.warns(UserWarning, match="2 senders"):
        again = joined(can_pieces(path, list(whole.signals), databases=database), "drive")
    assert_same_signals(again, whole)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (
            "410C1AF80D5005280B60",
            {"engine_speed": 1726, "vehicle_speed": 80, "coolant_temperature": 0, "intake_pressure": 96},
        ),
        (
            "410100000000" + "14648034" + "80000000" + "0D50",
            {"oxygen_voltage_1": 0.5, "oxygen_pump_lambda_1": 1, "vehicle_speed": 80},
        ),
        ("410C1AF8640102030405", {"engine_speed": 1726}),  # a parameter of unknown size
        ("410C1AF80D500500" + "0B", {"engine_speed": 1726}),  # does not come out even
        ("4902013147314A433534", {}),  # the vehicle's number
    ],
)
def test_a_long_reply_holds_several_parameters(reply, found):
    decoded = Decoder(None, None, "a log").decode(in_order(segmented(0, bytes.fromhex(reply))))
    assert {name: signal.values.tolist() for name, signal in decoded.items()} == {
        f"obd_{name}": [value] for name, value in found.items()
    }


def test_a_short_reply_may_hold_several_parameters_too():
    sent = [
        frame(0, 0x7E8, bytes.fromhex("06410C1AF80D50")),
        frame(1, 0x7E9, bytes.fromhex("05410D500528AA")),
        frame(2, 0x7E8, bytes.fromhex("07410D50AAAAAAAA")),  # the length counts what only fills the frame
        frame(3, 0x7EA, bytes.fromhex("06410C1AF80D50")),
    ]
    sent[-1]["length"] = 6  # the last byte was not sent
    found = quietly(Decoder(None, None, "a log"), np.concatenate(sent))
    assert samples(found, "obd_engine_speed") == {0: 1726}
    assert samples(found, "obd_engine_speed.7EA") == {3: 1726}
    assert "obd_vehicle_speed.7EA" not in found
    assert samples(found, "obd_vehicle_speed") == {0: 80, 2: 80}
    assert samples(found, "obd_coolant_temperature.7E9") == {1: 0}


def test_replies_of_two_units_and_what_stands_between_do_not_mix():
    sent = [
        *segmented(0.000, bytes.fromhex("410C1AF80D5005280B60")),
        *segmented(0.001, bytes.fromhex("410C0FA00D2805320B40"), 0x18DAF111),
        frame(0.002, 0x7E0, bytes.fromhex("300000")),  # "go on"
        *segmented(1.000, bytes.fromhex("410C1AF80D5005280B60")),
        frame(1.002, 0x7E8, bytes.fromhex("03410D55")),  # another reply in the midst: the long one is given up
    ]
    decoder = Decoder(None, None, "a log")
    found = decoder.decode(in_order(sent))
    assert samples(found, "obd_engine_speed") == {0.01: 1726}
    assert samples(found, "obd_vehicle_speed") == {0.01: 80, 1.002: 85}
    assert samples(found, "obd_engine_speed.18DAF111") == {0.011: 1000}
    with pytest.warns(UserWarning, match=r"incomplete messages \(0x7E8 \(1\)\)"):
        decoder.finish(others=True)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["drop", "repeat", "swap", "garble", "cut", "late"]), st.integers(0, 10**6)), max_size=12
)


@given(CHANGES, st.integers(1, 60))
def test_no_change_to_the_packets_makes_up_a_number(database, changes, rows):
    """Each message has its second in every byte, so that one made of two would show.

    A sender's next message is two seconds away: further than the standards let a packet come after the one before it.
    """
    sent = []
    for second in range(10):
        sent += broadcast(second, bytes([second]) * 39, source=second % 2, step_s=0.04)
        sent += broadcast(second + 0.01, bytes([second]) * 20, source=second % 2 + 2, group=DIRECTED, step_s=0.04)
        sent += segmented(second + 0.5, bytes([0x41] + [0x0D, second] * 10), 0x7E8 + second % 2)
    frames = list(in_order(sent))
    for change, place in changes:
        place %= len(frames) - 1
        here, after = frames[place], frames[place + 1]
        if change == "drop":
            del frames[place]
        elif change == "repeat":
            frames.insert(place, here.copy())
        elif change == "swap":
            frames[place], frames[place + 1] = after, here
        elif change == "garble":
            here["data"][0] ^= 16 << place % 4  # never the number of another packet
        elif change == "cut":
            here["length"] = place % 8
        else:
            frames.insert(place + 1 + place % 4, frames.pop(place))
    every = np.array(frames, dtype=FRAME)
    every["time_s"] = np.maximum.accumulate(every["time_s"])
    every = every[np.argsort(every["time_s"], kind="stable")]
    decoder = Decoder(database, None, "a log")
    names = {"last", "idle_torque", "counter", "same", "obd_vehicle_speed"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for first in range(0, len(every), rows):
            for name, signal in decoder.decode(every[first : first + rows]).items():
                raw = signal.values + {"idle_torque": 125}.get(name, 0)
                if name.partition(".")[0] in names:
                    assert np.isin(raw, np.arange(10)).all()
                    assert (raw <= signal.time_s).all()
        decoder.finish(others=True)


KEYS = [0x1CECFF00, 0x1CEBFF00, 0x1CEC0027, 0x1CEC2700, 0x1CEB2700, 0x7E8, 0x7E0, 0x18DAF110, 0x18FEE300]
STARTS = [b"", b"\x20\x27\x00\x06\xff\xe3\xfe\x00", b"\x10\x14\x00\x03\xff\x00\xef\x00", b"\x01", b"\x02", b"\x21",
          b"\x22", b"\x10\x0a\x41\x0c", b"\x06\x41\x0d", b"\x11\x03\x01"]  # fmt: skip
ANY_FRAMES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(STARTS), st.binary(max_size=8), st.floats(0, 0.5)), max_size=60
)


@given(ANY_FRAMES)
def test_any_frames_give_ordered_samples_of_the_numbers_that_can_be(database, sent):
    stamps = np.cumsum([gap_s for *_, gap_s in sent])
    frames = [frame(t, key, (head + rest)[:8]) for t, (key, head, rest, _) in zip(stamps, sent, strict=True)]
    decoder = Decoder(database, None, "a log")
    found = decoder.decode(np.concatenate(frames)) if frames else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder.finish(others=True)
    for signal in found.values():
        assert (np.diff(signal.time_s) > 0).all()
        assert np.isin(signal.time_s, stamps).all()
    for name, least, most in [("idle_speed", 0, 0xFDFF / 8), ("counter", 0, 255), ("obd_vehicle_speed", 0, 255)]:
        if name in found:
            assert ((found[name].values >= least) & (found[name].values <= most)).all()


@pytest.mark.skipif(not FIXTURES.exists(), reason="real MF4 files are not at hand")
@pytest.mark.filterwarnings("ignore:.* are in no database")
def test_a_real_truck_tells_its_engine_configuration(database):
    """Every message that the file announces is whole; the reference torque is that of the engine's type."""
    log = read_log(FIXTURES / "css_j1939.MF4", databases=database)
    for name, value in {"idle_speed": 650, "idle_torque": 64, "reference_torque": 2386}.items():
        assert log[name].values.tolist() == [value] * 25
    np.testing.assert_allclose(np.diff(log["idle_speed"].time_s), 5, atol=0.05)
