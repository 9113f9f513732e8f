"""What each block of a looped Transformer adds to the stream, and what redrawing another block changes of it."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.montecarlo.estimate import Moments
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.data import Corpus, evaluation_windows
from residual_theory.transformer.model import LoopedTransformer

_DIMS = {"output_square": ("layer",), "redraw_change": ("layer", "redrawn")}


def redrawn_blocks(
    model: ModelConfig, corpus: Corpus, *, models: int, first_model: int, windows: int, seed: int
) -> xr.Dataset:
    """The assumptions (7)–(9) of Theorem 6 on Transformers at initialisation; means over models, windows and positions.

    Y_l is the mean over loops of what block l adds to the stream, over ε; q(x) = ‖x‖²/d. Y_l^(s) is that of the same
    model with all weights of block s drawn afresh.

    Arguments: those of `RedrawnBlocks`; a tied model without norms in the stream, whose blocks add only.
    Returns: a Dataset of means over models, each with *_stderr, and samples: output_square (layer), q(Y_l);
      redraw_change (layer, redrawn), q(Y_l − Y_l^(s))/2; own_product, the mean over l of ⟨Y_l, Y_l^(l)⟩/d, whose
      mean is that of E q(B_l), B_l the mean of Y_l over block l's weights; other_change, the mean of redraw_change
      over l ≠ s, 0 of one block; all in units of the embeddings' mean square, init_std². And the `tokens` read.
    Raises: InputError for a model that does more than add.
    Source: arXiv:2606.18524, Theorem 6.
    """
    for name in ("tied", "normalization", "loop_normalization", "skip", "carry", "injection", "prelude", "coda"):
        plain = ModelConfig.model_fields[name].default
        if getattr(model, name) != plain:
            raise InputError(name, getattr(model, name), f"blocks that only add have {plain!r}")
    tokens, _ = evaluation_windows(corpus.validation, windows, model.context)
    moments: dict[str, Moments] = {}
    for index in range(first_model, first_model + models):
        drawn = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(2, np.uint64) >> np.uint64(1)
        network, other = (LoopedTransformer(model, int(weights)) for weights in drawn)
        for name, value in _values(network, other, tokens).items():
            moments.setdefault(name, Moments()).add(value[None])
    means = {name: (_DIMS.get(name, ()), found.mean) for name, found in moments.items()}
    errors = {f"{name}_stderr": (_DIMS.get(name, ()), found.stderr) for name, found in moments.items()}
    read = {"tokens": (("window", "position"), tokens.numpy())}
    return xr.Dataset({**means, **errors, **read, "samples": models}, attrs={"samples_are": "models"})


@torch.no_grad()
def _values(network: LoopedTransformer, other: LoopedTransformer, tokens: Tensor) -> dict[str, np.ndarray]:
    unit = network.config.init_std**2
    outputs = _outputs(network, network.blocks, tokens)  # (layer, window, position, width)
    products, changes = [], []
    for place, block in enumerate(other.blocks):
        blocks = [block if index == place else own for index, own in enumerate(network.blocks)]
        redrawn = _outputs(network, blocks, tokens)
        products.append((outputs * redrawn)[place].mean())
        changes.append((outputs - redrawn).square().mean(dim=(1, 2, 3)) / 2)
    change = torch.stack(changes, dim=1)
    L = len(change)
    found = {
        "output_square": outputs.square().mean(dim=(1, 2, 3)),
        "redraw_change": change,
        "own_product": torch.stack(products).mean(),
        "other_change": change[~torch.eye(L, dtype=torch.bool)].sum() / max(1, L * (L - 1)),
    }
    return {name: value.numpy().astype(np.float64) / unit for name, value in found.items()}


def _outputs(network: LoopedTransformer, blocks: "nn.ModuleList | list[nn.Module]", tokens: Tensor) -> Tensor:
    """The mean over loops of what each of the blocks adds to the stream, over ε (layer, window, position, width)."""
    config = network.config
    h = network.embedding(tokens)
    sums = [torch.zeros_like(h) for _ in blocks]
    for _ in range(config.loops):
        for place, block in enumerate(blocks):
            after = block(h)
            sums[place] += after - h
            h = after
    return torch.stack(sums) / (config.loops * config.epsilon)
