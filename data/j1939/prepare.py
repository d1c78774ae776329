"""J1939 attacks: the bus of a truck as candump prints it, half a minute of normal operation and one with an attack.

In ``tsc1``, torque commands (TSC1) are injected from an address that sends none. Source:
github.com/SystemsCyber/J1939_Attack_Datasets, at a pinned commit; no licence stated, so for measurements only. Written
are

    recordings/      normal.log, tsc1.log: unchanged
    events.parquet   recording, time_s, kind, identifier: each frame of tsc1 that its authors label as an attack
"""

import shutil
from pathlib import Path

import pandas as pd

from anomalyvae.datasets import source_file, write_events

SOURCE = "github.com/SystemsCyber/J1939_Attack_Datasets at 9751163"
ABOUT = {
    "what": "the bus of a truck (1 min) as candump prints it, half of it with injected torque commands, labelled",
    "licence": "none stated by the authors",
    "source": SOURCE,
    "size_mb": 5.0,
}
LOGS = {
    "normal.log": "9340b4c055eb2f7569e3c2a6a88b8f497fc5e954b27360e0e1d8e285fe99084f",
    "tsc1.log": "e076e10a867fe7d5ac62df7e405a7ba8548e152e7d8968ca58ae44b661757d49",
}
LABELS = "bac04304fe7fe12dae9a56d366c183b0cf01e2cf5c9bc29bba060bbd435affa2"


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    (folder / "recordings").mkdir()
    for name, sha256 in LOGS.items():
        shutil.copyfile(source_file("j1939", name, sha256=sha256, origin=SOURCE), folder / "recordings" / name)
    labels = pd.read_csv(source_file("j1939", "labeled_TSC1.csv", sha256=LABELS, origin=SOURCE), low_memory=False)
    attack = labels[labels["label"] != "normal"]
    events = pd.DataFrame(
        {
            "recording": "tsc1",
            "time_s": attack["timestamp"],
            "kind": attack["label"],
            "identifier": [f"0x{number:08X}" for number in attack["can_id"]],
        }
    )
    write_events(folder, events)
