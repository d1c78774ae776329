"""Heavy packages are imported when they are needed. (Who may import whom: ``lint-imports``, in pyproject.toml.)"""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import anomalyvae", {"torch", "sklearn", "pandas", "numpy"}),
        ("import anomalyvae.recordings", {"torch", "sklearn"}),
        ("import anomalyvae; anomalyvae.VAEOutlierDetector", {"mlflow", "onnx", "onnxruntime", "matplotlib", "rich"}),
        (
            "import anomalyvae; anomalyvae.VAEOutlierDetector(max_epochs=1).fit([[i, i * i % 7] for i in range(40)])",
            {"torch._dynamo", "sympy"},  # torch's compiler, which takes longer than a small fit
        ),
        ("import anomalyvae; anomalyvae.as_pyod", {"pyod"}),
        ("import anomalyvae; anomalyvae.tracked_run, anomalyvae.autolog", {"mlflow", "torch", "sklearn", "pandas"}),
        ("import anomalyvae; anomalyvae.Scorer", {"torch", "sklearn", "pandas", "pyarrow", "mlflow", "onnx"}),
        ("import anomalyvae; anomalyvae.score_folder", {"torch", "sklearn", "pandas", "mlflow", "onnx", "distributed"}),
        ("import anomalyvae.scoring.watch", {"torch", "sklearn", "mlflow", "onnx", "distributed"}),
        (
            "from anomalyvae.cli import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass",
            {"torch", "sklearn", "numpy", "pandas", "pyarrow", "matplotlib", "jinja2", "rich"},
        ),
    ],
)
def test_heavy_packages_wait_until_they_are_needed(code, absent):
    script = f"{code}\nimport sys; print(*{absent!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not result.stdout.splitlines()[-1]
