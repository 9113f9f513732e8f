"""Trials drawn in blocks of a fixed size, and the values of each."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from residual_theory.montecarlo import machine
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.matrix_free import MatrixFree
from residual_theory.montecarlo.plan import Plan
from residual_theory.montecarlo.randomness import PIECE, Normals, Rows
from residual_theory.montecarlo.streams import Backward, ForwardPass, Weights
from residual_theory.montecarlo.values import Values, average, values
from residual_theory.stack import Stack

_CACHED = 4 * 2**20  # bytes of streams in float64 that are worked on at a time


def draw_trials(plan: Plan, trials: range) -> Iterator[Values]:
    """The values of the trials, block by block and in order; with "control" where there is one."""
    size = machine.trials_in_block(plan.weights_of_trial, plan.one_trial, plan.device)
    at_once = machine.blocks_at_once(size * plan.one_trial, plan.one_trial, plan.device, plan.width, plan.memory_budget)
    blocks = range(trials.start // size, (trials.stop - 1) // size + 1)
    # a function of the user's stays in this process: it may be defined, or count its calls, here only
    named = all(isinstance(each.activation, str) for each in (plan.stack, *(plan.control or ())[:1]))
    with machine.workers(len(blocks), at_once, plan.device, movable=named) as (mapped, rows):
        yield from mapped(functools.partial(_draw_block, plan, trials, size, rows), blocks)


def _draw_block(plan: Plan, trials: range, size: int, rows: Rows, block: int) -> Values:
    """The values of those trials that lie in a block."""
    start = block * size
    found = machine.halved_when_full(lambda part: _block(plan, part, rows), range(start, start + size), _join)
    inside = slice(max(trials.start - start, 0), min(trials.stop - start, size))
    return {name: value[inside] for name, value in found.items()}


def _join(parts: Sequence[Values]) -> Values:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _block(plan: Plan, trials: Sequence[int], rows: Rows) -> Values:
    """The values of a block of trials: of two antithetic runs where wanted, and of the control on the same numbers."""
    signs = (1, -1) if plan.antithetic else (1,)
    found = average([_run(plan, plan.stack, trials, rows, sign) for sign in signs])
    if plan.control is not None:
        plain = replace(plan, with_gradients=False)
        other = average([_run(plain, plan.control[0], trials, rows, sign) for sign in signs])
        found["control"] = other["second_moment"][:, -1]
    return found


def _run(plan: Plan, stack: Stack, trials: Sequence[int], rows: Rows, sign: int) -> Values:
    normals = Normals(plan.seed, (plan.width, int(plan.dense)), trials, rows, plan.device)
    shape = (len(trials), plan.inputs, plan.width)
    start = _empty(shape, plan)
    normals.fill(start)
    if plan.correlations is not None:
        start = torch.einsum("pq,bqd->bpd", _root(plan.correlations).to(start), start)
    start *= stack.initial_variance**0.5

    def draw(matrix: tuple[int, int], products: int) -> Weights:
        if plan.dense:
            return Dense(matrix, normals, start, transposed=plan.with_gradients, sign=sign)
        return MatrixFree(
            matrix, products, normals, rows, start, transposed=plan.with_gradients, tolerance=plan.tolerance, sign=sign
        )

    forward = ForwardPass(stack, start, draw, with_gradients=plan.with_gradients)
    backward = None
    if plan.with_gradients:
        readout = _empty((len(trials), 1, plan.width), plan)
        normals.fill(readout)
        backward = forward.backward(readout)
    return _values(plan, stack, forward.streams, backward, rows)


def _values(plan: Plan, stack: Stack, streams: Sequence[torch.Tensor], backward: Backward | None, rows: Rows) -> Values:
    """The values of a block's trials, on the CPU of as many at a time as the cache holds; which, changes no bit."""
    trials, inputs, width = streams[0].shape
    most = max(1, _CACHED // (8 * len(streams) * inputs * min(width, PIECE))) if plan.device.type == "cpu" else trials
    parts = []
    for start in range(0, trials, most):
        part = slice(start, start + most)
        there = None if backward is None else Backward(*(each[part] for each in backward))
        within = [stream[part] for stream in streams]
        parts.append(values(stack, within, there, rows, between_inputs=plan.correlations is not None))
    return _join(parts)


def _empty(shape: tuple[int, ...], plan: Plan) -> torch.Tensor:
    return torch.empty(shape, dtype=machine.DTYPES[plan.dtype], device=plan.device)


def _root(correlations: np.ndarray) -> torch.Tensor:
    """A square root C of the correlations, C Cᵀ = ρ, singular ones included; by torch, which keeps to one thread."""
    squares, vectors = torch.linalg.eigh(torch.from_numpy(correlations))
    root: torch.Tensor = (vectors * squares.clamp(min=0).sqrt()) @ vectors.mT
    return root
