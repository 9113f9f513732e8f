"""What is measured of a looped Transformer while it trains, always on the same windows of validation text."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from residual_theory.measure.changes import sizes_and_changes
from residual_theory.measure.probe import probe
from residual_theory.transformer.model import LoopedTransformer

_ABOUT = {
    "second_moment": "mean square of the stream",
    "covariance": "mean product of the stream at two visits",
    "stream_update": "rms of what training has changed in the stream since the start",
    "output_update": "rms of what training has changed in the logits since the start",
}


class Watch:
    """Probes a network in training: call it with the steps done and the network, then ask for the dataset.

    tokens: int64 (window, time), what the network reads whenever it is watched.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.rows: dict[int, dict[str, Any]] = {}
        self.start: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, step: int, network: LoopedTransformer) -> None:
        tokens = self.tokens.to(network.embedding.weight.device)
        probed = probe(network, block=network.blocks, inputs=tokens)
        _, changes = sizes_and_changes(network, network.blocks, tokens, self.start)
        self.rows[step] = {
            "second_moment": probed.second_moment.values,
            "covariance": probed.covariance.values,
            "stream_update": np.array(changes[:-1]),
            "output_update": np.array(changes[-1]),
        }

    def dataset(self) -> xr.Dataset:
        """One row for each time: all quantities by watched step, and by visit (0 is the input of the first)."""
        dims = {"second_moment": ("visit",), "covariance": ("visit", "visit_other"), "stream_update": ("visit",)}
        variables = {
            name: (
                ("watched_step", *dims.get(name, ())),
                np.stack([row[name] for row in self.rows.values()]),
                {"long_name": words, "units": "1"},
            )
            for name, words in _ABOUT.items()
        }
        return xr.Dataset(variables, coords={"watched_step": list(self.rows)})


def change_products(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """⟨Δ_n, Δ_m⟩/d of the changes that loops n and m make, (…, loop, loop_other), from the stream's covariance."""
    layers = (covariance.shape[-1] - 1) // loops
    ends = covariance[..., ::layers, :][..., ::layers]
    return np.asarray(np.diff(np.diff(ends, axis=-1), axis=-2))


def change_cosines(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """Cosines between the changes that loops make, (…, loop, loop_other)."""
    products = change_products(covariance, loops)
    length = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    return np.asarray(products / length[..., :, None] / length[..., None, :])


def visit_alignment(covariance: NDArray[np.float64], loops: int) -> NDArray[np.float64]:
    """κ = ‖Σ_n Δ_n‖²/Σ_n ‖Δ_n‖²: 1 where loops push independently, N where all push the same way.

    Source: arXiv:2607.13491.
    """
    products = change_products(covariance, loops)
    return np.asarray(products.sum((-2, -1)) / np.trace(products, axis1=-2, axis2=-1))
