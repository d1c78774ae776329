"""Pothole drives: five trips with 96 marked potholes, and fifteen drives on good and bad roads.

A phone in a car, spring 2017: accelerometer, gyroscope and GNSS speed at 5 Hz, and the times of potholes, marked by
hand. Source: github.com/shouvikmani/Intelligent-Pothole-Detection, at a pinned
commit; its authors state no licence. Written are

    recordings/   trip1 … trip5, with their potholes in events.parquet
    roads/        good1 … good10 and bad1 … bad5, drives on roads that are good or bad as a whole; no events

Changes: time stamps follow the phone's 5 Hz clock (see `even_stamps`); a speed of -1, by which the phone marks an
unknown speed, becomes a missing value; positions are left out, because they reveal where people were, and would let
a model learn the place.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from anomalyvae.datasets import source_file, write_events, write_recording

ABOUT = {
    "what": "5 drives (0.55 h) with 96 marked potholes, 15 on good and bad roads; phone IMU and speed, 5 Hz",
    "licence": "none stated by the authors",
    "source": "github.com/shouvikmani/Intelligent-Pothole-Detection at a66c80c6",
    "size_mb": 3.7,
}

URL = "https://raw.githubusercontent.com/shouvikmani/Intelligent-Pothole-Detection/a66c80c6/data"

SIGNALS = {  # the authors' column: our signal, its unit
    "speed": ("speed_mps", "m/s"),
    "accelerometerX": ("acc_x_g", "g"),
    "accelerometerY": ("acc_y_g", "g"),
    "accelerometerZ": ("acc_z_g", "g"),
    "gyroX": ("gyro_x_radps", "rad/s"),
    "gyroY": ("gyro_y_radps", "rad/s"),
    "gyroZ": ("gyro_z_radps", "rad/s"),
}
UNITS = dict(SIGNALS.values())

SHA256 = {
    "trip1_potholes.csv": "34ff6efbd38e1979ad930ff1428f2a56824c09f724aeda268d163ab53c3df48e",
    "trip1_sensors.csv": "6277a6afa8977b68f69f4a5cc43a589dbfdaf13d163b4fde61c10ab2dbb70ba6",
    "trip2_potholes.csv": "bb5c553d8701fff16810561efb3c8f57ec112b25847052547050c70fd06f9084",
    "trip2_sensors.csv": "6f402e17ebfb6a83ae4a4cc6eb77e4d6e4beafa467c0831eca37c7772f6149c9",
    "trip3_potholes.csv": "1de652532c53c682588fe8eb3c1025e5b1dacd8a9925e6421ae3022c2e6b4486",
    "trip3_sensors.csv": "7c4a141b83e59202a270b66f6a928079e6d3f2b2f6e52d1f97b8241996c87c45",
    "trip4_potholes.csv": "a81be43b46f246f4fb753badbc8b2dff004418eeff12b38515870c6198d12f68",
    "trip4_sensors.csv": "504e5f26733717e0300634a469a3949bdacc712a9e9729a308531a9b858dc250",
    "trip5_potholes.csv": "f83b10d629d0d88c031a09b10fb99d417f85436f4328523ba583643d819c8acd",
    "trip5_sensors.csv": "6dc710a150c1ec6286ff9b98ed5f140e3e25a6127d3cd2e180959392110dcaa5",
    "roads/good1_sensors.csv": "b4f5a018402bf062bfd4a74e817d2762c9d0a51c497ba33312124d8fb8036470",
    "roads/good2_sensors.csv": "836439a72fd43fe5ffe3ca969bdc108aa28a3d0258046c8b88845d3e9de3ba76",
    "roads/good3_sensors.csv": "563187f9c4372272e7886422de514dcf335c0ce33082bf81464298efb41e6487",
    "roads/good4_sensors.csv": "0605605a064f710e4aac3dc32aac00cea47d51b8e4077021a8b6c5bdccca97db",
    "roads/good5_sensors.csv": "997779c5f7723df7bce8f90243a679ee1630db805a7c6f58e8d0553ddee3af2d",
    "roads/good6_sensors.csv": "83543e045c4574a5eae95e03e4ad12f709e70e93b768e3f927cc79385737d3f1",
    "roads/good7_sensors.csv": "03f86581c97e2ee116fe9555e9230d33cabff2a6e90706e6ff6fe010675803d1",
    "roads/good8_sensors.csv": "870f154e9543e109ff3875ec32c6b7e96ad130d4c7dc11eabcddd56f2e013c0d",
    "roads/good9_sensors.csv": "6772f763d8b17ec506257efaaec99d7100159f1c06909ce4220870597501c366",
    "roads/good10_sensors.csv": "a9fe229d87c4d37fae1568ff8f03c61263f06c063591072f7872d9a90d3bec7e",
    "roads/bad1_sensors.csv": "788396c71ecccc9c78b9a3b1b41e1ca6a3f20bab0ac4f32a4cbd589a1ae272de",
    "roads/bad2_sensors.csv": "558e515771e319265dc059dcf5b645875ce441852215faa4b8a65a2ecc3d9b9f",
    "roads/bad3_sensors.csv": "dcbd032bde2f6e7e9a4bf875f67e3e9d032d13a9b1785449414a813436ee6914",
    "roads/bad4_sensors.csv": "df3dd756125ab7c5dbcade557a4a5172e7ce6cb6726d70e3600952159790e9f5",
    "roads/bad5_sensors.csv": "80f7f5718071f67a0c14e1fc7825cb7e5bea6b9465c6927dd38d0b65a28e7dcb",
}

STEP_S = 0.2  # the phone's timer
ROUNDING_S = 0.05  # its stamps are written to a tenth of a second


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    marks = []
    for name in (f"trip{number}" for number in range(1, 6)):
        start = _write_drive(folder / "recordings" / f"{name}.parquet", _read(f"{name}_sensors.csv"))
        time_s = np.round(_read(f"{name}_potholes.csv")["timestamp"].to_numpy() - start, 3)
        marks.append(pd.DataFrame({"recording": name, "time_s": time_s, "kind": "pothole"}))
    write_events(folder, pd.concat(marks))
    for file in SHA256:
        if file.startswith("roads/"):
            name = Path(file).name.removesuffix("_sensors.csv")
            _write_drive(folder / "roads" / f"{name}.parquet", _read(file))


def even_stamps(stamps: np.ndarray) -> np.ndarray:
    """Undo the rounding of the phone's time stamps.

    The phone's timer has 5 Hz, and each stamp is rounded to a tenth of a second, which makes steps of 0.1 and 0.3 s.
    Between two pauses the stamps follow an even clock to within 0.05 s; its phase is the middle of the possible range.

    Parameters
    ----------
    stamps : ndarray, shape (n,)
        Unix time in seconds, as written.

    Returns
    -------
    ndarray, shape (n,)
        Unix time in seconds; no stamp moves by more than 0.05 s.
    """
    even = np.empty_like(stamps)
    pauses = np.flatnonzero(np.diff(stamps) > 2 * STEP_S) + 1
    for rows in np.split(np.arange(len(stamps)), pauses):
        clock = STEP_S * np.arange(len(rows))
        offset = stamps[rows] - clock
        even[rows] = clock + (offset.min() + offset.max()) / 2
    moved = np.abs(even - stamps).max()
    if moved > ROUNDING_S + 1e-3:
        raise ValueError(f"Stamps are {moved:.3f} s off a 5 Hz clock, expected at most {ROUNDING_S} s. Check the file.")
    return even


def _read(file: str) -> pd.DataFrame:
    remote = f"Good_Road_Bad_Road/{Path(file).name}" if file.startswith("roads/") else f"Pothole_Non_Pothole/{file}"
    return pd.read_csv(source_file("potholes", file, url=f"{URL}/{remote}", sha256=SHA256[file]))


def _write_drive(path: Path, drive: pd.DataFrame) -> float:
    stamps = even_stamps(drive["timestamp"].to_numpy())
    start = float(np.round(stamps[0], 2))
    table = pd.DataFrame({"time_s": np.round(stamps - start, 3)})
    for column, (signal, _) in SIGNALS.items():
        table[signal] = drive[column]
    table["speed_mps"] = table["speed_mps"].where(table["speed_mps"] >= 0)
    write_recording(path, table, UNITS, start_unix_s=start)
    return start
