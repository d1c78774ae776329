"""The README and the tutorials do what they say: their commands and snippets run, in order, in an empty folder.

The reader has a clone of the repository, only the packages of the extras that the page names, and, where the page
speaks of the reader's own files, small ones. What a test cannot do has a stand-in: ``pip`` and ``make`` check what they
are asked for, ``review`` and ``watch`` are ended when they have shown something (and then somebody gives verdicts), the
job of the pothole drives, which are downloaded, runs on simulated drives, and a refusal of the gate is as good as a
promotion.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent / "documents"))
from reader import NOT_RUN, blocks

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/tutorial.md", "docs/loop.md", "docs/mlflow.md", "docs/deployment.md"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

ANOMALYVAE = """#!/usr/bin/env bash
case "$1" in
watch|review) exec {python} {until_seen} "$@" ;;
run) sed 's/"potholes"/"simulated"/; s/"trip\\*"/"simulated*"/' "$2" > job.toml
    exec {python} -m anomalyvae run job.toml "${{@:3}}" ;;
promote) {python} -m anomalyvae "$@" || [ $? = 4 ] ;;
*) exec {python} -m anomalyvae "$@" ;;
esac
"""
PIP = """#!{python}
import os, re, sys
known = {extras!r}
asked = [name for word in sys.argv[1:] for found in re.findall(r"\\[([a-z,]+)\\]", word) for name in found.split(",")]
unknown = set(asked) - set(known)
if unknown:
    sys.exit(f"pip: there is no extra {{unknown}}")
with open(os.environ["READER_EXTRAS"], "a") as file:
    file.write(" ".join(["", *asked]))
"""
MAKE = """#!/usr/bin/env bash
exec {make} -n -C {root} "$@" > /dev/null
"""
UNTIL_SEEN = """
import os, signal, subprocess, sys
import pandas as pd
verb, *rest = sys.argv[1:]
command = [sys.executable, "-m", "anomalyvae", verb, *rest, *(["--port", "0"] if verb == "review" else [])]
process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
lines = [process.stdout.readline() for _ in range(2)]  # the address and how to end it; a header and a score
process.send_signal(signal.SIGINT)
process.stdout.read()
if not all(lines) or process.wait() not in (0, 130):  # 130: before it was ready for Ctrl-C
    sys.exit(f"{verb}: {lines}, exit code {process.wait()}")
