"""Driver behaviour: three trips of one car with 53 timed manoeuvres, 42 of them aggressive.

A phone on the windscreen, 51 Hz; axes of the earth, not of the car. Source:
github.com/jair-jr/driverBehaviorDataset (Ferreira et al. 2017, doi 10.1371/journal.pone.0174959), at a pinned
commit; its authors state no licence. Written are

    recordings/      trip17, trip20, trip21: acceleration, linear acceleration (without gravity), gyroscope
    events.parquet   start_s, end_s, kind: aggressive_braking … or non_aggressive

The sensors have their own time stamps; each accelerometer row gets the nearest sample of the others. Linear
acceleration is acceleration without gravity on the vertical axis: x and y are equal in both, so nine signals hold
the information of six. The magnetometer is left out, since only one trip has it.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_events, write_recording

SOURCE = "github.com/jair-jr/driverBehaviorDataset at b65118d7"
ABOUT = {
    "what": "3 trips (0.5 h) with 53 timed manoeuvres, 42 aggressive; phone acceleration and gyroscope, 51 Hz",
    "licence": "none stated by the authors",
    "source": SOURCE,
    "size_mb": 7.2,
}
CONVERTED = "8d7ddbafc1f1e871e33f1d42442a1cc42e16627643c7f9b123e2ef11f01ed90f"
CONVERTED_EVENTS = "de8481698ef4eb4c7721b44e320134337ba75822edbdefd207d98f0d8e60ea45"

SIGNALS = {f"{sensor}_{axis}": f"{sensor}_{axis}_mps2" for sensor in ("acc", "lin") for axis in "xyz"}
SIGNALS |= {f"gyro_{axis}": f"gyro_{axis}_radps" for axis in "xyz"}
UNITS = {name: "rad/s" if name.startswith("gyro") else "m/s²" for name in SIGNALS.values()}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    trips = pd.read_parquet(source_file("jair_jr", "jair_jr.parquet", sha256=CONVERTED, origin=SOURCE))
    marks = source_file("jair_jr", "jair_jr_events.parquet", sha256=CONVERTED_EVENTS, origin=SOURCE)
    for name, rows in trips.groupby("drive"):
        table = rows[["time", *SIGNALS]].rename(columns={"time": "time_s", **SIGNALS})
        write_recording(folder / "recordings" / f"{name}.parquet", table, UNITS)
    events = pd.read_parquet(marks).rename(columns={"drive": "recording", "event": "kind"})
    write_events(folder, events[["recording", "start_s", "end_s", "kind"]])
