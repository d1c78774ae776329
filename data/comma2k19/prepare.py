"""comma2k19: one minute of a car on a motorway, its CAN bus and a phone's IMU, 83 Hz.

The example of github.com/commaai/comma2k19 (Schafer et al. 2018, arXiv 1812.05752); MIT. Written is
``recordings/example.parquet``; nothing is labelled. All signals are on one clock, so the slower ones repeat
their values (GNSS has 10 Hz). Positions are left out.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_recording

SOURCE = "github.com/commaai/comma2k19, Example_1"
ABOUT = {
    "what": "one minute of motorway: CAN speed, steering and wheel speeds, phone IMU, GNSS speed, 83 Hz",
    "licence": "MIT",
    "source": SOURCE,
    "size_mb": 0.2,
}
CONVERTED = "d927e0386e94f55b4a72a958085e55666b00777cbae84c0bf0b19342fea90389"

SIGNALS = {  # the column of the conversion: our signal, its unit
    "can_speed_mps": ("can_speed_mps", "m/s"),
    "steering_deg": ("steering_deg", "deg"),
    **{f"wheel_{wheel}": (f"wheel_{wheel}_mps", "m/s") for wheel in ("fl", "fr", "rl", "rr")},
    **{f"acc_{axis}": (f"acc_{axis}_mps2", "m/s²") for axis in "xyz"},
    **{f"gyro_{axis}": (f"gyro_{axis}_radps", "rad/s") for axis in "xyz"},
    "gnss_speed_mps": ("gnss_speed_mps", "m/s"),
    "altitude_m": ("altitude_m", "m"),
    "bearing_deg": ("bearing_deg", "deg"),
}
NAMES = {"time": "time_s", **{column: signal for column, (signal, _) in SIGNALS.items()}}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("comma2k19", "comma2k19.parquet", sha256=CONVERTED, origin=SOURCE)
    table = pd.read_parquet(path)[[*NAMES]].rename(columns=NAMES)
    write_recording(folder / "recordings" / "example.parquet", table, dict(SIGNALS.values()))
