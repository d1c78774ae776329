"""CSS drive: one day of one car in eleven CAN logs, raw and decoded.

IMU, GNSS and OBD-II over CAN. Source: github.com/CSS-Electronics/api-examples, at a pinned commit; MIT.
Written are

    recordings/      00000164_00000001-60FE3F04 …: all eleven logs decoded, on an even 10 Hz clock
    raw/             five of the logs unchanged (MF4), with positions, and their database canmod-gps.dbc

Positions are left out of recordings/. Slower signals repeat their values. Time stamps are those of the logs: they
count from when the logger was switched on, so a later log of the same folder continues the one before. Altitude is
-5400 m until the receiver has its first fix (1,477 rows): a real sensor fault. Nothing else is labelled.
"""

import shutil
from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_recording

SOURCE = "github.com/CSS-Electronics/api-examples at f7932bac"
ABOUT = {
    "what": "11 CAN logs of one car (1.4 h) decoded at 10 Hz, IMU, GNSS speed, OBD-II; 5 of them also raw with DBC",
    "licence": "MIT",
    "source": SOURCE,
    "size_mb": 9.5,
}
CONVERTED = "33441986251871aebed5d3cb8281d230f6820817413d74dce11377cace54b0a7"

RAW = {
    "canmod-gps.dbc": "ee3c8378164ed444991e5a478bdc38c59a8fe57abb02171eb146406bba27ed58",
    "LOG/00000164/00000001-60FE3F04.MF4": "7abac39e43b2991276d353bd6b8922e7728ab0bba553e861e2f3149980a7fd05",
    "LOG/00000164/00000005-60FEB5A8.MF4": "c2e0738d4f474bf25d77b9a74793cd8efaf22a872d87c4b8c2c07a538ef3d424",
    "LOG/00000165/00000001-60FEB68B.MF4": "b0f49250a15c1aa597b2469689959615787f1e324e4a6c9fed7e2705de5f71c0",
    "LOG/00000165/00000002-60FEB8E3.MF4": "1869b134064434091fe5d7823cbb55219f9ef2b0a1402ff3bf73a1ae76b2c133",
    "LOG/00000165/00000003-60FEBB3B.MF4": "37bab1af6abf92b4c9f0e8169c7d50adb78cf5d780ef4e74c75857a882601893",
}
SIGNALS = {  # the column of the conversion: our signal, its unit
    **{f"acc_{axis}": (f"acc_{axis}_mps2", "m/s²") for axis in "xyz"},
    **{f"gyro_{axis}": (f"gyro_{axis}_degps", "deg/s") for axis in "xyz"},
    "gps_speed_mps": ("gps_speed_mps", "m/s"),
    "roll_deg": ("roll_deg", "deg"),
    "pitch_deg": ("pitch_deg", "deg"),
    "heading_deg": ("heading_deg", "deg"),
    "altitude_m": ("altitude_m", "m"),
    "obd_load_pct": ("obd_load_pct", "%"),
    "obd_coolant_c": ("obd_coolant_c", "°C"),
    "obd_map_kpa": ("obd_map_kpa", "kPa"),
    "obd_rpm": ("obd_rpm", "1/min"),
    "obd_speed_kmh": ("obd_speed_kmh", "km/h"),
    "obd_throttle_pct": ("obd_throttle_pct", "%"),
    "obd_fuel_pct": ("obd_fuel_pct", "%"),
}
NAMES = {"time": "time_s", **{column: signal for column, (signal, _) in SIGNALS.items()}}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("css_drive", "css_drive.parquet", sha256=CONVERTED, origin=SOURCE)
    for (session, file), rows in pd.read_parquet(path).groupby(["drive", "file"]):
        write_recording(
            folder / "recordings" / f"{session}_{file}.parquet",
            rows[[*NAMES]].rename(columns=NAMES),
            dict(SIGNALS.values()),
            start_unix_s=pd.Timestamp(rows["start_utc"].iloc[0]).timestamp(),
        )
    for name, sha256 in RAW.items():
        target = folder / "raw" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source_file("css_drive", name, sha256=sha256, origin=SOURCE), target)
