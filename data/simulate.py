"""Simulated drives: a car with sensors, events and sensor faults, for tests and without a network.

A drive is simulated in four steps: a speed profile with stops and a road with bends; the motion of the car
(acceleration, yaw, pitch and roll, road roughness); the measurements of its sensors (IMU in the car's axes: x forward,
y left, z up; GNSS speed once a second; engine signals as in OBD-II); and optionally faults of these sensors. The same
seed gives the same numbers.

    recordings/simulated1 …   time_s and the signals of UNITS
    events.parquet            recording, time_s, kind, start_s, end_s, signal (of a fault; else empty)
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from anomalyvae.datasets import get_dataset, write_events, write_recording
from anomalyvae.folders import replacing

ABOUT = {
    "what": "simulated drives (5 of 4 min) with potholes, hard braking, swerves; IMU, speed, engine, 10 Hz",
    "licence": "MIT, as the project",
    "source": "simulated, nothing is fetched",
    "size_mb": 0.0,
}

UNITS = {
    "speed_mps": "m/s",
    "acc_x_g": "g",
    "acc_y_g": "g",
    "acc_z_g": "g",
    "gyro_x_radps": "rad/s",
    "gyro_y_radps": "rad/s",
    "gyro_z_radps": "rad/s",
    "engine_rpm": "1/min",
    "throttle_pct": "%",
    "engine_load_pct": "%",
    "coolant_degc": "degC",
}

# Duration of each kind of event, in seconds.
EVENTS = {"pothole": 0.4, "hard_brake": 2.0, "swerve": 2.0}
FAULTS = ("stuck", "dropout", "drift", "noise")
USUAL_EVENTS = {"pothole": 12, "hard_brake": 2, "swerve": 2}

G = 9.81
FINE_HZ = 100  # the car is computed at this rate; sensors average over their own sampling interval


@dataclass(frozen=True)
class Event:
    """An event of a drive, or a fault of one of its sensors.

    Parameters
    ----------
    kind : str
        One of `EVENTS`, or one of `FAULTS`.
    start_s, end_s : float
        In seconds from the start of the drive.
    signal : str
        The signal with the fault; empty for an event of driving.
    size : float
        Strength; 1 is typical. Drift and noise are relative to the signal's standard deviation.
    """

    kind: str
    start_s: float
    end_s: float
    signal: str = ""
    size: float = 1.0


def simulate_drive(
    *,
    seed: int | Sequence[int] = 0,
    duration_s: float = 240.0,
    rate_hz: float = 10.0,
    roughness: float = 1.0,
    events: Mapping[str, int] | Iterable[Event] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Simulate one drive.

    Parameters
    ----------
    seed : int or sequence of int
        The same arguments give the same drive.
    duration_s : float
        Length of the drive; at least 30 s.
    rate_hz : float
        Samples per second, a divisor of 100.
    roughness : float
        Of the road; 1 is an ordinary street.
    events : mapping of str to int, or iterable of Event
        The number of each kind, at random times and in random sizes, without overlap, while the car moves; or the
        events themselves.

    Returns
    -------
    signals : DataFrame, shape (duration_s * rate_hz, 1 + 11)
        ``time_s`` and the signals of `UNITS`.
    events : DataFrame
        ``time_s`` (the middle), ``kind``, ``start_s``, ``end_s``, ``signal``; sorted by time.

    Raises
    ------
    ValueError
        For an unknown kind or signal, an event outside the drive, or more events than fit into it.
    """
    steps = FINE_HZ / rate_hz
    if duration_s < 30 or steps != round(steps):
        raise ValueError(
            f"Got duration_s={duration_s!r}, rate_hz={rate_hz!r}, expected at least 30 s and a divisor of {FINE_HZ} "
            "Hz. Correct them."
        )
    # Independent streams: another event changes neither the road nor the noise of the sensors.
    plan, chance, shake, sense = np.random.default_rng(seed).spawn(4)
    count = round(duration_s * rate_hz) * round(steps)
    fine_s = np.arange(count) / FINE_HZ
    speed, bends = _speed_profile(plan, fine_s), _bends(plan, fine_s)
    occurring = _place_events(chance, events, fine_s, speed) if isinstance(events, Mapping) else list(events)
    for event in occurring:
        _check(event, duration_s)
    motion = _motion(shake, fine_s, speed, bends, roughness, occurring)
    for event in occurring:
        if event.kind == "pothole":
            _hit(motion, fine_s, event, side=chance.choice((-1.0, 1.0)))
    signals = _sensors(sense, motion, round(steps))
    for event in occurring:
        if event.kind in FAULTS:
            _add_fault(chance, signals, event)
    table = pd.DataFrame(
        [((e.start_s + e.end_s) / 2, e.kind, e.start_s, e.end_s, e.signal) for e in occurring],
        columns=["time_s", "kind", "start_s", "end_s", "signal"],
    ).astype({"time_s": float, "kind": "str", "start_s": float, "end_s": float, "signal": "str"})
    return signals, table.sort_values("time_s", kind="stable", ignore_index=True)


