"""One way to train a model of recordings."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from anomalyvae.bundle.card import refuse_foreign
from anomalyvae.bundle.manifest import MANIFEST, Paths, write_manifest
from anomalyvae.folders import replacing
from anomalyvae.models import save


def save_traced(model: Any, folder: Paths, manifest: pd.DataFrame, **options: Any) -> Path:
    """Write a bundle, as `anomalyvae.save` does with the same options, that names the intervals its model learned."""
    target = Path(folder)
    refuse_foreign(target)
    with replacing(target) as fresh:
        digest = write_manifest(manifest, fresh.parent / MANIFEST)
        model.training_ = {**model.training_, "manifest": digest}
        save(model, fresh, **options)
        os.replace(fresh.parent / MANIFEST, fresh / MANIFEST)
    return target
