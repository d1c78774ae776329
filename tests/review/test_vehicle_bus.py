"""The loop over raw logs of a vehicle bus: every step that reads a recording takes the message databases."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_queue import counts

from anomalyvae import read_log
from anomalyvae.bundle import read_manifest
from anomalyvae.cli import main
from anomalyvae.review import Queue
from anomalyvae.review.evidence import Evidence
from anomalyvae.review.label_studio import read_label_studio

DRIVES = Path(__file__).parents[3] / "shared" / "data" / "css_drive"
DATABASE = DRIVES / "canmod-gps.dbc"
SIGNALS = ("AccelerationX", "Speed")
pytestmark = [
    pytest.mark.skipif(not DRIVES.is_dir(), reason="needs ../shared/data/css_drive"),
    pytest.mark.filterwarnings("ignore:.*are in no database"),
]


def run(*arguments):
    return main([*map(str, arguments)])


def test_the_loop_runs_on_raw_bus_logs(tmp_path, capsys):
    log = min(DRIVES.rglob("*.MF4"), key=lambda path: path.stat().st_size)
    (tmp_path / "drives").mkdir()
    shutil.copy(log, tmp_path / "drives" / "a.MF4")
    drives, model, queue = tmp_path / "drives", tmp_path / "model", tmp_path / "queue.db"
    named = ("--dbc", DATABASE)
    windows = [f"--signals={','.join(SIGNALS)}", "--rate-hz=5", "--length-s=2", "--stride-s=1", "--max-gap-s=2"]
    settings = [
        "--set",
        "max_epochs=2",
        "--set",
        "hidden=[8]",
        "--set",
        "random_state=0",
        "--quiet",
        "--set",
        "contamination=0.2",
    ]
    assert run("fit", drives / "a.MF4", "--model", model, *named, *windows, *settings) == 0
    assert run("score", drives, tmp_path / "scores", "--model", model, *named, "--quiet") == 0

    flag = ("flag", tmp_path / "scores", "--model", model, "--queue", queue, "--budget", 3)
    capsys.readouterr()
    assert run(*flag) == 1
    assert "databases='car.dbc'" in capsys.readouterr().err
    assert run(*flag, *named) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SIGNALS)

    with Queue(queue) as opened:
        events = opened.events()
        assert 1 <= len(events) <= 3
        event = events.to_dict("records")[0]
        view = Evidence(model, [drives], databases=DATABASE).signals(event, 2.0)
        measured = read_log(drives / "a.MF4", databases=DATABASE)
        for name, told in zip(SIGNALS, view["signals"], strict=True):
            assert told["name"] == name
            signal = measured[name]
            near = (signal.time_s > event["start_s"] - 4) & (signal.time_s < event["end_s"] + 4)
            values = np.array([value for value in told["values"] if value is not None])
            assert len(values) > 10
            low, high = signal.values[near].min(), signal.values[near].max()
            assert ((values >= low - 1e-6) & (values <= high + 1e-6)).all()
            assert np.isfinite(np.array(told["reconstruction"], dtype=float)).any()
        with pytest.raises(ValueError, match="without a database"):
            Evidence(model, [drives]).signals(event)

        export = ("flag", "--queue", queue, "--model", model, "--export", tmp_path / "tasks.json")
        assert run(*export) == 1
        assert run(*export, *named) == 0
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        assert {len(task["data"]["signals"]["signal_1"]) > 20 for task in tasks} == {True}
        assert counts(read_label_studio(tmp_path / "tasks.json", opened)) == (0, 0, {})
        opened.give(event["event_id"], "fault", "ann")

    out = tmp_path / "next"
    retrain = ("retrain", "--queue", queue, "--champion", model, "--learned", drives / "a.MF4", "--out", out, "--quiet")
    assert run(*retrain) == 1
    assert run(*retrain, *named) == 0
    learned = read_manifest(out)
    assert isinstance(learned, pd.DataFrame)
    assert (learned["role"] == "fault").sum() == 1
