"""SMAP: telemetry of a satellite, 54 channels with labelled anomalies in their test parts.

Each channel has one telemetry value, scaled to [-1, 1], and 24 one-hot commands. Source: Hundman et al. 2018
(arXiv 1802.04431), in the copy of github.com/imperial-qore/TranAD; BSD-3 (that repository). Written are

    recordings/      A-1.train, A-1.test …; the telemetry and command_1 … command_24
    events.parquet   start_s, end_s of consecutive rows labelled anomalous; in test parts only

The authors removed the times: ``time_s`` counts rows. Train and test of a channel are two recordings, each from
zero. Channel P-2 is listed twice; its intervals are merged.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import labelled_intervals, source_file, write_events, write_recording

SOURCE = "github.com/imperial-qore/TranAD, data/SMAP_MSL"
ABOUT = {
    "what": "54 channels of satellite telemetry, train and test, 25 signals each, labelled anomalies",
    "licence": "BSD-3-Clause (of the repository)",
    "source": SOURCE,
    "size_mb": 2.0,
}
CONVERTED = "77abe5138b96b9d33fbcc102557da511621f2aa12804b48e5fde464e65b3f46b"
NAMES = {"time": "time_s", "f0": "telemetry", **{f"f{number}": f"command_{number}" for number in range(1, 25)}}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("smap", "smap.parquet", sha256=CONVERTED, origin=SOURCE)
    events = []
    for (channel, split), rows in pd.read_parquet(path).groupby(["series", "split"], sort=True):
        name = f"{channel}.{split}"
        write_recording(folder / "recordings" / f"{name}.parquet", rows[[*NAMES]].rename(columns=NAMES), {})
        intervals = labelled_intervals(rows["time"].to_numpy(), rows["label"].to_numpy())
        events.append(intervals.assign(recording=name, kind="anomaly"))
    write_events(folder, pd.concat(events)[["recording", "start_s", "end_s", "kind"]])
