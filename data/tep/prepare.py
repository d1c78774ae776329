"""Tennessee Eastman: a simulated chemical plant, 52 signals, its normal operation and ten faults.

Source: github.com/camaramm/tennessee-eastman-profBraatz at commit 0643318; University of Illinois licence (in that
repository). Written is ``tep.parquet`` with ``series`` (d00: normal; d01 to d10: faults), ``split``, ``time``, ``f0``
to ``f51`` and ``label``. Of d00 there is a training part of 500 rows; a fault is present from row 160 of each test.
They are a table for the benchmark, not recordings.
"""

import shutil
from pathlib import Path

from anomalyvae.datasets import source_file

SOURCE = "github.com/camaramm/tennessee-eastman-profBraatz at 0643318"
ABOUT = {
    "what": "Tennessee Eastman process, 52 signals: normal rows and tests of ten faults; rows, not recordings",
    "licence": "University of Illinois (in the repository)",
    "source": SOURCE,
    "size_mb": 1.4,
}
SHA256 = "29592a4b45737ccf971b4b8eb8a94298d226ba5db3193a07618d121edf9e47e5"


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    shutil.copyfile(source_file("tep", "tep.parquet", sha256=SHA256, origin=SOURCE), folder / "tep.parquet")
