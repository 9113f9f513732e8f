"""What the paper's theorems on an optimizer step assume of it, measured on random stacks whose matrices are held."""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import xarray as xr

from residual_theory.errors import InputError
from residual_theory.montecarlo.assumptions import refuse_others, summary
from residual_theory.montecarlo.dense import Dense
from residual_theory.montecarlo.estimate import Moments
from residual_theory.montecarlo.randomness import Normals, Rows
from residual_theory.montecarlo.streams import ForwardPass
from residual_theory.stack import Stack

Update = Literal["sign", "random"]
_ACTIVATIONS = ("relu", "linear")


def step_assumptions(
    stack: Stack, *, update: Update, rate: float, width: int, samples: int, seed: int, first_trial: int = 0
) -> xr.Dataset:
    """The quantities that Theorem 2 and Proposition 7 of the paper bound by assumption, as means over random stacks.

    W_l ← W_l + ΔW_l for all layers at once, with ΔW_l = −(η/d) sign(∂f/∂W_l), f = ⟨v, h_V⟩/‖v‖ and a standard normal
    readout v ("sign", which is also Adam's first step), or ΔW_l = (η/√d) S_l with standard normal S_l ("random"). Both
    have ‖ΔW_l‖ of order η at every width. u_k = φ(h_k) is what visit k's matrix W_l(k) is given, U_l the sum of u_k
    over the visits of l, J_k the Jacobian from the stream after visit k to the output; ‖·‖ of a matrix is its largest
    singular value. float64; one trial at a time holds its L matrices and N·L Jacobians.

    Arguments:
      stack: a tied Stack of cyclic ReLU or linear layers, raw or pre-norm, else at its defaults.
      update: "sign" or "random".  rate: η > 0.
      width, samples, seed, first_trial: as of `montecarlo.assumptions.assumptions`.
    Returns: a Dataset of means over trials, each with *_stderr, and samples:
      weight_gain, max ‖W_l‖ (C_W); update_gain, max ‖ΔW_l‖/η (C_Δ); activation, max q^(1/2)(u) after the step (Q₊);
      visit_gain, max q^(1/2)(ΔW u)/η (C_Δ of Proposition 7); jacobian_gain, max ‖J_k‖ (C_J);
      change, q^(1/2)(Δh_V); linear_change, that of Δh_lin = ε Σ_k J_k ΔW u_k;
      zeta, ‖Σ_l ΔW_l U_l‖/(η Σ_l ‖U_l‖); theta, ‖Δh_V − εΣ_l ΔW_l U_l‖/‖εΣ_l ΔW_l U_l‖;
      coherence, ‖Δh_lin‖/(ε Σ_k ‖J_k ΔW u_k‖), what is left of the sum of the visits' effects where they add;
      bound_2, C_Δ Q₊ exp(εC_W N) ηεN (raw stacks of one layer), and bound_7, C_J C_Δ ηεNL, of a trial's own constants;
      looseness_2 and looseness_7, these over change and over linear_change.
    Raises: InputError naming the argument that cannot be used.
    Source: arXiv:2606.18524, Theorem 2 with App. A.3, and Proposition 7.

    >>> stack = Stack(loops=2, residual_scale="1/N", weight_variance=1.5)
    >>> found = step_assumptions(stack, update="random", rate=0.01, width=64, samples=4, seed=1)
    >>> bool(found.change < found.bound_2), bool(found.linear_change < found.bound_7)
    (True, True)
    """
    refuse_others(stack)
    if update not in get_args(Update):
        raise InputError("update", update, "choose sign or random")
    if not rate > 0:
        raise InputError("rate", rate, "must be above 0")
    if stack.normalization not in ("none", "rms"):
        raise InputError("normalization", stack.normalization, "only 'none' and 'rms' are known here")
    if stack.activation not in _ACTIVATIONS:
        raise InputError("activation", stack.activation, f"choose from {', '.join(_ACTIVATIONS)}")
    for name in ("skip", "carry", "injection", "loop_normalization"):
        if getattr(stack, name) != Stack.model_fields[name].default:
            raise InputError(name, getattr(stack, name), "steps are known of streams that are left alone")
    moments: dict[str, Moments] = {}
    for trial in range(first_trial, first_trial + samples):
        for name, value in _trial(stack, update, rate, width, seed, trial).items():
            moments.setdefault(name, Moments()).add(np.array([value]))
    return summary(moments, samples, {})


class _Pass(NamedTuple):
    """One pass: the streams h_0 … h_V (visit, width), and the inputs u of every visit's matrix (visit, width)."""

    streams: torch.Tensor
    inputs: torch.Tensor


