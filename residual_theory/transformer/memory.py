"""What a training step needs of memory, and what to say when it does not fit."""

import contextlib
import os
from collections.abc import Iterator

import torch

from residual_theory.errors import InputError
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.processes import Team


def state_bytes(model: ModelConfig) -> int:
    """Bytes of weights, gradients and AdamW's two moments, all float32 (gains and biases left out).

    >>> state_bytes(ModelConfig(width=8, heads=2, mlp_width=12, loops=3, vocabulary=10))
    9984
    """
    d = model.width
    own = model.unique_layers * (1 if model.tied else model.loops) + model.prelude + model.coda
    return 16 * (model.vocabulary * d + own * (4 * d * d + 3 * d * model.mlp_width))


def sequence_bytes(model: ModelConfig, *, half: bool = False, recompute: bool = False) -> int:
    """Bytes that one sequence's forward pass keeps for its backward pass, estimated.

    Arguments: half: branches compute in two bytes a number, the stream in four. recompute: the stream alone is kept at
    each visit. Counted are a branch's inputs and products, and the logits with their softmax and its gradient.

    >>> short, long = ModelConfig(loops=2, context=32), ModelConfig(loops=2, context=64)
    >>> sequence_bytes(long) / sequence_bytes(short)
    2.0
    """
    visits = model.loops * model.unique_layers + model.prelude + model.coda
    number = 2 if half else 4
    inside = visit_bytes(model, half=half)
    kept = visits * 4 * model.width + inside if recompute else visits * inside
    return model.context * (kept + (4 + 2 * number) * model.vocabulary)


def visit_bytes(model: ModelConfig, *, half: bool = False) -> int:
    """Bytes a token that one visit keeps for the backward pass, estimated: a branch's inputs and products.

    >>> visit_bytes(ModelConfig(width=64, mlp_width=176))
    7104
    """
    return 4 * 2 * model.width + (2 if half else 4) * (12 * model.width + 5 * model.mlp_width)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. The error of torch's allocator for the CPU has no class of its own, only a text."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in ("can't allocate memory", "out of memory"))


@contextlib.contextmanager
def explain_out_of_memory(
    model: ModelConfig, team: Team, *, batch_size: int, accumulation: int, half: bool, recompute: bool
) -> Iterator[None]:
    """Turn torch's out-of-memory errors into an InputError("accumulation", …) that names what would fit, estimated."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        at_once = batch_size // (accumulation * team.size)
        free = memory_of(team.device) - state_bytes(model)
        fits = min(at_once - 1, free // sequence_bytes(model, half=half, recompute=recompute))
        if fits > 0:
            mine = batch_size // team.size
            least = -(-mine // fits)
            parts = next((n for n in range(least, min(mine, least + 10_000) + 1) if mine % n == 0), None)
            advice = (
                f"set accumulation = {parts} at batch_size = {batch_size}" if parts else "take a smaller batch_size"
            )
            mend = f"about {fits} would fit: {advice}"
        elif recompute:
            mend = "not even one would fit: take a smaller model or a shorter context"
        else:
            mend = "not even one would fit: set recompute = True, or take a smaller model"
        mend = f"{team.device} is out of memory with {at_once} sequences of {model.context} tokens at once; {mend}"
        raise InputError("accumulation", accumulation, mend) from None


def memory_of(device: torch.device) -> int:
    """Bytes that the device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
