"""The transformers before a detector in a `Pipeline`: told apart from it, kept without pickling, and recognised again.

They are stored by skops, which writes what an object is made of as JSON and arrays. Only what skops trusts by itself
(scikit-learn's estimators, numpy's types and ufuncs) and a few harmless names are stored, and only they are loaded.
"""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_PLACE = "passthrough"  # in the detector's place
_TRUSTED = [
    "builtins.object",  # this and the next two as kinds of columns: no code of theirs runs
    "numpy.dtype",
    "numpy.number",
    "sklearn.compose._column_transformer.make_column_selector",
    *(f"sklearn.feature_selection._univariate_selection.{name}" for name in ("chi2", "f_classif", "f_regression")),
]


def split(model: Any) -> tuple[Pipeline | None, "VAEOutlierDetector"]:
    """What a model does to rows before its detector (None if nothing: it is one), and the detector.

    Raises
    ------
    TypeError
        If there is no detector of this package at the end.
    """
    from anomalyvae.detector import VAEOutlierDetector

    if isinstance(model, VAEOutlierDetector):
        return None, model
    if type(model) is not Pipeline:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(
            f"Got {kind}, expected a VAEOutlierDetector or a Pipeline of scikit-learn that ends in one. Pass such."
        )
    name, detector = model.steps[-1]
    if not isinstance(detector, VAEOutlierDetector):
        raise TypeError(
            f"Got a Pipeline that ends in {type(detector).__name__} ({name!r}), expected a VAEOutlierDetector there. "
            "Put the detector last."
        )
    before = copy.copy(model)
    before.steps = [*model.steps[:-1], (name, _PLACE)]
    before.memory = None  # a folder of this machine
    return before, detector


def join(before: Pipeline, detector: "VAEOutlierDetector") -> Pipeline:
    """The reverse of `split`."""
    model = copy.copy(before)
    model.steps = [*before.steps[:-1], (before.steps[-1][0], detector)]
    return model


def description(before: Pipeline | None) -> dict[str, Any] | None:
    """What the card says of the transformers."""
    if before is None:
        return None
    names = [type(step).__name__ for _, step in before.steps[:-1] if not isinstance(step, str)]
    columns = said_first([before], "feature_names_in_")
    return {
        "steps": names,
        "columns": None if columns is None else [str(name) for name in columns],
        "fingerprint": _fingerprint(before),
    }


def feature_names(before: Pipeline | None, detector: "VAEOutlierDetector") -> list[str]:
    """Names of the columns that the detector takes; their numbers, where a step does not tell what it makes."""
    names = getattr(detector, "feature_names_in_", None)
    if names is None and before is not None:
        with suppress(AttributeError, ValueError):
            names = before.get_feature_names_out()
    return [str(name) for name in (range(detector.n_features_in_) if names is None else names)]


def said_first(steps: list[Any], attribute: str) -> Any:
    """A fitted attribute of the first step that has it, None if none has: "passthrough" has none."""
    for step in steps:
        if isinstance(step, Pipeline | FeatureUnion):
            parts = step.steps if isinstance(step, Pipeline) else step.transformer_list
            found = said_first([part for _, part in parts], attribute)
        else:
            found = getattr(step, attribute, None)
        if found is not None:
            return found
    return None


def dumps(before: Pipeline) -> bytes:
    """The transformers as a file of skops.

    Raises
    ------
    TypeError
        For a step that is not made of types that skops trusts by itself.
    """
    import skops.io as skops

    for name, step in before.steps:
        try:
            foreign = _foreign(skops.dumps(step))
        except Exception as error:  # whatever a foreign object answers when it is asked for its state
            foreign = [f"{type(step).__module__}.{type(step).__name__} ({error})"]
        if foreign:
            raise TypeError(
                f"Got a Pipeline with {', '.join(foreign)} in the step {name!r}, expected scikit-learn's transformers "
                "and numpy's ufuncs alone: what else there is could not be loaded without running foreign code. "
                "Replace it, or apply it to the rows before."
            )
    return bytes(skops.dumps(before))


def loads(data: bytes) -> Pipeline:
    """The transformers that `dumps` wrote; nothing is constructed unless every type in it is trusted.

    Raises
    ------
    ValueError
        For other bytes.
    """
    import skops.io as skops

    try:
        foreign = _foreign(data)
        before = None if foreign else skops.loads(data, trusted=_TRUSTED)
    except Exception as error:  # a forged file can fail in any way
        raise ValueError(f"Got preprocessing that cannot be read, expected what save() wrote: {error}") from error
    if foreign:
        raise ValueError(
            f"Got preprocessing with {', '.join(foreign)}, expected types of scikit-learn, numpy and scipy alone: "
            "somebody changed the bundle. Nothing of it was run. Save the model again."
        )
    if before is None or type(before) is not Pipeline or before.steps[-1][1] != _PLACE:
        raise ValueError(f"Got preprocessing that is {type(before).__name__}, expected a Pipeline as save() wrote it.")
    return before


def _foreign(data: bytes) -> list[str]:
    from skops.io import get_untrusted_types

    return [name for name in get_untrusted_types(data=data) if name not in _TRUSTED]


def _fingerprint(before: Pipeline) -> str:
    """The sha256 of everything that the transformers hold, the same after `loads`."""
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
