"""Trials drawn in blocks of a fixed size, and the values of each."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from residual_theory.montecarlo import machine
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.matrix_free import Course, MatrixFree
from residual_theory.montecarlo.plan import Plan
from residual_theory.montecarlo.randomness import PIECE, Normals, Rows
from residual_theory.montecarlo.streams import Backward, ForwardPass, Weights, law_of
from residual_theory.montecarlo.values import Values, average, values
from residual_theory.stack import Stack

_STORED = 20 * 2**20  # bytes that stand for the matrices of trials drawn at a time, near a core's share of the cache
_LANES = 32  # a multiple of the numbers that torch's functions take at a time
_CACHED = 4 * 2**20  # bytes of streams in float64 that are worked on at a time


def draw_trials(plan: Plan, trials: range) -> Iterator[Values]:
    """The values of the trials, block by block and in order; with "control" where there is one."""
    size = machine.trials_in_block(plan.weights_of_trial, plan.one_trial, plan.device)
    at_once = machine.blocks_at_once(size * plan.one_trial, plan.one_trial, plan.device, plan.width, plan.memory_budget)
    blocks = range(trials.start // size, (trials.stop - 1) // size + 1)
    # a function of the user's stays in this process: it may be defined, or count its calls, here only
    named = all(isinstance(each.activation, str) for each in (plan.stack, *(plan.control or ())[:1]))
    least = size * plan.least_seconds
    with machine.workers(len(blocks), at_once, plan.device, movable=named, least=least) as (mapped, rows):
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
    """The values of a block of trials, drawn in parts where these have the bits of the whole.

    They do unless trials of different parts would have decided something together.
    """
    size = _size_of_part(plan, len(trials))
    parts = [_part(plan, trials[start : start + size], rows) for start in range(0, len(trials), size)]
    if any(course != parts[0][1] for _, course in parts):
        parts = [_part(plan, trials, rows)]
    return _join([found for found, _ in parts])


def _size_of_part(plan: Plan, trials: int) -> int:
    """How many trials of a block are drawn at a time, so that what each visit reads again is still in the cache.

    On the CPU a trial's bits are the same beside any number of others, unless there is none (torch multiplies a single
    matrix in another way) or arrays end within _LANES (torch evaluates some activations there in another way).
    """
    if plan.device.type != "cpu" or plan.dense or plan.tolerance is not None:  # trials differ in what is tolerated
        return trials
    size = min(trials, 1 << max(1, (_STORED // plan.weights_of_trial).bit_length() - 1))
    lengths = {n for visit in plan.stack.visits for each in law_of(visit).matrices(plan.width) for n in each[:2]}
    return size if all(size * n % _LANES == 0 for n in lengths) else trials


def _part(plan: Plan, trials: Sequence[int], rows: Rows) -> tuple[Values, Course]:
    """The values of trials: of two antithetic runs where wanted, and of the control on the same numbers."""
    signs = (1, -1) if plan.antithetic else (1,)
    course: Course = []
    found = average([_run(plan, plan.stack, trials, rows, sign, course) for sign in signs])
    if plan.control is not None:
        plain = replace(plan, with_gradients=False)
        other = average([_run(plain, plan.control[0], trials, rows, sign, course) for sign in signs])
        found["control"] = other["second_moment"][:, -1]
    return found, course


def _run(plan: Plan, stack: Stack, trials: Sequence[int], rows: Rows, sign: int, course: Course) -> Values:
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
        settings: dict[str, Any] = {"tolerance": plan.tolerance, "sign": sign, "course": course}
        return MatrixFree(matrix, products, normals, rows, start, transposed=plan.with_gradients, **settings)

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
