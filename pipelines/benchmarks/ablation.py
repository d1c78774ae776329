"""Ablation of the default detector: the benchmark of tables with one change at a time.

    python pipelines/benchmarks/ablation.py FOLDER          # or: make bench-ablation DATA=FOLDER

The protocol is ``normal`` of tabular.py, with the same collections; by default on the half of the tables on which
choices may be made. Some changes train another network;
the others change the distance in the space of the same network. With ``--drives FOLDER``, it also runs on the
pothole drives (`anomalyvae data get potholes`): each drive is scored by a detector of the others.
"""

import argparse
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from results import ROOT, made_at, markdown
from tabular import COLLECTIONS, Task, sources, tasks
from tabular_report import HALVES
from torch import Tensor

import anomalyvae
from anomalyvae import metrics
from anomalyvae.detector.fitting import MEMORY_SIZE
from anomalyvae.evaluate import read_job
from anomalyvae.evaluate.job import find_recordings
from anomalyvae.events import touches
from anomalyvae.nets.memory import Memory, squared_distances
from anomalyvae.nets.scaling import asinh
from anomalyvae.recordings import read_windows

NETWORKS: dict[str, dict[str, Any]] = {
    "masking=0": {"masking": 0.0},
    "scaling='standard'": {"scaling": "standard"},
    "objective='reconstruction'": {"objective": "reconstruction"},
    "objective='adversarial'": {"objective": "adversarial"},
    "beta=0.1": {"beta": 0.1},
    "latent_dim=2": {"latent_dim": 2},
}


def pothole_windows() -> tuple[NDArray[np.float64], NDArray[np.object_], NDArray[np.bool_]]:
    """Windows of the pothole drives ``(n, d)``, the recording of each, and whether it is near a pothole."""
    job = read_job(ROOT / "pipelines" / "potholes.toml")
    paths, events = find_recordings(job.data)
    windows = read_windows(paths, job.windows)
    anomalous = touches(windows.spans, events, job.data.tolerance_s)
    return windows.rows.to_numpy(), windows.spans["recording"].to_numpy(), anomalous


def drives(path: str) -> Iterator[tuple[str, Task]]:
    """One task per pothole drive: learn the other drives without their potholes, and score it."""
    os.environ["ANOMALYVAE_DATA"] = path
    x, recording, anomalous = pothole_windows()
    for name in np.unique(recording):
        inside = recording == name
        yield str(name), Task(x[~inside & ~anomalous], x[inside], anomalous[inside])


@torch.no_grad()
def scores_of(given: Task, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The score of each variant for the rows of a task."""
    detector = fitted(given, seed)
    network = detector.network_
    yield "the default", torch.from_numpy(detector.anomaly_score(given.scored))
    for name, column in detector.score_terms(given.scored).drop(columns="novelty").items():
        yield f"criterion='{name}'", torch.from_numpy(column.to_numpy())

    s, new = network.scaling(torch.from_numpy(given.learned)), network.scaling(torch.from_numpy(given.scored))
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(seed))[:MEMORY_SIZE]
    d, k = s.shape[1], network.latent_dim
    u, v = network.memory_features(s[order]), network.memory_features(new)
    residual, new_residual = (
        network.likelihood.residual(rows, network.decode(network.encode(rows))) for rows in (s[order], new)
    )
    yield "row alone: no network", Memory.of(u[:, :d])(v[:, :d])
    yield "no residual: row and code", Memory.of(u[:, : d + k])(v[:, : d + k])
    parts = [*range(d), *range(d + k, 2 * d + k)]
    yield "no code: row and residual", Memory.of(u[:, parts])(v[:, parts])
    raw = torch.cat([u[:, : d + k], residual], dim=1)
    yield "residual without asinh", Memory.of(raw)(torch.cat([v[:, : d + k], new_residual], dim=1))
    assert torch.equal(u[:, d + k :], asinh(residual))  # noqa: S101  the variants are those of this space
    near = squared_distances(v, u).topk(6, largest=False).values.sqrt()
    yield "no unit of its own for each row", near[:, 1:].mean(1)
    yield "the nearest row alone, no unit", near[:, 0]
    yield "256 rows remembered", Memory.of(u[:256])(v)

    for name, settings in NETWORKS.items():
        yield name, torch.from_numpy(fitted(given, seed, **settings).anomaly_score(given.scored))


def fitted(given: Task, seed: int, **settings: Any) -> anomalyvae.VAEOutlierDetector:
    """A detector that learns all rows; its threshold is not used."""
    detector = anomalyvae.VAEOutlierDetector(random_state=seed, validation_fraction=0.0, **settings)
    return detector.fit(given.learned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that holds the collections, each in a folder of its own")
    parser.add_argument("--collections", nargs="+", default=["adbench"], help=f"{', '.join(COLLECTIONS)} or others")
    parser.add_argument("--half", choices=HALVES, default="chosen", help="use these tables alone; default: chosen")
    parser.add_argument("--drives", help="folder of the pothole drives, as in ANOMALYVAE_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tabular")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = [
        (source.collection, seed, name, given)
        for seed in options.seeds
        for source in sources(options.folder, options.collections, options.half)
        for name, given in tasks(source, "normal", seed).items()
    ]
    if options.drives:
        work += [("drives", seed, *one) for seed in options.seeds for one in drives(options.drives)]
    results = []
    for number, (kind, seed, name, given) in enumerate(work, start=1):
        print(f"{number}/{len(work)} {name}, seed {seed}", flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for variant, score in scores_of(given, seed):
                figures = {
                    "auroc": metrics.auroc(given.outlier, score.numpy()),
                    "ap": metrics.average_precision(given.outlier, score.numpy()),
                }
                results.append({"kind": kind, "set": name, "seed": seed, "variant": variant, **figures})
    table = pd.DataFrame(results)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "ablation.csv", index=False)
    means = table.pivot_table(index="variant", columns="kind", values=["auroc", "ap"], sort=False)
    names = {
        f"{kind}: {figure}": means[figure, kind]
        for kind in (*options.collections, "drives")
        for figure in ("auroc", "ap")
        if (figure, kind) in means
    }
    means = pd.DataFrame(names)
    text = f"# One thing changed at a time\n\n{made_at()}, seeds {options.seeds}.\n\n{markdown(means)}\n"
    (options.out / "ablation.md").write_text(text, encoding="utf-8")
    print(means.round(3).to_string())
    print(f"\nEach result in {options.out / 'ablation.csv'}")


if __name__ == "__main__":
    main()
