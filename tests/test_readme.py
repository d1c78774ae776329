"""The README's Python runs and prints what it says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_twelve_lines_run_and_what_follows(tmp_path):
    code, then = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 12
    script = f"{code}\ntable = new\n{then}\nassert load('models/pump').predict(table).tolist() == [1, -1]"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("[ 1 -1]")
    assert "speed_mps" in result.stdout


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_extra_is_named_for_what_it_gives():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras) == {
        "all",
        "compare",
        "dask",
        "dev",
        "docs",
        "logs",
        "mlflow",
        "postgres",
        "report",
        "review",
    }
