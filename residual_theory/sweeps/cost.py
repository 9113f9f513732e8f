"""What training costs before it starts: operations, memory, and time at a measured or an assumed rate."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from residual_theory.devices import device_named
from residual_theory.errors import InputError
from residual_theory.parallel import each
from residual_theory.sweeps.grid import Cell, SweepConfig, change
from residual_theory.sweeps.sweep import seconds_a_step
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus
from residual_theory.transformer.memory import sequence_bytes, state_bytes

_TRIAL_LIMIT = 20.0  # seconds that a trial step may take


def operations_per_token(model: ModelConfig, *, recompute: bool = False) -> int:
    """Floating-point operations of one token's forward and backward pass, a multiply-add counting as two.

      6 (V P + d v) + 12 V d T,  V = N L + prelude + coda visits, P = 4 d² + 3 d m matrix entries a block,

    of width d, MLP width m, vocabulary v, context T: each entry visited is used once forward and twice backward, and
    attention's two products run over all T positions. Norms, softmax and rotations are left out; what the causal mask
    spares is not. With `recompute` the visits' forward pass runs twice, which makes 8 and 16 of their 6 and 12.

    Source: this project; counted by torch in its tests.

    >>> operations_per_token(ModelConfig(width=8, heads=2, mlp_width=12, loops=3, vocabulary=10, context=5))
    11712
    """
    d = model.width
    visits = model.loops * model.unique_layers + model.prelude + model.coda
    forward = visits * (2 * (4 * d * d + 3 * d * model.mlp_width) + 4 * d * model.context)
    return (4 if recompute else 3) * forward + 6 * d * model.vocabulary


def operations_per_step(cell: Cell) -> int:
    """Floating-point operations of one optimizer step, those of the optimizer itself left out."""
    tokens = cell.training.batch_size * cell.model.context
    return tokens * operations_per_token(cell.model, recompute=cell.training.recompute)


def memory(model: ModelConfig, training: TrainConfig) -> int:
    """Bytes that a run needs, estimated: weights, gradients, AdamW's moments and what the backward pass reads."""
    half = training.dtype == "bfloat16"
    at_once = training.batch_size // training.accumulation
    return state_bytes(model) + at_once * sequence_bytes(model, half=half, recompute=training.recompute)


@dataclass(frozen=True)
class Cost:
    """The runs of one N and L: how many, operations of all, bytes of one, seconds of all one after the other."""

    loops: int
    unique_layers: int
    runs: int
    operations: float
    memory: int
    seconds: float


def costs(config: SweepConfig, seconds_a_step: Callable[[Cell], float]) -> list[Cost]:
    """The cost of a sweep, one row for each L and N; runs that rules have in common count once.

    >>> config = SweepConfig(loops=(1, 2), rules=("1", "1/N"), learning_rates=(1e-3,), seeds=(0, 1))
    >>> [(row.loops, row.runs, row.seconds) for row in costs(config, lambda cell: 0.01 * cell.model.loops)]
    [(1, 2, 6.0), (2, 4, 24.0)]
    """
    distinct = {(cell.model.epsilon, change(cell.model, residual_scale="1"), cell.training): cell
                for cell in config.cells()}.values()  # fmt: skip
    rows = []
    for layers in config.unique_layers:
        for loops in config.loops:
            cells = [cell for cell in distinct if (cell.model.loops, cell.model.unique_layers) == (loops, layers)]
            first, steps = cells[0], len(cells) * config.training.steps
            rows.append(
                Cost(
                    loops, layers, len(cells), float(steps * operations_per_step(first)),
                    memory(first.model, first.training), steps * seconds_a_step(first),
                )
            )  # fmt: skip
    return rows


def measure_rate(config: SweepConfig) -> Callable[[Cell], float]:
    """Seconds a step of any cell, from a few steps of the smallest and the largest on this machine, on random tokens.

    Between the two the time is a line in the operations: an overhead and a rate. The largest is left out, and the time
    taken to be in proportion, where it would take too long.
    Raises: InputError for a device that is not here.
    """
    device_named(config.training.device)
    cells = sorted(config.cells(), key=operations_per_step)
    small, large = cells[0], cells[-1]
    low, high = operations_per_step(small), operations_per_step(large)
    (first,) = each(_trial, [small], 1)  # with one thread, as in a sweep
    if low == high or first * high / low > _TRIAL_LIMIT:
        return lambda cell: first * operations_per_step(cell) / low
    (last,) = each(_trial, [large], 1)
    slope = max(last - first, 0.0) / (high - low)
    return lambda cell: first + slope * (operations_per_step(cell) - low)


def _trial(cell: Cell) -> float:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(cell.model.vocabulary, (4 * cell.model.context + 1,), generator=generator, dtype=torch.int32)
    return seconds_a_step([cell], Corpus("random tokens", tokens, tokens, "", cell.model.vocabulary))


def assume_rate(peak: float, utilization: float) -> Callable[[Cell], float]:
    """Seconds a step at a share `utilization` of `peak` operations a second.

    Raises: InputError for a peak that is not positive and a utilization outside (0, 1].
    """
    if not 0 < peak < float("inf"):
        raise InputError("peak", peak, "must be positive, in operations a second")
    if not 0 < utilization <= 1:
        raise InputError("utilization", utilization, "must lie above 0 and be at most 1")
    return lambda cell: operations_per_step(cell) / (peak * utilization)
