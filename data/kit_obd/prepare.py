"""KIT OBD: 77 drives of one car in ten OBD-II signals; four of them are named after an event.

Source: a data set of the Karlsruhe Institute of Technology (radar.kit.edu, bCtGxdTklQlfQcAq), in the copy of
github.com/hayatu4islam/Automotive_Diagnostics at a pinned commit, which states no licence. Written are

    recordings/      2017-07-05_RT_S_Stau …: date, from, to (number plates), traffic, and the event
    events.parquet   start_s, end_s, kind of the four drives that are named after an event

The time of an event within its drive is not known: start_s and end_s are those of the whole drive.

The dongle polls one signal after the other, about eleven a second; each row repeats the last values of the others,
and a signal is missing until its first value. There are gaps of up to 604 s. In five drives the phone's clock was set
back by less than half a second: those rows are sorted.
"""

from pathlib import Path

import pandas as pd

from anomalyvae.datasets import local_file, source_file, write_events, write_recording

ABOUT = {
    "what": "77 drives (62 h) of one car, 10 OBD-II signals, 11 Hz in turn; four drives named after an event",
    "licence": "none stated in the copy",
    "source": "github.com/hayatu4islam/Automotive_Diagnostics at c3827470",
    "size_mb": 150.0,
}
CONVERTED = "3b6f5d014ec059d05890a32eab535255bc6da075ae2bf38f50a15f2673427479"  # kit_obd.parquet, all in one file
DIGEST = "59f7bbcf44a8e7ca764ae87289b8b411c57045bd037175437272604865c65149"

URL = (
    "https://raw.githubusercontent.com/hayatu4islam/Automotive_Diagnostics/"
    "c3827470b0ce666dea256f4bb48ae21019486a3a/OBD-II-Dataset"
)
SIGNALS = {  # the authors' column: our signal, its unit
    "Engine Coolant Temperature [°C]": ("coolant_temp_c", "°C"),
    "Intake Manifold Absolute Pressure [kPa]": ("map_kpa", "kPa"),
    "Engine RPM [RPM]": ("rpm", "1/min"),
    "Vehicle Speed Sensor [km/h]": ("speed_kmh", "km/h"),
    "Intake Air Temperature [°C]": ("intake_air_temp_c", "°C"),
    "Air Flow Rate from Mass Flow Sensor [g/s]": ("maf_gps", "g/s"),
    "Absolute Throttle Position [%]": ("throttle_pct", "%"),
    "Ambient Air Temperature [°C]": ("ambient_temp_c", "°C"),
    "Accelerator Pedal Position D [%]": ("pedal_d_pct", "%"),
    "Accelerator Pedal Position E [%]": ("pedal_e_pct", "%"),
}
UNITS = dict(SIGNALS.values())
EVENTS = {
    "Vollbremsung": "emergency_braking",
    "Glatteis": "black_ice",
    "Messfehler": "measurement_error",
    "Beschleunigung": "hard_acceleration",
}
NAMES = """
    2017-07-05_RT_S_Stau 2017-07-05_S_KA_Normal 2017-07-06_KA_KA_Normal 2017-07-06_KA_RT_Normal 2017-07-07_RT_S_Normal
    2017-07-07_S_RT_Normal 2017-07-10_KA_KA_Stau 2017-07-11_KA_KA_Stau 2017-07-11_KA_S_Normal 2017-07-11_S_RT_Frei
    2017-07-12_RT_S_Normal 2017-07-12_S_RT_Normal 2017-07-13_KA_KA_Normal 2017-07-13_RT_KA_Stau_Messfehler
    2017-07-14_KA_KA_Frei 2017-07-14_KA_RT_Normal 2017-07-24_RT_KA_Normal 2017-07-26_RT_S_Stau 2017-07-26_S_KA_Normal
    2017-07-27_KA_KA_2_Normal 2017-07-27_KA_KA_Normal 2017-07-28_KA_KA_Normal 2017-07-31_KA_KA_Frei
    2017-07-31_RT_KA_Normal 2017-08-01_KA_KA_Frei 2017-08-01_KA_RT_Normal 2017-08-02_RT_S_Normal
    2017-08-03_S_RT_Normal 2017-08-04_S_RT_Normal 2017-08-05_S_CW_Normal 2017-08-07_KA_RT_Frei
    2017-08-07_RT_KA_Frei_Vollbremsung 2017-08-08_RT_S_Normal 2017-08-08_S_RT_Normal 2017-08-09_RT_S_Normal
    2017-08-09_S_RT_Normal 2017-08-10_RT_S_Normal 2017-08-10_S_RT_Frei 2018-02-14_RT_S_Normal 2018-02-14_S_RT_Normal
    2018-02-16_S_RT_Normal 2018-02-17_BB_RT_Normal_Glatteis 2018-02-17_RT_BB_Frei 2018-02-18_RT_KA_Stau
    2018-02-20_KA_KA_Frei 2018-02-21_BB_RT_Normal 2018-02-21_KA_BB_Normal 2018-02-21_KA_KA_Normal
    2018-02-22_RT_S_Normal 2018-02-23_RT_RT_Frei_Beschleunigung 2018-02-23_RT_S_Normal 2018-02-23_S_RT_Normal
    2018-02-23_S_S_Stau 2018-02-26_KA_KA_Frei 2018-02-26_RT_KA_Normal 2018-02-26_RT_RT_Frei 2018-02-27_KA_KA_Normal
    2018-02-27_KA_RT_Normal 2018-02-28_RT_S_Normal 2018-02-28_S_RT_Normal 2018-03-01_RT_S_Normal
    2018-03-01_S_RT_Normal 2018-03-02_RT_S_Normal 2018-03-06_KA_RT_Normal 2018-03-07_RT_S_Normal
    2018-03-07_S_RT_Normal 2018-03-08_RT_S_Normal 2018-03-19_KA_KA_Frei 2018-03-20_KA_KA_Normal
    2018-03-21_KA_RT_Normal 2018-03-22_RT_S_Normal 2018-03-22_S_RT_Normal 2018-03-23_RT_S_Normal 2018-03-23_S_RT_Stau
    2018-03-26_RT_S_Normal 2018-03-26_S_RT_Stau 2018-04-23_KA_KA_Frei
"""
DRIVES = NAMES.split()


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    converted = local_file("kit_obd", "kit_obd.parquet", sha256=CONVERTED)
    everything = None if converted is None else pd.read_parquet(converted).set_index("drive")
    events = []
    for name in DRIVES:
        file = name[:10] + "_Seat_Leon" + name[10:]
        rows = _read(file) if everything is None else everything.loc[[file]].rename(columns={"time": "time_s"})
        rows = rows[["time_s", *UNITS]].sort_values("time_s", kind="stable", ignore_index=True)
        write_recording(folder / "recordings" / f"{name}.parquet", rows, UNITS)
        kind = EVENTS.get(name.rsplit("_", 1)[1])
        if kind:
            events.append({"recording": name, "start_s": 0.0, "end_s": rows["time_s"].iloc[-1], "kind": kind})
    write_events(folder, pd.DataFrame(events))


def _read(file: str) -> pd.DataFrame:
    path = source_file("kit_obd", f"{file}.csv", url=f"{URL}/{file}.csv", sha256=None)
    rows = pd.read_csv(path).rename(columns={column: signal for column, (signal, _) in SIGNALS.items()})
    time_s = pd.to_timedelta(rows["Time"]).dt.total_seconds()
    return rows.astype(dict.fromkeys(UNITS, float)).assign(time_s=(time_s - time_s.iloc[0]).round(3))
