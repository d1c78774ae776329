"""SKAB: 34 experiments with anomalies on a water circulation testbed, and one without.

Eight sensors, about one row a second. Source: github.com/waico/SKAB (Katser and Kozitsin 2020,
doi 10.34740/KAGGLE/DSV/1693952), at a pinned commit; GPL-3.0. Written are

    recordings/      anomaly-free, valve1-0 … valve2-3, other-1 … other-14; the authors' columns
    events.parquet   start_s, end_s of consecutive rows labelled anomalous (kind anomaly)
    changepoints.parquet   recording, time_s: the authors' second labels, for change-point detection
    training.parquet       recording, end_s: the leaderboard trains on rows up to end_s

The leaderboard trains on the first 400 rows of each experiment. Some rows are missing, so ``end_s`` is more than 399
in most.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import labelled_intervals, local_file, source_file, write_events, write_recording

ABOUT = {
    "what": "35 experiments on a water circulation testbed (13 h), 8 sensors, 1 Hz, labelled anomalies",
    "licence": "GPL-3.0",
    "source": "github.com/waico/SKAB at 80bac4a0",
    "size_mb": 4.5,
}
CONVERTED = "3f325c3361b5a8eeec72eeebaa1cd7caef2c6042b8e5d26b66709565147422fe"  # skab.parquet, all in one file
DIGEST = "35e25bfc127923f01ffcb34dff829727ce58c60b5940277b51f814607a377850"

URL = "https://raw.githubusercontent.com/waico/SKAB/80bac4a00d9cd2a277a6fda8f6a6d5936b892bd2/data"
FILES = (
    "anomaly-free/anomaly-free",
    *(f"other/{number}" for number in range(1, 15)),
    *(f"valve1/{number}" for number in range(16)),
    *(f"valve2/{number}" for number in range(4)),
)
UNITS = {
    "Accelerometer1RMS": "g",
    "Accelerometer2RMS": "g",
    "Current": "A",
    "Pressure": "bar",
    "Temperature": "°C",
    "Thermocouple": "°C",
    "Voltage": "V",
    "Volume_Flow_RateRMS": "l/min",
}
TRAINING_ROWS = 400


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    converted = local_file("skab", "skab.parquet", sha256=CONVERTED)
    everything = None if converted is None else pd.read_parquet(converted).set_index("series")
    events, changes, training = [], [], []
    for file in FILES:
        rows = _read(file) if everything is None else everything.loc[[file]].rename(columns={"time": "time_s"})
        name = file.replace("anomaly-free/", "").replace("/", "-")
        write_recording(folder / "recordings" / f"{name}.parquet", rows[["time_s", *UNITS]], UNITS)
        time_s = rows["time_s"].to_numpy()
        if name == "anomaly-free":
            continue
        events.append(labelled_intervals(time_s, rows["label"].to_numpy()).assign(recording=name, kind="anomaly"))
        changes.append(pd.DataFrame({"recording": name, "time_s": time_s[rows["changepoint"].to_numpy() != 0]}))
        training.append({"recording": name, "end_s": time_s[TRAINING_ROWS - 1]})
    write_events(folder, pd.concat(events)[["recording", "start_s", "end_s", "kind"]])
    pd.concat(changes).to_parquet(folder / "changepoints.parquet", index=False)
    pd.DataFrame(training).to_parquet(folder / "training.parquet", index=False)


def _read(file: str) -> pd.DataFrame:
    path = source_file("skab", f"{file}.csv", url=f"{URL}/{file}.csv", sha256=None)
    rows = pd.read_csv(path, sep=";", parse_dates=["datetime"])
    rows = rows.rename(columns={"Volume Flow RateRMS": "Volume_Flow_RateRMS", "anomaly": "label"})
    if "label" not in rows:  # the experiment without an anomaly has no such columns
        rows = rows.assign(label=0, changepoint=0)
    return rows.assign(time_s=(rows["datetime"] - rows["datetime"].iloc[0]).dt.total_seconds())
