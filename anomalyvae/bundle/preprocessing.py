"""The transformers before a detector in a `Pipeline`, stored without pickling.

skops writes an object as JSON and arrays. Only types that skops trusts by default (scikit-learn's estimators, numpy's
types and ufuncs), and a few harmless ones, are stored and loaded.
"""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.detector import VAEOutlierDetector

_PLACE = "passthrough"  # in the detector's place
_TRUSTED = [
    "builtins.object",  # this and the next two name types of columns; none of their code runs
    "numpy.dtype",
    "numpy.number",
    "sklearn.compose._column_transformer.make_column_selector",
    *(f"sklearn.feature_selection._univariate_selection.{name}" for name in ("chi2", "f_classif", "f_regression")),
]


def split(model: Any) -> tuple[Pipeline | None, "VAEOutlierDetector"]:
    """The transformers of a model (None for a bare detector), and its detector; TypeError if it does not end in one."""
    from anomalyvae.detector import VAEOutlierDetector

    if isinstance(model, VAEOutlierDetector):
        return None, model
    if type(model) is not Pipeline:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(
            f"Got {kind}, expected a VAEOutlierDetector or a Pipeline of scikit-learn that ends in one. Pass one."
        )
    name, detector = model.steps[-1]
    if not isinstance(detector, VAEOutlierDetector):
        raise TypeError(
            f"The Pipeline ends in {type(detector).__name__} ({name!r}), expected a VAEOutlierDetector. Put the "
            "detector last."
        )
    before = copy.copy(model)
    before.steps = [*model.steps[:-1], (name, _PLACE)]
    before.memory = None  # a local folder
    return before, detector


def transformed(before: Pipeline | None, detector: "VAEOutlierDetector", rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows as the detector takes them, behind its transformers."""
    import pandas as pd

    if before is None:
        return rows
    return pd.DataFrame(np.asarray(before.transform(rows)), columns=getattr(detector, "feature_names_in_", None))


def join(before: Pipeline, detector: "VAEOutlierDetector") -> Pipeline:
    """The reverse of `split`."""
    model = copy.copy(before)
    model.steps = [*before.steps[:-1], (before.steps[-1][0], detector)]
    return model


def description(before: Pipeline | None) -> dict[str, Any] | None:
    """The transformers as the card describes them."""
    if before is None:
        return None
    names = [type(step).__name__ for _, step in before.steps[:-1] if not isinstance(step, str)]
    columns = getattr(entry([before]), "feature_names_in_", None)
    return {
        "steps": names,
        "columns": None if columns is None else [str(name) for name in columns],
        "fingerprint": _fingerprint(before),
    }


def feature_names(before: Pipeline | None, detector: "VAEOutlierDetector") -> list[str]:
    """The detector's column names, or column numbers where a step cannot name its output."""
    names = getattr(detector, "feature_names_in_", None)
    if names is None and before is not None:
        with suppress(AttributeError, ValueError):
            names = before.get_feature_names_out()
    return [str(name) for name in (range(detector.n_features_in_) if names is None else names)]


def entry(steps: list[Any]) -> Any:
    """The first step that was fitted to the rows as they come in: later ones have names that steps made up."""
    for step in steps:
        if isinstance(step, Pipeline | FeatureUnion):
            parts = step.steps if isinstance(step, Pipeline) else step.transformer_list
            step = entry([part for _, part in parts])
        if hasattr(step, "n_features_in_"):
            return step
    return None


def dumps(before: Pipeline) -> bytes:
    """The transformers in the format of skops; TypeError for a step with types that are not trusted."""
    import skops.io as skops

    for name, step in before.steps:
        try:
            foreign = _foreign(skops.dumps(step))
        except Exception as error:  # a foreign object can fail in any way
            foreign = [f"{type(step).__module__}.{type(step).__name__} ({error})"]
        if foreign:
            raise TypeError(
                f"The step {name!r} of the Pipeline has {', '.join(foreign)}; only scikit-learn's transformers and "
                "numpy's ufuncs can be loaded without running foreign code. Replace the step, or apply it to the rows "
                "before."
            )
    return bytes(skops.dumps(before))


def loads(data: bytes) -> Pipeline:
    """The transformers that `dumps` wrote; ValueError for other bytes, and for types that are not trusted.

    Nothing is constructed unless every type is trusted.
    """
    import skops.io as skops

    try:
        foreign = _foreign(data)
        before = None if foreign else skops.loads(data, trusted=_TRUSTED)
    except Exception as error:  # a forged file can fail in any way
        raise ValueError(f"The bundle's transformers cannot be read: {error}. Save the model again.") from error
    if foreign:
        raise ValueError(
            f"The bundle's transformers contain {', '.join(foreign)}; only types of scikit-learn, numpy and scipy are "
            "loaded. Somebody changed the bundle. None of it was run. Save the model again."
        )
    if before is None or type(before) is not Pipeline or before.steps[-1][1] != _PLACE:
        raise ValueError(
            f"The bundle's preprocessing is a {type(before).__name__}, not a Pipeline as save() writes it. Save the "
            "model again."
        )
    return before


def _foreign(data: bytes) -> list[str]:
    from skops.io import get_untrusted_types

    return [name for name in get_untrusted_types(data=data) if name not in _TRUSTED]


def _fingerprint(before: Pipeline) -> str:
    """The sha256 of the transformers' settings and fitted attributes, equal after `loads`."""
    digest = hashlib.sha256()
    for piece in _pieces(before):
        digest.update(piece + b"\0")
    return digest.hexdigest()


def _pieces(thing: Any) -> Iterator[bytes]:
    yield type(thing).__name__.encode()
    if isinstance(thing, str | int | float | slice | None):
        yield repr(thing).encode()
    elif isinstance(thing, np.ndarray | np.generic) and not thing.dtype.hasobject:
        yield from (thing.dtype.str.encode(), repr(thing.shape).encode(), thing.tobytes())
    elif isinstance(thing, list | tuple | np.ndarray):
        for item in thing:
            yield from _pieces(item)
    elif isinstance(thing, dict) or hasattr(thing, "__dict__"):
        items = thing if isinstance(thing, dict) else vars(thing)
        for key in sorted(items, key=repr):
            yield from (repr(key).encode(), *_pieces(items[key]))
    else:
        yield str(getattr(thing, "__name__", "")).encode()  # of a ufunc
