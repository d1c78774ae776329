"""The table of objectives, and networks built from plain values.

An objective owns the network and defines three things:

- ``players()``: the parameters that are optimised, one optimiser each;
- ``turns(s, weight, warmth, generator)``: a generator of ``(player, loss)``. The loop takes a step after each, so the
  second player's loss is computed with the first player's new parameters;
- ``forward(x)``: the anomaly score of each row, high = anomalous. Only this is exported.

``x`` is a row in the user's units, which scores take; ``s`` is a standardised row, which training takes. Scores are in
nats per standardised row.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from anomalyvae.nets.adversarial import Adversarial
from anomalyvae.nets.elbo import AggregatePosterior, Elbo
from anomalyvae.nets.memory import Memory
from anomalyvae.nets.reconstruction import REACH, Reconstruction
from anomalyvae.nets.scaling import Scaling, restore_scaling

__all__ = ["OBJECTIVES", "REACH", "Elbo", "Reconstruction", "build", "restore"]

_SEEDING = threading.Lock()  # layers draw their weights from torch's one global generator

OBJECTIVES: dict[str, type[Reconstruction]] = {
    "elbo": Elbo,
    "reconstruction": Reconstruction,
    "adversarial": Adversarial,
}


def build(architecture: dict[str, Any], scaling: Scaling, seed: int = 0) -> Reconstruction:
    """Construct a network from plain values; torch's global generator keeps its state.

    Parameters
    ----------
    architecture : dict
        ``objective``, and what `Reconstruction` takes.
    scaling : Scaling
    seed : int
        Of the initial weights.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OBJECTIVES[architecture["objective"]](architecture, scaling)


def restore(architecture: dict[str, Any], state: dict[str, Tensor]) -> Reconstruction:
    """Construct a trained network from plain values and the tensors of its ``state_dict``.

    Raises
    ------
    RuntimeError
        If the tensors do not fit the architecture. It is raised before memory of their size is allocated.
    """
    parts = {name.removeprefix("scaling."): t for name, t in state.items() if name.startswith("scaling.")}
    scaling = restore_scaling(parts)
    with torch.device("meta"):
        network = build(architecture, scaling).in_precision(torch.float64)
    if network.criterion == "memory":
        keys = state.get("memorised.keys", torch.empty(0))
        width = len(network.missing) + network.latent_dim + network.columns  # row, code and residual
        if keys.shape[:-1] != (width + 2,) or not keys.shape[-1]:
            raise RuntimeError(
                f"Got a memory of shape {tuple(keys.shape)}, expected ({width + 2}, rows). Save the model again."
            )
        network.memorised = Memory(keys)
    if isinstance(network, Elbo) and "aggregate.mean" in state:  # older models have none
        network.aggregate = AggregatePosterior.restored(network, state)
    network.load_state_dict(state, assign=True)
    return network.eval()
