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

from anomalyvae.datasets import source_file, write_parts

SOURCE = "github.com/imperial-qore/TranAD, data/SMAP_MSL"
ABOUT = {
    "what": "54 channels of satellite telemetry, train and test, 25 signals each, labelled anomalies",
    "licence": "BSD-3-Clause (of the repository)",
    "source": SOURCE,
    "size_mb": 2.0,
}
CONVERTED = "77abe5138b96b9d33fbcc102557da511621f2aa12804b48e5fde464e65b3f46b"
NAMES = {"f0": "telemetry", **{f"f{number}": f"command_{number}" for number in range(1, 25)}}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("smap", "smap.parquet", sha256=CONVERTED, origin=SOURCE)
    write_parts(folder, pd.read_parquet(path), NAMES)
