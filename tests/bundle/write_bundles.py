"""Write the tiny bundles of the present format that `test_formats` keeps: ``python tests/bundle/write_bundles.py``.

Run it once when the format number rises, and never again for that number: what it wrote then is what has to open later.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomalyvae import VAEOutlierDetector, save, score_folder
from anomalyvae.bundle.card import FORMAT
from anomalyvae.cli import main

SETTINGS = {"hidden": (4,), "latent_dim": 2, "max_epochs": 3, "random_state": 0}


def write(folder: Path) -> None:
    folder.mkdir()
    os.chdir(folder)
    rng = np.random.default_rng(0)
    normal = pd.DataFrame(rng.normal(size=(40, 3)).round(2), columns=["a", "b", "c"])
    new = pd.DataFrame(2 * rng.normal(size=(6, 3)).round(2), columns=["a", "b", "c"])

    pipeline = make_pipeline(StandardScaler(), VAEOutlierDetector(criterion="elbo", **SETTINGS)).fit(normal)
    save(pipeline, "pipeline")
    found = new.assign(anomaly_score=-pipeline.score_samples(new), is_outlier=pipeline.predict(new) == -1)
    found.to_json("pipeline_rows.json", orient="records", double_precision=15)

    normal["kind"] = np.where(rng.random(40) < 0.5, "on", "off")
    new["kind"] = ["on", "off", "on", "never", None, "off"]
    new.loc[2, "b"] = np.nan
    detector = VAEOutlierDetector(**SETTINGS).fit(normal)
    save(detector, "detector")
    found = new.assign(
        anomaly_score=detector.anomaly_score(new),
        p_value=detector.p_values(new),
        is_outlier=detector.predict(new) == -1,
    )
    found.to_json("detector_rows.json", orient="records", double_precision=15)

    time_s = np.arange(0, 40, 0.1).round(1)
    for drive in ("d0", "d1", "d2"):
        x, y = rng.normal(size=(2, len(time_s))).round(2)
        pd.DataFrame({"time_s": time_s, "x": x, "y": y}).to_csv(f"{drive}.csv", index=False)
    recipe = ["--signals", "x,y", "--rate-hz", "10", "--length-s", "0.4", "--stride-s", "2", "--max-gap-s", "0.5"]
    settings = ["--set", "hidden=[4]", "--set", "latent_dim=2", "--set", "max_epochs=3", "--set", "random_state=0"]
    main(["fit", "d0.csv", "d1.csv", "d2.csv", *recipe, *settings, "--model", "windows", "--quiet"])
    score_folder("windows", "d0.csv", "scores")
    (scores,) = Path("scores").glob("d0*")
    pd.read_parquet(scores).drop(columns="model_id").to_json(
        "windows_scores.json", orient="records", double_precision=15
    )
    for left in (*Path("scores").iterdir(), Path("d1.csv"), Path("d2.csv")):
        left.unlink()
    Path("scores").rmdir()


if __name__ == "__main__":
    write(Path(__file__).parent / f"format-{FORMAT}")
