"""Who may import whom: the table that keeps the rooms apart, held by walking the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "anomalyvae"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "data" not in path.parts)

# What the files of a place may import of this package (by prefix), and what they may never import, even lazily.
ALLOWED = {
    "logs/": {"logs"},
    "nets/": {"nets"},
    "calibration.py": set(),
    "metrics/": {"metrics"},
    "baselines.py": {"metrics"},
    "rows.py": set(),
    "categories.py": set(),
    "folders.py": set(),
    "drawing.py": set(),
    "datasets.py": {"folders", "logs"},
    "fitting.py": {"nets", "rows"},
    "representation.py": {"categories", "nets"},
    "detector.py": {"calibration", "categories", "fitting", "nets", "representation", "rows"},
    "peers.py": {"detector", "metrics"},
    "deploy/export.py": {"deploy", "detector", "folders", "nets"},
    "deploy/graph/": {"deploy", "detector", "nets"},
    "deploy/card.py": {"detector"},
    "deploy/scorer.py": {"calibration", "deploy"},
    "deploy/batch.py": {"deploy", "folders"},
    "deploy/engines.py": {"deploy"},
    "deploy/parts.py": {"deploy", "logs"},
    "deploy/sources.py": {"deploy", "logs"},
    "deploy/watching.py": {"deploy", "logs"},
    "deploy/tracking/": {"deploy", "detector", "fitting"},
    "deploy/": {"calibration", "detector", "folders", "logs", "deploy"},
    "study/": {"calibration", "detector", "drawing", "metrics", "study"},
    "review/": {"calibration", "deploy", "detector", "drawing", "folders", "logs", "metrics", "review"},
    "jobs.py": {"datasets", "detector", "logs"},
    "runs.py": {"baselines", "datasets", "deploy", "detector", "folders", "jobs", "logs", "metrics", "review"},
    "drill.py": {"detector", "folders", "jobs", "logs", "metrics", "review"},
    "rehearsal.py": {"deploy", "detector", "folders", "jobs", "logs", "metrics", "review"},
    "cli/": {"cli", "datasets", "deploy", "detector", "drill", "jobs", "logs", "peers", "rehearsal", "review", "runs"}
    | {"study"},
    "__main__.py": {"cli"},
    "__init__.py": {"deploy", "detector", "logs", "peers"},
}
FORBIDDEN = {
    "logs/": {"torch", "sklearn", "mlflow"},
    "nets/": {"sklearn", "pandas", "mlflow"},
    "detector.py": {"mlflow", "onnx", "onnxruntime"},
    "fitting.py": {"sklearn", "pandas", "mlflow"},
    "calibration.py": {"torch", "sklearn", "pandas"},
    "rows.py": {"torch", "sklearn"},
    "deploy/card.py": {"torch", "sklearn", "pandas", "numpy", "mlflow", "onnx"},
    "deploy/cells.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/scorer.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "categories.py": {"torch", "sklearn"},
    "deploy/batch.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/engines.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/parts.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/sources.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/watching.py": {"torch", "sklearn", "pandas", "mlflow", "onnx"},
    "deploy/tracking/pyfunc_model.py": {"torch", "sklearn", "onnx"},
}


def place_of(file, rules=ALLOWED):
    """The narrowest place that has rules: the file itself, its folder, or its room."""
    parts = file.split("/")
    places = [file, *("/".join(parts[:depth]) + "/" for depth in range(len(parts) - 1, 0, -1))]
    return next((place for place in places if place in rules), places[-1])


def imports_of(file):
    """Every imported module of a file, as dotted names; `from anomalyvae.x import y` counts as anomalyvae.x."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "anomalyvae":
            yield from (f"anomalyvae.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_file_has_a_place():
    assert {place_of(file) for file in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    place = place_of(file)
    ours = {name.split(".")[1] for name in imports_of(file) if name.startswith("anomalyvae.")} - {"__version__"}
    assert ours <= ALLOWED[place]
    theirs = {name.split(".")[0] for name in imports_of(file)}
    assert not theirs & FORBIDDEN.get(place_of(file, FORBIDDEN), set())


def test_mlflow_is_imported_in_one_place():
    users = {file for file in FILES if any(name.startswith("mlflow") for name in imports_of(file))}
    assert {place_of(file) for file in users} == {"deploy/tracking/"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import anomalyvae", {"torch", "sklearn", "pandas", "numpy"}),
        ("import anomalyvae.logs", {"torch", "sklearn"}),
        ("import anomalyvae; anomalyvae.VAEOutlierDetector", {"mlflow", "onnx", "onnxruntime", "matplotlib", "rich"}),
        ("import anomalyvae; anomalyvae.as_pyod", {"pyod"}),
        ("import anomalyvae; anomalyvae.tracked_run, anomalyvae.autolog", {"mlflow", "torch", "sklearn", "pandas"}),
        ("import anomalyvae; anomalyvae.Scorer", {"torch", "sklearn", "pandas", "pyarrow", "mlflow", "onnx"}),
        ("import anomalyvae; anomalyvae.score_folder", {"torch", "sklearn", "pandas", "mlflow", "onnx", "distributed"}),
        ("import anomalyvae.deploy.watching", {"torch", "sklearn", "mlflow", "onnx", "distributed"}),
        ("from anomalyvae.cli import main; main(['--version'])", {"torch", "sklearn", "pandas"}),
    ],
)
def test_heavy_packages_wait_until_they_are_needed(code, absent):
    script = f"{code}\nimport sys; print(*{absent!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & absent