if verb == "review":
    from anomalyvae.review import Queue
    faults = pd.DataFrame(columns=["recording", "start_s", "end_s"])
    if os.path.exists("known-faults.parquet"):
        faults = pd.read_parquet("known-faults.parquet")
    with Queue("queue.db") as queue:
        for event in queue.events().to_dict("records"):
            here = faults[faults["recording"] == event["recording"]]
            touched = ((here["start_s"] <= event["end_s"]) & (here["end_s"] >= event["start_s"])).any()
            queue.give(event["event_id"], "fault" if touched else "new_normal", "ann")
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with a clone's files and the stand-ins; call it with a page to read."""
    commands, home = tmp_path / "bin", tmp_path / "home"
    commands.mkdir()
    home.mkdir()
    values = {"python": sys.executable, "until_seen": tmp_path / "until_seen.py", "root": ROOT, "make": "/usr/bin/make"}
    values["extras"] = sorted(EXTRAS)
    (tmp_path / "until_seen.py").write_text(UNTIL_SEEN)
    python, mlflow = ("#!/usr/bin/env bash\nexec {python}" + more + ' "$@"\n' for more in ("", " -m mlflow"))
    stand_ins = {"anomalyvae": ANOMALYVAE, "pip": PIP, "make": MAKE, "python": python, "mlflow": mlflow}
    for name, text in stand_ins.items():
        (commands / name).write_text(text.format(**values))
        (commands / name).chmod(0o755)
    for name in ("pipelines", "data", "constraints.txt"):
        (home / name).symlink_to(ROOT / name)
    (tmp_path / "extras").write_text("")
    monkeypatch.setenv("READER_EXTRAS", str(tmp_path / "extras"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [ROOT / "tests" / "documents", ROOT])))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")

    def read(page):
        command = [sys.executable, ROOT / "tests" / "documents" / "reader.py", ROOT / page, commands]
        done = subprocess.run(list(map(str, command)), cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return home

    read.home = home
    return read


def own_files(home):
    """Files of the kind that the README speaks of as the reader's own."""
    rng = np.random.default_rng(0)
    speed = rng.uniform(0, 30, 300)
    table = pd.DataFrame({"speed_mps": speed, "rpm": 90 * speed + rng.normal(0, 50, 300)})
    for name in ("normal.csv", "new.csv"):
        table.assign(machine=rng.choice(["a", "b"], 300)).to_csv(home / name, index=False)
    table.assign(is_fault=np.arange(300) < 20).to_csv(home / "rows.csv", index=False)
    (home / "tables").mkdir()
    table.to_csv(home / "tables" / "monday.csv", index=False)


def simulated(home, folders):
    """Simulated drives as the reader's own: the folder, and the numbers of its drives."""
    from anomalyvae.datasets import get_dataset

    drives = Path(get_dataset("simulated")) / "recordings"
    for folder, numbers in folders.items():
        (home / folder).mkdir(exist_ok=True)
        for number in numbers:
            (home / folder / f"drive{number}.parquet").symlink_to(drives / f"simulated{number}.parquet")
    return drives


# The pages


@pytest.mark.slow
def test_the_readme(reader):
    own_files(reader.home)
    drives = simulated(reader.home, {"drives": (1, 2, 3), "held-out": (4, 5)})
    pd.read_parquet(drives / "simulated4.parquet").to_csv(reader.home / "today.csv", index=False)
    home = reader("README.md")
    assert (home / "scores.csv").is_file()


@pytest.mark.slow
def test_the_tutorial(reader):
    home = reader("docs/tutorial.md")
    scores = pd.read_parquet(home / "scores" / "simulated4.parquet")
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert f"`{', '.join(scores)}`" in " ".join(page.split())


@pytest.mark.slow
def test_the_loop(reader):
    home = reader("docs/loop.md")
    from anomalyvae.bundle import read_manifest

    learned = {Path(file).name for file in read_manifest(home / "models" / "next")["file"]}
    assert learned
    assert learned.isdisjoint({"simulated4.parquet", "simulated5.parquet"})  # the hold-out


@pytest.mark.slow
def test_mlflow(reader):
    reader("docs/mlflow.md")


def test_deployment(reader):
    (reader.home / "tables").mkdir()
    reader("docs/deployment.md")


# What is not run


def test_each_block_is_run_or_says_why_not():
    languages = {"", "bash", "python", *NOT_RUN}
    for page in PAGES:
        found = list(blocks(ROOT / page))
        assert len(found) == (ROOT / page).read_text(encoding="utf-8").count("\n```") / 2, page
        assert {language for _, language, _, _ in found} <= languages, page
        skipped = [line for line, _, reason, _ in found if reason is not None]
        assert len(skipped) <= len(found) / 2, page


def test_a_page_that_lies_is_found_out(reader, tmp_path):
    """The reader itself: an extra that is not named, a file that no line makes, an error in Python."""
    for text, said in {
        "```\npython -c 'import pyod'\n```\n": "No module named 'pyod'",
        "```\nanomalyvae score nowhere.csv out --model models/road\n```\n": "does not exist",
        "```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n": "AssertionError",
        "```\npip install '.[everything]'\n```\n": "there is no extra",
        "```ruby\nputs 1\n```\n": "does not know",
    }.items():
        (tmp_path / "page.md").write_text(text)
        with pytest.raises(AssertionError, match=said):
            reader(tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- not run: it takes days -->\n```\nfalse\n```\n")
    reader(tmp_path / "page.md")
