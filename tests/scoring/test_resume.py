"""A run that is interrupted goes on where it stopped: each file is scored exactly once."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet
import pyarrow.parquet as pq
import pytest
from score_tables import scores_in, summary_of

from anomalyvae import save, score_folder
from anomalyvae.cli import main
from anomalyvae.folders import is_scratch
from anomalyvae.scoring import batch
from anomalyvae.scoring import one_file as parts
from anomalyvae.scoring.one_file import Work, score_file

# Runs after runs


def test_what_is_done_is_not_done_again(bundle, drives, fresh, tmp_path):
    target = tmp_path / "out"
    score_folder(bundle, drives, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.parquet")}
    fresh[:9].to_parquet(drives / "new.parquet")
    summary = score_folder(bundle, drives, target)
    assert (summary["scored"], summary["kept"], summary["rows"]) == (1, 3, 409)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_input_is_scored_again(bundle, drives, tmp_path):
    target, table = tmp_path / "out", drives / "b.parquet"
    score_folder(bundle, drives, target)
    before, stat = scores_in(target), table.stat()
    content = bytearray(table.read_bytes())
    rows = pd.read_parquet(table)
    at = content.find(np.float64(rows["signal 5"].iloc[0]).tobytes())
    content[at : at + 8] = np.float64(rows["signal 5"].iloc[0] + 50).tobytes()
    table.write_bytes(content)
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither size nor time tells
    summary = score_folder(bundle, drives, target)
    assert (summary["scored"], summary["kept"]) == (1, 2)
    assert scores_in(target)["b.parquet"] != before["b.parquet"]


def test_scores_of_an_input_that_is_gone_stay_and_are_reported(bundle, drives, tmp_path):
    score_folder(bundle, drives, tmp_path / "out")
    (drives / "b.parquet").unlink()
    summary = score_folder(bundle, drives, tmp_path / "out")
    assert summary["orphans"] == ["b.parquet"]
    assert summary["rows"] == 400 - 134
    assert (tmp_path / "out" / "b.parquet").exists()


def test_scores_of_files_of_one_name_in_two_folders_are_not_mixed(bundle, drives, fresh, tmp_path, capsys):
    target, other = tmp_path / "out", tmp_path / "night"
    score_folder(bundle, drives, target)
    before = scores_in(target)
    other.mkdir()
    fresh[:9].to_parquet(other / "b.parquet")
    with pytest.raises(FileExistsError, match=f"of 1 other files .* {drives}/b.parquet and {other}/b.parquet. Choose"):
        score_folder(bundle, other, target)
    assert scores_in(target) == before
    (other / "b.parquet").rename(other / "c.parquet")
    assert main(["score", str(other), str(target), "--model", str(bundle)]) == 0
    assert "3 files of scores in" in capsys.readouterr().err
    drives.rename(tmp_path / "archive")  # the same files
    assert score_folder(bundle, tmp_path / "archive", target)["kept"] == 3
    (other / "c.parquet").rename(other / "b.parquet")
    assert score_folder(bundle, other, target, overwrite=True)["rows"] == 9


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b""], ids=["end", "half", "all"]
)
def test_a_damaged_output_is_made_again(bundle, drives, tmp_path, spoil):
    target = tmp_path / "out"
    score_folder(bundle, drives, target)
    before = scores_in(target)
    output = target / "b.parquet"
    output.write_bytes(spoil(output.read_bytes()))
    assert score_folder(bundle, drives, target)["scored"] == 1
    assert scores_in(target) == before


def test_models_are_never_mixed(bundle, drives, autoencoder, tmp_path):
    target = tmp_path / "out"
    first = score_folder(bundle, drives, target)
    before = scores_in(target)
    other = save(autoencoder, tmp_path / "other")
    with pytest.raises(FileExistsError, match=rf"scores of model {first['model_id']}; this run is of model.*Choose"):
        score_folder(other, drives, target)
    with pytest.raises(FileExistsError, match="has scores of other settings"):
        score_folder(bundle, drives, target, feature_scores=True)
    assert scores_in(target) == before
    (drives / "b.parquet").unlink()
    second = score_folder(other, drives, target, overwrite=True)
    assert {model for table in scores_in(target).values() for model in table["model_id"].to_pylist()} == {
        second["model_id"]
    }
    assert second["orphans"] == []


def test_a_model_that_changes_on_the_way_is_noticed(bundle, drives, autoencoder, tmp_path):
    model = shutil.copytree(bundle, tmp_path / "model")
    work = Work(str(model), "0" * 64, str(drives), str(tmp_path), str(tmp_path))
    [outcome] = score_file(work, "b.parquet", None)
    assert "is not the model that the run began with" in outcome.error


# Kills


@pytest.fixture(scope="module")
def many(tmp_path_factory, normal):
    """Enough rows that a run takes a second or two."""
    source = tmp_path_factory.mktemp("many") / "in"
    rng = np.random.default_rng(0)
    for i in range(24):
        (source / f"day={i % 4}").mkdir(parents=True, exist_ok=True)
        rows = normal.sample(3000, replace=True, random_state=i) + 0.01 * rng.normal(size=(3000, 6))
        rows.to_parquet(source / f"day={i % 4}" / f"{i}.parquet", row_group_size=500)
    return source


@pytest.fixture(scope="module")
def undisturbed(bundle, many, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed") / "out"
    score_folder(bundle, many, target)
    return scores_in(target)


def start(bundle, source, target, engine):
    command = [
        sys.executable, "-m", "anomalyvae", "score", source, target, "--model", bundle,
        "--engine", engine, "--workers", "2",
    ]  # fmt: skip
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_all(process):
    """The process, and the children it started, at once and without a word."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


