"""Names of files and signals may hold anything: they are shown, and they do nothing."""

import os

import numpy as np
import pandas as pd
import pytest

from anomalyvae import WindowRecipe
from anomalyvae.cli import main
from anomalyvae.cli.console import say, tell, writer
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.train import train
from anomalyvae.untrusted import from_spreadsheet, printable, read_json, spreadsheet_text

SIGNALS = ("=cmd|' /C calc'!A0", "b\x1b[31m<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}")
NAMES = ["=1+1", "x\x1b[2Jy", "-2 \u202egnp", "n" * 241, "@<b>bold'\"", "caf\udce9"]


def drive(path, seed=0):
    rng = np.random.default_rng(seed)
    time_s = np.arange(200) * 0.2
    values = {name: np.sin(time_s + i) + 0.1 * rng.normal(size=200) for i, name in enumerate(SIGNALS)}
    pd.DataFrame({"time_s": time_s} | values).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    recipe = WindowRecipe(SIGNALS, rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)
    learned = [drive(folder / f"learned{n}.parquet", n) for n in range(3)]
    train(learned, recipe, VAEOutlierDetector(max_epochs=3, hidden=(8,), random_state=0), folder / "model")
    (folder / "drives").mkdir()
    for n, name in enumerate(NAMES):
        os.rename(drive(folder / "plain.parquet", 10 + n), folder / "drives" / f"{name}.parquet")
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert printable(text, lines=True) == text
    return code, out, err


def test_a_folder_of_any_names_is_scored_flagged_and_exported(world, tmp_path, capsys):
    code, out, err = run(capsys, "score", world / "drives", tmp_path / "scores", "--model", world / "model")
    assert (code, "5 files scored" in out, "1 failed" in out) == (3, True, True), err
    assert "caf\\udce9.parquet" in err  # its name is no text: it is named, the others are scored
    queue = tmp_path / "queue.db"
    code, out, _ = run(
        capsys, "flag", tmp_path / "scores", "--model", world / "model", "--queue", queue, "--alarms", "alpha=0.5"
    )
    assert code == 3  # one file has no scores
    exported = tmp_path / "verdicts.csv"
    assert run(capsys, "flag", "--queue", queue, "--export", exported)[0] == 0
    cells = pd.read_csv(exported, dtype=str, keep_default_na=False)
    assert {"'=1+1", "'@<b>bold'\""} & set(cells["recording"])  # near-duplicates are picked once
    assert not cells.map(lambda cell: cell.startswith(("=", "+", "@", "\t"))).any(axis=None)
    assert run(capsys, "flag", "--queue", tmp_path / "new.db", "--load", exported)[0] == 0
    assert run(capsys, "flag", "--queue", tmp_path / "new.db", "--export", tmp_path / "again.csv")[0] == 0
    assert (tmp_path / "again.csv").read_bytes() == exported.read_bytes()


def test_the_health_of_any_names_is_a_table_without_formulas(world, tmp_path, capsys):
    out = tmp_path / "health.csv"
    code, _, _ = run(
        capsys, "health", world / "drives" / "=1+1.parquet", "--model", world / "model", "--out", out,
        "--range", f"{SIGNALS[1]}=[5,6]",
    )  # fmt: skip
    assert code == 0
    cells = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert set(cells["recording"]) == {"'=1+1"}


def test_a_table_of_any_text_opens_in_a_spreadsheet(tmp_path):
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "'x", "plain", None, "caf\udce9"]
    table = pd.DataFrame(
        {"=name": pd.Series(texts, dtype=object), "number": -1.5, "group": pd.Categorical(["=a"] * 10)}
    )
    writer(str(tmp_path / "out.csv"))(table)
    read = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(read) == ["'=name", "number", "group"]
    assert list(read["'=name"]) == [*(f"'{text}" for text in texts[:7]), "plain", "", "caf\\udce9"]
    assert list(read["number"]) == [-1.5] * 10
    assert set(read["group"]) == {"'=a"}


@pytest.mark.parametrize("text", ["=1", "'", "''", "'=1", "a", "", "'a", "''=1", "-", "\uff1d1"])
def test_what_is_made_safe_is_read_back(text):
    assert from_spreadsheet(spreadsheet_text(text)) == text


def test_what_is_printed_cannot_control_a_terminal(capsys):
    hostile = "a\x1b]0;x\x07\x9b\u202e\u2066\x00\x7f\udcff\u200b\r"
    say(f"{hostile}\n\tä 北京 🚗")
    tell(f"{hostile}\nb")
    out, err = capsys.readouterr()
    assert out == "a\\x1b]0;x\\x07\\x9b\\u202e\\u2066\\x00\\x7f\\udcff\\u200b\\r\n\tä 北京 🚗\n"
    assert err == "anomalyvae: a\\x1b]0;x\\x07\\x9b\\u202e\\u2066\\x00\\x7f\\udcff\\u200b\\r\\nb\n"


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "NaN", "1e999", "-Infinity", "[" * 10**6, "", b"\xff", '{"a": {"b": 1, "b": 1}}']
)
def test_json_that_means_no_one_thing_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


def test_a_folder_that_is_missing_is_named_before_the_work(world, tmp_path, capsys):
    out = tmp_path / "none" / "scores.csv"
    code, _, err = run(capsys, "score", world / "drives" / "=1+1.parquet", out, "--model", world / "model")
    assert code == 1
    assert f"error: {out} cannot be written: its folder does not exist. Create the folder." in err
