"""A recording becomes rows.

``read_log`` turns a file into signals, ``resample`` puts them on one clock, and a ``WindowRecipe`` cuts them into
windows, one row each; every row keeps its way back to (recording, start, end). ``stream_windows`` does the same with a
file that is larger than memory.
"""

from anomalyvae.recordings.bus_recipe import bus_recipe
from anomalyvae.recordings.choice import choose_recipe
from anomalyvae.recordings.clock import resample
from anomalyvae.recordings.cutting import read_windows, stream_windows
from anomalyvae.recordings.log import Log, Signal
from anomalyvae.recordings.reading import READERS, list_signals, read_log
from anomalyvae.recordings.tabular import log_from_frame
from anomalyvae.recordings.windows import WindowRecipe, Windows

__all__ = [
    "READERS",
    "Log",
    "Signal",
    "WindowRecipe",
    "Windows",
    "bus_recipe",
    "choose_recipe",
    "list_signals",
    "log_from_frame",
    "read_log",
    "read_windows",
    "resample",
    "stream_windows",
]
