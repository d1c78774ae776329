"""Check the constructor parameters of a detector, and derive the architecture of its network."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomalyvae.detector.validation import TrainingData
from anomalyvae.nets.bodies import BODIES, HIDDEN
from anomalyvae.nets.objectives import OBJECTIVES
from anomalyvae.nets.scaling import SCALINGS
from anomalyvae.nets.views import VIEW_SCORES

if TYPE_CHECKING:
    from anomalyvae.detector.estimator import VAEOutlierDetector

_SCALINGS = ("auto", *SCALINGS)
_LIKELIHOODS = ("auto", "gaussian", "isotropic", "bernoulli")
_LOOKED_AT = 1000  # rows
_STEPS = (3, 65_535)  # fewest and most steps from the lowest to the highest cell: more than a flag, up to 16 bits
_FEWEST_COLUMNS = 16  # of which to say that they share a unit
_WHOLE = 1e-2  # of a step: pixels may be fractions in single precision
_NEAR_THE_END = 0.1  # of the range of all cells
_CRITERIA = tuple(dict.fromkeys(name for objective in OBJECTIVES.values() for name in objective.scores))


def _among(value: Any, names: Any) -> bool:
    return isinstance(value, str) and value in names


def _count(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # parameter: what is expected, and the test for it
    "objective": (f"one of {_listed(OBJECTIVES)}", lambda v: _among(v, OBJECTIVES)),
    "body": (f"one of {_listed(BODIES)}, or a callable", lambda v: _among(v, BODIES) or callable(v)),
    "input_shape": ("a tuple of int or None", lambda v: v is None or isinstance(v, tuple | list)),
    "latent_dim": ("'auto' or an integer of at least 1", lambda v: _among(v, ["auto"]) or _count(v)),
    "hidden": ("'auto' or a tuple of int", lambda v: _among(v, ["auto"]) or isinstance(v, tuple | list)),
    "beta": ("a number of at least 0", lambda v: isinstance(v, Real) and float(v) >= 0),
    "likelihood": (f"one of {_listed(_LIKELIHOODS)}", lambda v: _among(v, _LIKELIHOODS)),
    "masking": ("a number from 0 up to, but not including, 1", lambda v: isinstance(v, Real) and 0 <= float(v) < 1),
    "criterion": (f"one of {_listed(_CRITERIA)}", lambda v: _among(v, _CRITERIA)),
    "scaling": (f"one of {_listed(_SCALINGS)}, or None", lambda v: v is None or _among(v, _SCALINGS)),
    "contamination": (
        "'auto' or a number above 0 and at most 0.5",
        lambda v: _among(v, ["auto"]) or (isinstance(v, Real) and 0 < float(v) <= 0.5),
    ),
    "max_epochs": ("'auto' or an integer of at least 1", lambda v: _among(v, ["auto"]) or _count(v)),
    "validation_fraction": (
        "'auto' or a number from 0 up to, but not including, 1",
        lambda v: _among(v, ["auto"]) or (isinstance(v, Real) and 0 <= float(v) < 1),
    ),
    "device": ("the name of a device, such as 'auto', 'cpu' or 'cuda'", lambda v: isinstance(v, str)),
    "random_state": (
        "None, an integer from 0 to 2**32 - 1, or a RandomState",
        lambda v: (
            v is None or isinstance(v, np.random.RandomState) or (isinstance(v, Integral) and 0 <= int(v) < 2**32)
        ),
    ),
    "verbose": ("True or False", lambda v: isinstance(v, Integral | np.bool_)),
}


def check_parameters(detector: "VAEOutlierDetector") -> None:
    """Check each constructor parameter of a detector, fitted or not, and that ``objective`` has the ``criterion``.

    Raises
    ------
    ValueError
        For a value of the wrong type or range.
    """
    for name, (expected, accepts) in _RULES.items():
        value = getattr(detector, name)
        if not accepts(value):
            raise ValueError(f"Got {name}={value!r}, expected {expected}. Change {name}, or leave it at its default.")
    having = OBJECTIVES[detector.objective].scores
    if detector.criterion not in having:
        other = next(name for name, objective in OBJECTIVES.items() if detector.criterion in objective.scores)
        raise ValueError(
            f"Got criterion={detector.criterion!r} with objective={detector.objective!r}, expected one of {having}. "
            f"Use objective={other!r} for that criterion."
        )


def architecture_of(detector: "VAEOutlierDetector", data: TrainingData) -> dict[str, Any]:
    """The plain values from which the network can be built again; refuses parameters that do not fit the rows."""
    width = detector.n_features_in_
    if any(data.cells) and detector.input_shape is not None:
        raise ValueError(
            f"Got input_shape={detector.input_shape} and categories in X, expected only numbers where rows are folded. "
            "Leave out input_shape or the categories."
        )
    flat = (sum(max(1, size) for size in data.cells) or width,)
    shape = flat if detector.input_shape is None else tuple(int(side) for side in detector.input_shape)
    if np.prod(shape) != flat[0]:
        raise ValueError(
            f"Got input_shape={shape} ({np.prod(shape)} cells), expected {width} cells as X has {width} features. "
            "Give a shape whose product is the number of features."
        )
    hidden = HIDDEN.get(str(detector.body), ()) if detector.hidden == "auto" else detector.hidden
    latent_dim = np.clip(width // 2, 2, 32) if detector.latent_dim == "auto" else detector.latent_dim
    return {
        "objective": detector.objective,
        "body": detector.body,
        "hidden": [int(size) for size in hidden],
        "input_shape": list(shape),
        "latent_dim": int(latent_dim),
        "beta": float(detector.beta),
        "likelihood": _likelihood_of(detector, data),
        "masking": float(detector.masking),
        "trimming": 0.0 if detector.contamination == "auto" else float(detector.contamination),
        "criterion": detector.criterion,
    }


def scaling_of(detector: "VAEOutlierDetector", architecture: dict[str, Any]) -> str | None:
    """The kind of scaling, as `anomalyvae.nets.scaling.fit_scaling` takes it."""
    if architecture["likelihood"] == "isotropic":
        return "isotropic"
    if architecture["likelihood"] != "gaussian":  # cells in [0, 1] stay as they are
        return None
    if detector.scaling != "auto":
        return detector.scaling
    windows = detector.criterion in VIEW_SCORES and len(architecture["input_shape"]) == 2
    return "standard" if windows else "asinh"


def _likelihood_of(detector: "VAEOutlierDetector", data: TrainingData) -> str:
    """The name of the likelihood of numbers."""
    likelihood, x = detector.likelihood, data.x
    if likelihood == "auto":
        rank = len(detector.input_shape or (1,))
        plain = rank == 1 and detector.scaling == "auto" and not any(data.cells)
        likelihood = "isotropic" if rank == 3 or (plain and _share_a_unit(x)) else "gaussian"
    if likelihood == "gaussian":
        return "gaussian"
    if any(data.cells):
        raise ValueError(
            f"Got likelihood={likelihood!r} and categories in X, expected only numbers. Use likelihood='gaussian', or "
            "leave out the categories."
        )
    if likelihood == "isotropic":
        return "isotropic"
    low, high = np.nanmin(x), np.nanmax(x)
    if low < 0 or high > 1:
        raise ValueError(
            f"Got cells from {low:g} to {high:g} with likelihood='bernoulli', expected cells in [0, 1]. Divide by the "
            "largest possible value, such as 255, or use likelihood='gaussian'."
        )
    return "bernoulli" if (np.isnan(x) | (x == 0) | (x == 1)).all() else "continuous_bernoulli"


@np.errstate(over="ignore")  # cells may be huge
def _share_a_unit(x: NDArray[np.float64]) -> bool:
    """Whether cells are levels of one scale, such as pixels: steps of one size, and most columns span all of them.

    The spreads of such columns can be compared. If each is standardised, one that hardly ever changes counts most.
    """
    values = np.unique(x[:_LOOKED_AT])
    values = values[np.isfinite(values)]
    if len(values) <= _STEPS[0]:
        return False
    lowest, highest = values[[0, -1]]
    steps = (highest - lowest) / np.diff(values).min()
    if not steps <= _STEPS[1]:
        return False
    level = (values - lowest) / (highest - lowest) * round(steps)
    if np.abs(level - level.round()).max() > _WHOLE:
        return False
    low, high = np.fmin.reduce(x), np.fmax.reduce(x)
    varied = high > low
    near = _NEAR_THE_END * (highest - lowest)
    spans = varied & (low - lowest <= near) & (highest - high <= near)
    return bool(varied.sum() >= _FEWEST_COLUMNS and 2 * spans.sum() >= varied.sum())
