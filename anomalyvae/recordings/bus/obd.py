"""Replies of on-board diagnostics: the answers of a car's control units to "show current data".

The parameters, their units and scales are those of SAE J1979 (ISO 15031-5), service 01; the addresses are those of
ISO 15765-4. A reply holds one parameter or several; if their sizes do not fill it, only the first is read.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from anomalyvae.recordings.bus.frames import EXTENDED
from anomalyvae.recordings.bus.messages import Bits, Field, Message

_SERVICE_01 = 0x41  # the first byte of a reply to service 01
_FIRST = {0x7E8, 0x18DAF110 | EXTENDED}  # the engine's control unit: its signals have no address in their names
_PERCENT, _TRIM = 100 / 255, 100 / 128

# number: (name, unit, bytes, scale, offset); the value begins with the reply's first byte of data.
_PARAMETERS: dict[int, tuple[str, str, int, float, float]] = {
    0x04: ("engine_load", "%", 1, _PERCENT, 0),
    0x05: ("coolant_temperature", "degC", 1, 1, -40),
    0x06: ("short_fuel_trim_1", "%", 1, _TRIM, -100),
    0x07: ("long_fuel_trim_1", "%", 1, _TRIM, -100),
    0x08: ("short_fuel_trim_2", "%", 1, _TRIM, -100),
    0x09: ("long_fuel_trim_2", "%", 1, _TRIM, -100),
    0x0A: ("fuel_pressure", "kPa", 1, 3, 0),
    0x0B: ("intake_pressure", "kPa", 1, 1, 0),
    0x0C: ("engine_speed", "rpm", 2, 1 / 4, 0),
    0x0D: ("vehicle_speed", "km/h", 1, 1, 0),
    0x0E: ("timing_advance", "deg", 1, 1 / 2, -64),
    0x0F: ("intake_temperature", "degC", 1, 1, -40),
    0x10: ("air_flow", "g/s", 2, 1 / 100, 0),
    0x11: ("throttle", "%", 1, _PERCENT, 0),
    **{0x13 + n: (f"oxygen_voltage_{n}", "V", 1, 1 / 200, 0) for n in range(1, 9)},
    0x1F: ("run_time", "s", 2, 1, 0),
    0x21: ("distance_with_warning", "km", 2, 1, 0),
    0x22: ("fuel_rail_pressure_over_intake", "kPa", 2, 0.079, 0),
    0x23: ("fuel_rail_pressure", "kPa", 2, 10, 0),
    **{0x23 + n: (f"oxygen_lambda_{n}", "", 2, 2 / 65536, 0) for n in range(1, 9)},
    0x2C: ("commanded_egr", "%", 1, _PERCENT, 0),
    0x2D: ("egr_error", "%", 1, _TRIM, -100),
    0x2E: ("commanded_purge", "%", 1, _PERCENT, 0),
    0x2F: ("fuel_level", "%", 1, _PERCENT, 0),
    0x30: ("warm_ups_since_cleared", "", 1, 1, 0),
    0x31: ("distance_since_cleared", "km", 2, 1, 0),
    0x33: ("barometric_pressure", "kPa", 1, 1, 0),
    **{0x33 + n: (f"oxygen_pump_lambda_{n}", "", 2, 2 / 65536, 0) for n in range(1, 9)},
    0x3C: ("catalyst_temperature_1_1", "degC", 2, 1 / 10, -40),
    0x3D: ("catalyst_temperature_2_1", "degC", 2, 1 / 10, -40),
    0x3E: ("catalyst_temperature_1_2", "degC", 2, 1 / 10, -40),
    0x3F: ("catalyst_temperature_2_2", "degC", 2, 1 / 10, -40),
    0x42: ("module_voltage", "V", 2, 1 / 1000, 0),
    0x43: ("absolute_load", "%", 2, _PERCENT, 0),
    0x44: ("commanded_lambda", "", 2, 2 / 65536, 0),
    0x45: ("relative_throttle", "%", 1, _PERCENT, 0),
    0x46: ("ambient_temperature", "degC", 1, 1, -40),
    0x47: ("throttle_b", "%", 1, _PERCENT, 0),
    0x48: ("throttle_c", "%", 1, _PERCENT, 0),
    0x49: ("accelerator_d", "%", 1, _PERCENT, 0),
    0x4A: ("accelerator_e", "%", 1, _PERCENT, 0),
    0x4B: ("accelerator_f", "%", 1, _PERCENT, 0),
    0x4C: ("commanded_throttle", "%", 1, _PERCENT, 0),
    0x4D: ("time_with_warning", "min", 2, 1, 0),
    0x4E: ("time_since_cleared", "min", 2, 1, 0),
    0x52: ("ethanol", "%", 1, _PERCENT, 0),
    0x59: ("fuel_rail_absolute_pressure", "kPa", 2, 10, 0),
    0x5A: ("relative_accelerator", "%", 1, _PERCENT, 0),
    0x5B: ("battery_charge", "%", 1, _PERCENT, 0),
    0x5C: ("oil_temperature", "degC", 1, 1, -40),
    0x5D: ("injection_timing", "deg", 2, 1 / 128, -210),
    0x5E: ("fuel_rate", "L/h", 2, 1 / 20, 0),
    0x61: ("demanded_torque", "%", 1, 1, -125),
    0x62: ("actual_torque", "%", 1, 1, -125),
    0x63: ("reference_torque", "N m", 2, 1, 0),
    0xA6: ("odometer", "km", 4, 1 / 10, 0),
}

# The bytes of a parameter in a reply, also for parameters that are not signals here.
_SIZES = {number: size for number, (_, _, size, _, _) in _PARAMETERS.items()} | {
    **dict.fromkeys((0x00, 0x01, 0x20, 0x40, 0x41, 0x4F, 0x50, 0x60, 0x80, 0xA0, 0xC0), 4),
    **dict.fromkeys((*range(0x24, 0x2C), *range(0x34, 0x3C)), 4),
    **dict.fromkeys((0x02, 0x03, *range(0x14, 0x1C), 0x32, 0x53, 0x54), 2),
    **dict.fromkeys((0x12, 0x13, 0x1C, 0x1D, 0x1E, 0x51, 0x5F), 1),
}
_SIZE = np.array([_SIZES.get(number, 0) for number in range(256)])


def is_sender(key: int) -> bool:
    """Return whether frames with this identifier (and EXTENDED) come from a control unit."""
    return 0x7E8 <= key <= 0x7EF or key & ~0xFF == 0x18DAF100 | EXTENDED


def is_request(key: int) -> bool:
    """Return whether frames with this identifier (and EXTENDED) are requests, which hold no signal."""
    ask_one = key & ~0xFF00 == 0x18DA00F1 | EXTENDED
    return key == 0x7DF or 0x7E0 <= key <= 0x7E7 or key == 0x18DB33F1 | EXTENDED or ask_one


def replies(data: np.ndarray) -> np.ndarray:
    """Return which frames, their bytes of shape (n, 64), are replies to service 01 in a single frame."""
    return (data[:, 0] >= 3) & (data[:, 0] <= 7) & (data[:, 1] == _SERVICE_01)


def is_reply(reply: bytes) -> bool:
    """Return whether bytes, without those of the transport protocol, are a reply to service 01."""
    return reply[:1] == bytes([_SERVICE_01])


def hold_more(data: np.ndarray) -> np.ndarray:
    """Return which of such replies have bytes after their first parameter."""
    size = _SIZE[data[:, 2]]
    return (size > 0) & (data[:, 0] > 2 + size)


def parameters(reply: bytes) -> list[bytes]:
    """Split a reply, without the bytes of the transport protocol, into replies with one parameter each.

    Returns
    -------
    list of bytes
        As in a frame, their length first. Only the first if the parameters do not fill the reply; none if it is not a
        reply to service 01.

    Examples
    --------
    >>> [part.hex() for part in parameters(bytes.fromhex("410C1AF80D50"))]
    ['04410c1af8', '03410d50']
    """
    if not is_reply(reply):
        return []
    parts, offset = [], 1
    while offset < len(reply) and (size := _SIZES.get(reply[offset], 0)) and offset + 1 + size <= len(reply):
        parts.append(bytes([2 + size]) + reply[:1] + reply[offset : offset + 1 + size])
        offset += 1 + size
    return parts if offset == len(reply) else parts[:1]


@cache
def message(key: int) -> Message:
    """Return the message of a control unit: ``obd_engine_speed``, for the others ``obd_engine_speed.7E9``."""
    address = "" if key in _FIRST else f".{key & ~EXTENDED:X}"
    count, service, number = (Bits(byte, 0, 8) for byte in range(3))
    fields = []
    for parameter, (name, unit, size, scale, offset) in _PARAMETERS.items():
        bits = Bits(3, 0, 8 * size, big_endian=True)
        is_this = (
            (number, ((parameter, parameter),)),
            (count, ((2 + size, 7),)),
            (service, ((_SERVICE_01, _SERVICE_01),)),
        )
        fields.append(Field(f"obd_{name}{address}", unit, bits, scale, offset, is_this))
    return Message("", f"OBD{address}", key, False, tuple(fields), {})


def names() -> list[str]:
    """Return the signals of the first control unit."""
    return [field.name for field in message(0x7E8).fields]


def sender_of(name: str) -> int | None:
    """Return the identifier (and EXTENDED) of the replies with a signal of this name; None if there is none."""
    base, _, address = name.partition(".")
    if base not in {f"obd_{parameter[0]}" for parameter in _PARAMETERS.values()}:
        return None
    if not address:
        return 0x7E8
    try:
        key = int(address, 16)
    except ValueError:
        return None
    key |= EXTENDED if key > 0x7FF else 0
    return key if is_sender(key) and key not in _FIRST and f"{key & ~EXTENDED:X}" == address else None