def _trial(stack: Stack, update: Update, rate: float, width: int, seed: int, trial: int) -> dict[str, float]:
    device = torch.device("cpu")
    normals = Normals(seed, (width, 1), [trial], Rows(device), device)
    start = torch.empty(1, 1, width, dtype=torch.float64)
    normals.fill(start)
    start *= stack.initial_variance**0.5
    layers: list[Dense] = []

    def draw(shape: tuple[int, int], _: int) -> Dense:
        layers.append(Dense(shape, normals, start, transposed=True))
        return layers[-1]

    forward = ForwardPass(stack, start, draw, with_gradients=True)
    scale = (stack.weight_variance / width) ** 0.5  # of an entry of W
    weights = torch.stack([layer.matrix[0] * scale for layer in layers])
    updates = []
    readout = torch.empty(1, 1, width, dtype=torch.float64)
    normals.fill(readout)
    if update == "sign":
        forward.backward(readout)
    for layer in layers:
        if update == "sign":
            updates.append(-rate / width * layer.gradient()[0].sign())
        else:
            drawn = torch.empty(1, width, width, dtype=torch.float64)
            normals.fill(drawn)
            updates.append(rate / math.sqrt(width) * drawn[0])
    moves = torch.stack(updates)
    before, after = _run(stack, weights, start[0, 0].detach()), _run(stack, weights + moves, start[0, 0].detach())
    return _found(stack, rate, weights, moves, before, after)


def _run(stack: Stack, weights: torch.Tensor, start: torch.Tensor) -> _Pass:
    streams, inputs = [start], []
    for visit in stack.visits:
        inputs.append(_activated(stack, _read(stack, streams[-1])))
        streams.append(streams[-1] + visit.scale * (weights[visit.weights] @ inputs[-1]))
    return _Pass(torch.stack(streams), torch.stack(inputs))


def _read(stack: Stack, stream: torch.Tensor) -> torch.Tensor:
    """What φ is given."""
    return stream if stack.normalization == "none" else stream / _rms(stream)


def _rms(stream: torch.Tensor) -> torch.Tensor:
    size: torch.Tensor = torch.linalg.vector_norm(stream) / math.sqrt(len(stream))
    return size


def _activated(stack: Stack, read: torch.Tensor) -> torch.Tensor:
    return read.relu() if stack.activation == "relu" else read


def _jacobians(stack: Stack, weights: torch.Tensor, streams: torch.Tensor) -> torch.Tensor:
    """J_k (visit, width, width) from the stream after visit k = 1 … V to the output."""
    jacobian = torch.eye(streams.shape[1], dtype=streams.dtype)
    found = [jacobian]
    for visit, stream in reversed(list(zip(stack.visits[1:], streams[1:-1], strict=True))):
        read = _read(stack, stream)
        inner = jacobian @ weights[visit.weights]
        if stack.activation == "relu":
            inner = inner * (read > 0)
        if stack.normalization == "rms":
            inner = (inner - torch.outer(inner @ read, read) / len(read)) / _rms(stream)
        jacobian = jacobian + visit.scale * inner
        found.append(jacobian)
    return torch.stack(found[::-1])


def _found(
    stack: Stack, rate: float, weights: torch.Tensor, moves: torch.Tensor, before: _Pass, after: _Pass
) -> dict[str, float]:
    N, L, d = stack.loops, stack.unique_layers, weights.shape[2]
    places = [visit.weights for visit in stack.visits]
    pushes = torch.einsum("kij,kj->ki", moves[places], before.inputs)  # ΔW u of every visit
    jacobians = _jacobians(stack, weights, before.streams)
    effects = stack.epsilon * torch.einsum("kij,kj->ki", jacobians, pushes)
    change, lead = after.streams[-1] - before.streams[-1], stack.epsilon * pushes.sum(dim=0)
    sums = before.inputs.reshape(N, L, d).sum(dim=0)
    values = {
        "weight_gain": _largest(weights),
        "update_gain": _largest(moves) / rate,
        "activation": _most(after.inputs),
        "visit_gain": _most(pushes) / rate,
        "jacobian_gain": _largest(jacobians),
        "change": _most(change[None]),
        "linear_change": _most(effects.sum(dim=0)[None]),
        "zeta": _norm(lead) / (stack.epsilon * rate * sum(map(_norm, sums))),
        "theta": _norm(change - lead) / _norm(lead),
        "coherence": _norm(effects.sum(dim=0)) / sum(map(_norm, effects)),
    }
    steps = rate * stack.epsilon * N
    values["bound_7"] = values["jacobian_gain"] * values["visit_gain"] * steps * L
    values["looseness_7"] = values["bound_7"] / values["linear_change"]
    if L == 1 and stack.normalization == "none":
        growth = math.exp(stack.epsilon * values["weight_gain"] * N)
        values["bound_2"] = values["update_gain"] * values["activation"] * growth * steps
        values["looseness_2"] = values["bound_2"] / values["change"]
    return values


def _norm(vector: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def _most(vectors: torch.Tensor) -> float:
    """The largest q^(1/2) of vectors (vector, width)."""
    return float(torch.linalg.vector_norm(vectors, dim=1).max()) / math.sqrt(vectors.shape[1])


def _largest(matrices: torch.Tensor) -> float:
    """The largest singular value of any."""
    return float(torch.linalg.eigvalsh(matrices @ matrices.mT)[:, -1].max().clamp(min=0).sqrt())