@pytest.mark.parametrize(
    ("engine", "kills", "first", "last"),
    [
        ("local", 2, 0.4, 1.0),
        pytest.param("local", 10, 0.2, 1.6, marks=pytest.mark.slow),
        pytest.param("dask", 3, 2.5, 6.0, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    engine, kills, first, last, bundle, many, undisturbed, tmp_path
):
    target, moments, seen = tmp_path / "out", np.random.default_rng(0), {}
    for _ in range(kills):
        process = start(bundle, many, target, engine)
        time.sleep(moments.uniform(first, last))
        kill_all(process)
        done = {path: path.stat().st_mtime_ns for path in target.rglob("*.parquet") if ".staging" not in path.parts}
        assert {path: done.get(path) for path in seen} == seen  # what was whole is not made again
        for path in done.keys() - seen.keys():
            assert pq.read_table(path) == undisturbed[path.relative_to(target).as_posix()]  # nor ever seen half made
        seen = done
        if len(done) == len(undisturbed):
            shutil.rmtree(target)
            seen = {}
    process = start(bundle, many, target, engine)
    assert process.wait(120) == 0
    assert scores_in(target) == undisturbed
    assert summary_of(target)["kept"] >= len(seen)
    left = {path.name for path in target.iterdir() if not is_scratch(path)}  # of a kill; hidden, and removed in an hour
    assert left == {"_run.json", "_summary.json", *(f"day={i}" for i in range(4))}


@pytest.mark.slow
def test_a_lost_dask_worker_costs_nothing_but_time(bundle, many, undisturbed, tmp_path):
    process = start(bundle, many, tmp_path / "out", "dask")
    mother, killed = psutil.Process(process.pid), 0
    while process.poll() is None and killed < 3:
        if len(list((tmp_path / "out").glob("day=*/*.parquet"))) > 8 * killed:
            workers = [c for c in mother.children(recursive=True) if "spawn_main" in " ".join(c.cmdline())]
            workers[killed % len(workers)].kill()
            killed += 1
        time.sleep(0.02)
    assert process.wait(120) == 0
    assert killed == 3
    assert scores_in(tmp_path / "out") == undisturbed


def test_what_outlives_its_run_writes_nothing(bundle, drives, autoencoder, tmp_path):
    """A worker that goes on after its run was killed, and is done when the next one, with another model, has begun."""
    target, other = tmp_path / "out", save(autoencoder, tmp_path / "other")
    score_folder(bundle, drives, target)
    late = []

    def killed(work, names, workers, scheduler):
        with ThreadPoolExecutor(1) as pool:
            steps = parts.score_file(work, "b.parquet", pool)
            late.append((steps, next(steps)))  # it has read something, and has not finished
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(batch.ENGINES, "local", killed)
        (drives / "b.parquet").touch()
        with pytest.raises(KeyboardInterrupt):
            score_folder(bundle, drives, target)
    score_folder(other, drives, target, overwrite=True)
    before = scores_in(target)
    [(steps, _)] = late
    assert [outcome.status for outcome in steps] == ["failed"]
    assert scores_in(target) == before
    assert pyarrow.parquet.read_table(target / "b.parquet")["model_id"][0].as_py() == summary_of(target)["model_id"]


@pytest.mark.slow
def test_a_file_that_kills_its_worker_is_reported_and_the_others_go_on(bundle, drives, fresh, tmp_path):
    """A worker that runs out of memory dies without a word, and so do those that try again."""
    script = (
        "import os, sys, time\n"
        "from anomalyvae.scoring import one_file as parts; from anomalyvae.scoring import inputs as sources\n"
        "honest = sources.batches_of\n"
        "def batches(root, name, *given):\n"
        "    if name == 'b.parquet':\n"
        "        time.sleep(0.5)\n"  # Dask restarts a worker only once it is up
        "        os._exit(1)\n"
        "    return honest(root, name, *given)\n"
        "parts.batches_of = batches\n"
        "if __name__ == '__main__':\n"
        "    from anomalyvae import score_folder\n"
        "    print([(f['file'], f['error']) for f in score_folder(*sys.argv[1:], engine='dask', workers=1)['files']])\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, tmp_path / "script.py", bundle, drives, tmp_path / "out"]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.findall(r"\('([^']*)', None\)", said) == ["day=1/a b.csv", "day=1/ü.parquet"]
    assert "Every worker that took it died" in said
    assert len(scores_in(tmp_path / "out")) == 2


def test_dask_gives_the_same_bytes(bundle, drives, troubled, tmp_path):
    score_folder(bundle, drives, tmp_path / "local")
    summary = score_folder(bundle, drives, tmp_path / "dask", engine="dask", workers=1)
    local = {path.relative_to(tmp_path / "local"): path for path in (tmp_path / "local").rglob("*.parquet")}
    for name, path in local.items():
        assert (tmp_path / "dask" / name).read_bytes() == path.read_bytes()
    assert summary["failed"] == len(troubled)


def test_a_scheduler_of_one_s_own(bundle, drives, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        summary = score_folder(bundle, drives, tmp_path / "out", engine="dask", scheduler=address)
    assert summary["scored"] == 3
    with pytest.raises(ValueError, match=r"needs engine='dask'"):
        score_folder(bundle, drives, tmp_path / "other", scheduler="tcp://127.0.0.1:1")
