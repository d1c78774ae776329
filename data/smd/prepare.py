"""SMD: four server machines, with labelled anomalies in their test parts.

Each machine has 38 metrics, scaled to [0, 1], a row a minute. Source: the Server Machine Dataset of Su et al. 2019
(doi 10.1145/3292500.3330672), in the copy of github.com/zhhlee/InterFusion; MIT (that repository). Written are

    recordings/      1-6.train, 1-6.test …; metric_0 … metric_37
    events.parquet   start_s, end_s of consecutive rows labelled anomalous; in test parts only

``time_s`` counts rows, not seconds. Train and test of a machine are two recordings, each from zero.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_parts

SOURCE = "github.com/zhhlee/InterFusion at 8c85d51"
ABOUT = {
    "what": "4 server machines, train and test, 38 metrics each, labelled anomalies",
    "licence": "MIT (of the repository)",
    "source": SOURCE,
    "size_mb": 10.5,
}
CONVERTED = "c12c38649e29d999d564c7a98b3f03f34a61f56f014150ff424a001df6190a04"
NAMES = {f"f{number}": f"metric_{number}" for number in range(38)}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    path = source_file("smd", "smd.parquet", sha256=CONVERTED, origin=SOURCE)
    write_parts(folder, pd.read_parquet(path), NAMES)
