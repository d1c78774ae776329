"""ASD: six application servers, with labelled anomalies in their test parts.

Each server has 19 metrics, scaled to [0, 1], a row every five minutes. Source: Li et al. 2021
(doi 10.1145/3447548.3467075), github.com/zhhlee/InterFusion; MIT. Written are

    recordings/      1.train, 1.test …; metric_0 … metric_18
    events.parquet   start_s, end_s of consecutive rows labelled anomalous; in test parts only

``time_s`` counts rows, not seconds. Train and test of a server are two recordings, each from zero.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_parts

SOURCE = "github.com/zhhlee/InterFusion at 8c85d51"
ABOUT = {
    "what": "6 application servers, train and test, 19 metrics each, labelled anomalies",
    "licence": "MIT (of the repository)",
    "source": SOURCE,
    "size_mb": 1.0,
}
CONVERTED = "52b1bc8e59a09991204fc354cb4f37c7673a3e6d9a931835485afb859a299eaf"
NAMES = {f"f{number}": f"metric_{number}" for number in range(19)}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("asd", "asd.parquet", sha256=CONVERTED, origin=SOURCE)
    write_parts(folder, pd.read_parquet(path), NAMES)