def write_drives(
    folder: Path,
    *,
    drives: int = 5,
    seed: int = 0,
    events: Mapping[str, int] = USUAL_EVENTS,
    **drive: float,
) -> None:
    """Simulate several drives with different seeds, and write them as a data set.

    Other arguments (``duration_s``, ``rate_hz``, ``roughness``) are those of `simulate_drive`.
    """
    if drives < 1:
        raise ValueError(f"drives={drives} is below 1. Pass the number of drives.")
    found = []
    for number in range(1, drives + 1):
        name = f"simulated{number}"
        signals, table = simulate_drive(seed=(seed, number), events=events, **drive)
        path = folder / "recordings" / f"{name}.parquet"
        write_recording(path, signals, UNITS, about="simulated, not measured")
        table.insert(0, "recording", name)
        found.append(table)
    write_events(folder, pd.concat(found))


def prepare(folder: Path) -> None:
    """Write the default set: five drives of four minutes."""
    write_drives(folder)


# --- motion of the car ----------------------------------------------------------------------------------


def _speed_profile(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    """Speed in m/s: standing, accelerating, cruising at changing speeds, braking for the next stop."""
    knots = [(0.0, 0.0), (rng.uniform(2, 5), 0.0)]
    while knots[-1][0] < time_s[-1]:
        now, speed = knots[-1]
        target = 0.0 if speed and rng.random() < 0.35 else rng.uniform(7, 17)
        pull = rng.uniform(0.8, 1.8) if target > speed else rng.uniform(1.0, 2.2)
        reached = now + abs(target - speed) / pull
        stay = rng.uniform(10, 30) if target else rng.uniform(3, 10)
        knots += [(reached, target), (reached + stay, target)]
    times, speeds = zip(*knots, strict=True)
    planned = _smooth(np.interp(time_s, times, speeds), 1.5)
    wander = 0.4 * _slow(rng, len(time_s), 8.0) * np.minimum(planned / 5, 1)
    return np.maximum(planned + wander, 0.0) * (planned > 0.05)


def _bends(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    """Curvature of the road in 1/m over time, left positive."""
    curvature = 0.0008 * _slow(rng, len(time_s), 4.0)
    at = rng.uniform(5, 20)
    while at < time_s[-1]:
        length = rng.uniform(3, 7)
        inside = (time_s >= at) & (time_s < at + length)
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * (time_s[inside] - at) / length)
        curvature[inside] += rng.choice((-1, 1)) * rng.uniform(0.01, 0.08) * shape
        at += length + rng.uniform(5, 25)
    return curvature


def _motion(
    rng: np.random.Generator,
    time_s: np.ndarray,
    speed: np.ndarray,
    bends: np.ndarray,
    roughness: float,
    events: Sequence[Event],
) -> dict[str, np.ndarray]:
    """Return speed and the six motions of the car's body, at `FINE_HZ`; accelerations in m/s²."""
    for event in events:
        if event.kind == "hard_brake":  # braking over the event, eight seconds to be back at speed
            path = [event.start_s, event.end_s, event.end_s + 1.0, event.end_s + 9.0]
            lost = _smooth(np.interp(time_s, path, [0.0, 1.0, 1.0, 0.0]), 0.4)
            speed = speed * (1.0 - min(0.75 * event.size, 0.95) * lost)
    grip = 2.5 / np.maximum(speed, 3.0) ** 2  # drivers keep the sideways pull of a bend comfortable
    yaw_rate = speed * np.clip(bends, -grip, grip)
    for event in events:
        if event.kind == "swerve":
            phase = np.clip((time_s - event.start_s) / (event.end_s - event.start_s), 0, 1)
            pull = 4.5 * event.size * np.sin(2 * np.pi * phase) * np.sin(np.pi * phase)
            yaw_rate = yaw_rate + pull / np.maximum(speed, 3.0)
    along, across = np.gradient(speed, time_s), speed * yaw_rate
    pitch = -0.012 * _smooth(along, 0.3)  # positive: nose down
    roll = 0.015 * _smooth(across, 0.3)  # positive: left side up
    shaking = roughness * speed / 12.0
    return {
        "speed": speed,
        "along": along - G * pitch + 0.15 * shaking * _rumble(rng, len(time_s)),
        "across": across + G * roll + 0.2 * shaking * _rumble(rng, len(time_s)),
        "up": G + 0.5 * shaking * _rumble(rng, len(time_s)),
        "roll_rate": np.gradient(roll, time_s) + 0.015 * shaking * _rumble(rng, len(time_s)),
        "pitch_rate": np.gradient(pitch, time_s) + 0.015 * shaking * _rumble(rng, len(time_s)),
        "yaw_rate": yaw_rate + 0.004 * shaking * _rumble(rng, len(time_s)),
    }


def _hit(motion: dict[str, np.ndarray], time_s: np.ndarray, pothole: Event, side: float) -> None:
    """One wheel drops, hits the edge and rings: harder at higher speed."""
    since = np.maximum(time_s - pothole.start_s, 0.0)
    blow = pothole.size * (0.4 + motion["speed"] / 15.0)
    ring = blow * np.sin(2 * np.pi * 4.0 * since) * np.exp(-since / 0.13)
    motion["up"] -= 9.0 * ring
    motion["along"] -= 2.0 * ring
    motion["roll_rate"] += 0.5 * side * ring
    motion["pitch_rate"] += 0.4 * ring


# --- sensors -------------------------------------------------------------------------------


def _sensors(rng: np.random.Generator, motion: Mapping[str, np.ndarray], steps: int) -> pd.DataFrame:
    seen = {name: values.reshape(-1, steps).mean(axis=1) for name, values in motion.items()}
    count, rate_hz = len(seen["speed"]), FINE_HZ / steps
    time_s = np.arange(count) / rate_hz

    def measured(values: np.ndarray, bias: float, noise: float) -> np.ndarray:
        return values + bias * rng.normal() + noise * rng.normal(size=count)

    every = max(round(rate_hz), 1)
    fixes = seen["speed"][::every]
    fixes = np.maximum(fixes + 0.1 * rng.normal(size=len(fixes)), 0.0)
    wish = np.gradient(seen["speed"], time_s) + 0.15 + 0.0006 * seen["speed"] ** 2  # m/s², with drag and rolling
    effort = np.clip(wish / 2.5, 0.0, 1.0)
    rpm_per_mps = np.array((420.0, 240.0, 165.0, 125.0, 100.0))
    gear = np.searchsorted((4.0, 8.0, 12.0, 17.0), seen["speed"])
    rpm = np.maximum(_smooth(seen["speed"] * rpm_per_mps[gear], 0.5, rate_hz), 800.0)
    warming = 90.0 - (90.0 - rng.uniform(20, 70)) * np.exp(-time_s / 200.0)
    return pd.DataFrame(
        {
            "time_s": time_s,
            "speed_mps": np.repeat(np.round(fixes, 2), every)[:count],  # a fix a second, held until the next
            "acc_x_g": measured(seen["along"] / G, 0.005, 0.005),
            "acc_y_g": measured(seen["across"] / G, 0.005, 0.005),
            "acc_z_g": measured(seen["up"] / G, 0.005, 0.005),
            "gyro_x_radps": measured(seen["roll_rate"], 0.002, 0.003),
            "gyro_y_radps": measured(seen["pitch_rate"], 0.002, 0.003),
            "gyro_z_radps": measured(seen["yaw_rate"], 0.002, 0.003),
            "engine_rpm": np.round(measured(rpm, 0.0, 8.0) * 4) / 4,
            "throttle_pct": np.round(np.clip(measured(12 + 70 * effort, 0.0, 0.5), 0, 100) * 2.55) / 2.55,
            "engine_load_pct": np.round(np.clip(measured(20 + 75 * effort, 0.0, 1.0), 0, 100) * 2.55) / 2.55,
            "coolant_degc": np.round(warming),
        }
    )


def _add_fault(rng: np.random.Generator, signals: pd.DataFrame, fault: Event) -> None:
    rows = np.flatnonzero((signals["time_s"] >= fault.start_s) & (signals["time_s"] < fault.end_s))
    values = signals[fault.signal].to_numpy(copy=True)
    spread = max(float(np.nanstd(values)), 1e-6) * fault.size
    if fault.kind == "stuck":
        values[rows] = values[rows[:1]]
    elif fault.kind == "dropout":
        values[rows] = np.nan
    elif fault.kind == "drift":
        values[rows] += 4.0 * spread * np.linspace(0.0, 1.0, len(rows))
    else:
        values[rows] += 2.0 * spread * rng.normal(size=len(rows))
    signals[fault.signal] = values


# --- events ---------------------------------------------------------------------------------------------


def _place_events(
    rng: np.random.Generator, counts: Mapping[str, int], time_s: np.ndarray, speed: np.ndarray
) -> list[Event]:
    """Random events while the car moves, a few seconds apart."""
    tick = FINE_HZ // 10
    time_s, speed = time_s[::tick], speed[::tick]
    free = np.ones(len(time_s), dtype=bool)
    events = []
    for kind, count in counts.items():
        _check(Event(kind, 0.0, 1.0, "speed_mps" if kind in FAULTS else ""), 1.0)
        length = EVENTS.get(kind, 10.0)
        reach = round((length + (10.0 if kind == "hard_brake" else 2.0)) * 10)
        fitting = np.ones(len(time_s), dtype=bool) if kind in FAULTS else speed > 5.0
        for _ in range(count):
            usable = free & fitting
            long_enough = np.convolve(usable, np.ones(reach), mode="valid") == reach
            places = np.flatnonzero(long_enough)
            if not len(places):
                raise ValueError(
                    f"{count} events of kind {kind!r} do not fit into {time_s[-1]:.0f} s beside the others. Ask for "
                    "fewer, or a longer drive."
                )
            place = int(rng.choice(places))
            free[place : place + reach] = False
            start = float(time_s[place]) + 1.0
            signal = str(rng.choice(list(UNITS))) if kind in FAULTS else ""
            size = float(rng.uniform(0.5, 1.5))
            events.append(Event(kind, round(start, 1), round(start + length, 1), signal, size))
    return events


def _check(event: Event, duration_s: float) -> None:
    if event.kind not in (*EVENTS, *FAULTS):
        raise ValueError(f"{event.kind!r} is no kind of event. Choose from {', '.join((*EVENTS, *FAULTS))}.")
    if event.kind in FAULTS and event.signal not in UNITS:
        raise ValueError(f"A fault needs a signal, and {event.signal!r} is none. Choose from {', '.join(UNITS)}.")
    if not 0 <= event.start_s < event.end_s <= duration_s:
        raise ValueError(
            f"The event {event.kind!r} from {event.start_s:g} to {event.end_s:g} s is not within the drive of "
            f"{duration_s:g} s. Correct its times."
        )


# --- shapes ---------------------------------------------------------------------------------------------


def _smooth(values: np.ndarray, width_s: float, rate_hz: float = FINE_HZ) -> np.ndarray:
    half = max(round(width_s * rate_hz / 2), 1)
    kernel = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(np.pad(values, half, mode="edge"), kernel / kernel.sum(), mode="valid")


def _slow(rng: np.random.Generator, count: int, period_s: float) -> np.ndarray:
    """Noise of about unit standard deviation that varies over ``period_s``."""
    knots = rng.normal(size=int(count / FINE_HZ / period_s) + 3)
    place = np.arange(count) / FINE_HZ / period_s
    return _smooth(np.interp(place, np.arange(len(knots)), knots), period_s / 2)


def _rumble(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise of unit standard deviation with a car's resonances: body near 1.5 Hz, wheels near 11 Hz."""
    frequency = np.fft.rfftfreq(count, 1 / FINE_HZ)
    gain = np.zeros(len(frequency))
    for peak, weight in ((1.5, 1.0), (11.0, 0.6)):
        gain += weight / np.sqrt((1 - (frequency / peak) ** 2) ** 2 + (0.6 * frequency / peak) ** 2)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=count)) * gain, count)
    return noise / noise.std()


