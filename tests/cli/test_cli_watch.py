"""The verb watch: lines in, a line per window out at once, and how it ends."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe, save
from anomalyvae.cli import main
from anomalyvae.recordings import read_windows

RECIPE = WindowRecipe(("a", "b"), rate_hz=10, length_s=1, stride_s=0.1, max_gap_s=0.5)


def lines(rows, begin=0):
    values = np.random.default_rng(0).normal(size=(begin + rows, 2))[begin:]
    return [f"{(begin + i) / 10},{a},{b}\n" for i, (a, b) in enumerate(values)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    for seed in range(2):
        values = np.random.default_rng(seed).normal(size=(300, 2))
        frame = pd.DataFrame(values, columns=["a", "b"])
        frame.insert(0, "time_s", np.arange(300) / 10)
        frame.to_parquet(folder / f"{seed}.parquet")
    windows = read_windows(sorted(folder.glob("*.parquet")), RECIPE)
    detector = VAEOutlierDetector(random_state=0, max_epochs=3, hidden=(8,)).fit(windows.rows)
    return save(detector, folder / "model", recipe=RECIPE.to_dict(), precision="double")


def watch(model, *arguments, **streams):
    command = [sys.executable, "-m", "anomalyvae", "watch", *arguments, "--model", str(model)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, bufsize=1, **({"stdout": pipe, "stderr": pipe} | streams))


def test_a_line_goes_out_for_each_that_comes_in(model):
    with watch(model, "-", "--json", stdin=subprocess.PIPE) as process:
        process.stdin.write("time_s,a,b\n" + "".join(lines(40)))
        process.stdin.flush()
        first = [json.loads(process.stdout.readline()) for _ in range(31)]
        for line, begin in zip(lines(5, begin=40), range(40, 45), strict=True):
            process.stdin.write(line)
            process.stdin.flush()
            score = json.loads(process.stdout.readline())  # would hang if it were buffered
            assert score["end_s"] == pytest.approx((begin + 1) / 10)
        process.stdin.close()
        rest, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0
    assert rest == ""
    assert sorted(score["start_s"] for score in first) == pytest.approx(np.arange(31) / 10)
    assert list(score) == [
        "recording", "start_s", "end_s", "time", "anomaly_score", "p_value", "is_outlier", "signals",
    ]  # fmt: skip
    assert score["time"] is None
    assert score["recording"] == "stdin"
    assert err.splitlines()[-1].startswith("anomalyvae: 36 windows scored, ")


def test_its_lines_are_those_of_score(model, tmp_path, capsys, write):
    drive = write("time_s,a,b\n" + "".join(lines(60)), "drive.csv")
    promise = ["--alarms", "per_hour=18000", "--tail", "pareto"]
    assert main(["score", str(drive), str(tmp_path / "scores.csv"), "--model", str(model), *promise, "--quiet"]) == 0
    assert main(["watch", str(drive), "--model", str(model), *promise, "--timeout", "0.05"]) == 5
    out, err = capsys.readouterr()
    (tmp_path / "watched.csv").write_text(out)
    watched = pd.read_csv(tmp_path / "watched.csv").sort_values("start_s", ignore_index=True)
    scored = pd.read_csv(tmp_path / "scores.csv")
    assert list(watched) == [*list(scored)[:-1], "signals"]
    pd.testing.assert_frame_equal(watched[list(scored)[:-1]], scored[list(scored)[:-1]], rtol=1e-9)
    assert watched["is_outlier"].any()
    assert watched["signals"].dropna().str.fullmatch(r"[ab] \d+%(; [ab] \d+%)?").all()
    assert err == f"anomalyvae: 51 windows scored, {watched['is_outlier'].sum()} flagged, stopped by --timeout\n"


def test_ctrl_c_is_a_normal_end(model, write):
    drive = write("time_s,a,b\n" + "".join(lines(30)), "drive.csv")
    with watch(model, str(drive), env=os.environ | {"PYTHONUNBUFFERED": ""}) as process:
        for _ in range(22):  # a header, and 21 windows
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert err.startswith("anomalyvae: 21 windows scored, ")
    assert "Traceback" not in err


def test_errors_say_what_is_wrong(model, tmp_path, capsys):
    (tmp_path / "drive.csv").write_text("time_s,a\n")
    assert main(["watch", str(tmp_path / "drive.csv"), "--model", str(model)]) == 1
    assert "drive.csv has no column for signal 'b'." in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "none.csv"), "--model", str(model)]) == 1
    assert "none.csv: No such file or directory" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "x.parquet"), "--model", str(model)]) == 1
    assert "is a Parquet file, which cannot grow" in capsys.readouterr().err


def test_no_window_is_no_success_and_the_reason_is_said(model, tmp_path, capsys, write):
    slow = write("time_s,a,b\n" + "".join(f"{5 * i},1,2\n" for i in range(30)), "slow.csv")
    said = "failed: {}: It has no window: samples of 'a' are usually 5 s apart (column 'time_s' in seconds), more than"
    assert main(["watch", str(slow), "--model", str(model), "--timeout", "0.05", "--quiet"]) == 5
    assert said.format("slow") in capsys.readouterr().err
    with watch(model, "-", stdin=slow.open()) as process:
        assert said.format("stdin") in process.communicate(timeout=60)[1]
    assert process.returncode == 3
    (tmp_path / "hole.csv").write_text("time_s,a,b\n" + "".join(f"{i / 10},1,\n" for i in range(30)))
    assert main(["watch", str(tmp_path / "hole.csv"), "--model", str(model), "--timeout", "0.05", "--quiet"]) == 5
    assert capsys.readouterr().err == "anomalyvae: failed: hole: It has no window: it has no value of 'b'.\n"
    (tmp_path / "nothing.csv").write_text("")
    assert main(["watch", str(tmp_path / "nothing.csv"), "--model", str(model), "--timeout", "0.05", "--quiet"]) == 5
    assert capsys.readouterr().err == "anomalyvae: failed: no line came\n"


def test_ignored_rows_are_counted(model, tmp_path, capsys):
    rows = lines(40)
    (tmp_path / "drive.csv").write_text("time_s,a,b\n" + "".join([*rows[:30], rows[25], "torn,1\n", *rows[30:]]))
    options = ["--model", str(model), "--timeout", "0.1"]
    assert main(["watch", str(tmp_path / "drive.csv"), *options]) == 5
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("anomalyvae: a row was left out, and so will be others like it: it came late, ")
    assert err[-1].endswith("flagged, 2 rows ignored, stopped by --timeout")
    assert main(["watch", str(tmp_path / "drive.csv"), *options, "--quiet", "--late"]) == 5
    assert capsys.readouterr().err == ""


def test_kills_lose_no_line_and_repeat_one_at_most(model, tmp_path):
    drive, out = tmp_path / "drive.csv", tmp_path / "scores.csv"
    rows = lines(120)
    resume = [str(drive), "--resume", str(tmp_path / "printed.json")]
    for end in (30, 60, 90):
        drive.write_text("time_s,a,b\n" + "".join(rows[:end]))
        with watch(model, *resume, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process, out.open("a") as file:
            for _ in range(15):  # in the middle
                file.write(process.stdout.readline())
            process.kill()
            file.write(process.stdout.read())  # what it had printed
    drive.write_text("time_s,a,b\n" + "".join(rows))
    with out.open("a") as file:
        assert watch(model, *resume, "--timeout", "0.1", stdout=file, stderr=subprocess.DEVNULL).wait(60) == 5
    start_s = pd.read_csv(out)["start_s"]  # numbers: there is one header
    assert start_s.unique() == pytest.approx(np.arange(111) / 10)
    assert start_s.is_monotonic_increasing
    assert start_s.duplicated().sum() <= 3
