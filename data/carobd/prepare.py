"""carOBD: 128 drives of one car in 27 OBD-II signals, without labels.

Source: github.com/eron93br/carOBD, at a pinned commit; its authors ask to be cited and state no licence.
Written are ``recordings/drive1 … ufpe18.parquet``.

The files have no time stamps. The engine's run time, which the ECU counts in seconds, grows by 0.49 s per row in
every drive, and so do its minutes since the trouble codes were cleared: rows are half a second apart, and all drives
together last 41 hours. Each drive gets an even clock from its run time.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from anomalyvae.datasets import local_file, source_file, write_recording

ABOUT = {
    "what": "128 drives (41 h) of one car, 27 OBD-II signals, 2 Hz, no labels",
    "licence": "none stated by the authors, who ask to be cited",
    "source": "github.com/eron93br/carOBD at b910cc9b",
    "size_mb": 110.0,
}
CONVERTED = "b7320a8406b05a0575dcb9c8857bac5211804cbb2013a0312fd1dcb36a98ea22"  # carobd.parquet, all in one file
DIGEST = "09dc08499d800a5c471a6613ba237efd721ede35554926b634d70987d06cb86a"

URL = "https://raw.githubusercontent.com/eron93br/carOBD/b910cc9b9062264179aa9be58d225b3539c04060/obdiidata"
DRIVES = [
    f"{kind}{number}"
    for kind, count in {"drive": 13, "idle": 47, "live": 39, "long": 12, "ufpe": 18}.items()
    for number in range(1, count + 1)
    if (kind, number) != ("live", 6)  # there is none
]
UNITS = {
    "engine_run_time": "s",
    "engine_rpm": "1/min",
    "vehicle_speed": "km/h",
    "throttle": "%",
    "engine_load": "%",
    "coolant_temperature": "°C",
    "long_term_fuel_trim_bank_1": "%",
    "short_term_fuel_trim_bank_1": "%",
    "intake_manifold_pressure": "kPa",
    "fuel_tank": "%",
    "absolute_throttle_b": "%",
    "pedal_d": "%",
    "pedal_e": "%",
    "commanded_throttle_actuator": "%",
    "fuel_air_commanded_equiv_ratio": "",
    "absolute_barometric_pressure": "kPa",
    "relative_throttle_position": "%",
    "intake_air_temp": "°C",
    "timing_advance": "deg",
    "catalyst_temperature_bank1_sensor1": "°C",
    "catalyst_temperature_bank1_sensor2": "°C",
    "control_module_voltage": "V",
    "commanded_evaporative_purge": "%",
    "time_run_with_mil_on": "min",
    "time_since_trouble_codes_cleared": "min",
    "distance_traveled_with_mil_on": "km",
    "warm_ups_since_codes_cleared": "",
}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    converted = local_file("carobd", "carobd.parquet", sha256=CONVERTED)
    everything = None if converted is None else pd.read_parquet(converted).set_index("drive")
    for name in DRIVES:
        rows = _read(name) if everything is None else everything.loc[[name]]
        time_s = np.round(row_step(rows["engine_run_time"].to_numpy()) * np.arange(len(rows)), 3)
        table = rows.assign(time_s=time_s)[["time_s", *UNITS]]
        write_recording(folder / "recordings" / f"{name}.parquet", table, UNITS)


def row_step(run_time_s: np.ndarray) -> float:
    """Return the seconds between two rows, from the first and the last time that the run time grew.

    Parameters
    ----------
    run_time_s : ndarray, shape (n,)
        The engine's run time in each row, in whole seconds.
    """
    grew = np.flatnonzero(np.diff(run_time_s) > 0) + 1
    first, last = grew[0], grew[-1]
    return float((run_time_s[last] - run_time_s[first]) / (last - first))


def _read(name: str) -> pd.DataFrame:
    path = source_file("carobd", f"{name}.csv", url=f"{URL}/{name}.csv", sha256=None)
    # each row ends in a comma that the header lacks; the header misspells the first name, so names go by place
    return pd.read_csv(path, header=None, skiprows=1, usecols=range(len(UNITS)), names=[*UNITS], index_col=False)