# --- as a script ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Write simulated drives to a folder, or prepare the default data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ",".join(f"{kind}={count}" for kind, count in USUAL_EVENTS.items())
    kinds = ", ".join((*EVENTS, *FAULTS))
    add = parser.add_argument
    add("--out", type=Path, metavar="FOLDER", help="a new folder (default: prepare the default data set)")
    add("--drives", type=int, default=5, metavar="N")
    add("--minutes", type=float, default=4.0, metavar="X", help="length of each drive")
    add("--rate-hz", type=float, default=10.0, metavar="X")
    add("--seed", type=int, default=0, metavar="N")
    add("--events", default=usual, metavar="KIND=N,…", help=f"per drive; of {kinds} (default: {usual})")
    args = parser.parse_args(argv)
    options = {
        "drives": args.drives,
        "seed": args.seed,
        "rate_hz": args.rate_hz,
        "duration_s": 60 * args.minutes,
    }
    try:
        if args.out is None:
            print(get_dataset("simulated"))
            return 0
        events = _parse_counts(args.events)
        if args.out.exists():
            raise FileExistsError(f"{args.out} exists; nothing is overwritten. Remove it, or name another folder.")
        with replacing(args.out) as folder:
            write_drives(folder, events=events, **options)
        print(args.out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parse_counts(text: str) -> dict[str, int]:
    counts = {}
    for item in filter(None, text.split(",")):
        kind, _, count = item.partition("=")
        if not count.isdecimal():
            raise ValueError(f"Got --events {item!r}, expected KIND=COUNT, as in pothole=12. Correct it.")
        counts[kind.strip()] = int(count)
    return counts


if __name__ == "__main__":
    sys.exit(main())
