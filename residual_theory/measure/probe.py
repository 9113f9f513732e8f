"""Measure any PyTorch module: forward hooks read the residual stream, one row a visit, loops never pooled."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.attention import SDPBackend, sdpa_kernel

from residual_theory.errors import InputError
from residual_theory.measure.blocks import Block, Inputs, call_arguments, layers_of, unwrapped
from residual_theory.measure.loop_map import loop_map as loop_map_of
from residual_theory.measure.moments import gradient_statistics, stream_statistics
from residual_theory.measure.recorder import Recorder
from residual_theory.measure.repeated import find_block
from residual_theory.measure.running import running
from residual_theory.measure.sharing import Sharing
from residual_theory.measure.streams import Stream
from residual_theory.measure.updates import kinds
from residual_theory.observables import dataset


def probe(
    model: nn.Module,
    *,
    block: Block | None = None,
    inputs: Inputs,
    stream: Stream = None,
    mask: Tensor | None = None,
    with_gradients: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    increments: Literal["loop", "visit"] = "loop",
    loop_map: bool = False,
    memory: int = 2**30,
    seed: int = 0,
) -> xr.Dataset:
    """Run `model` once and measure its residual stream at every visit to `block`.

    Visits are the calls of the blocks, numbered in call order whatever it is: h_0 is the input of the first visit, h_k
    the stream after visit k, and Δ_n = (stream after the last visit of loop n) − (input of its first visit). Visits
    that use the same weights are one layer, whatever objects hold them. The calls are N loops when their layers are one
    pattern N times over (L layers in turn: V = N·L visits), and one loop when each layer is visited once. In any other
    order every visit is a loop of its own, as with `increments="visit"`, and N is how often each layer is visited, if
    all are equally often (0 0 1 1 2 2), else V.

    The stream is the floating-point tensor among a block's arguments and in its output (a tensor, or a tuple, list,
    mapping or dataclass holding one) that has the other's shape; of several, the one that the model hands on from visit
    to visit. Where nothing tells, all are listed and `stream` has to name one. Its leading axis counts the samples and
    must be the batch: for a sequence-first model (`nn.TransformerEncoderLayer` with batch_first=False) the samples, and
    with them the standard errors, are positions. All other axes of a sample (tokens × width) make one vector.

    Where the model itself makes the next visit's stream from the last one and the block's output (h + s (block(h) − h),
    h + s block(h), a gate, halted positions that keep their state), that is the stream after the visit. After the last
    visit it is looked for in the model's output; what is done there to the block's output alone (a norm) is not.

    The model runs in the mode it is in: call `model.eval()` first unless dropout is to be measured. It is left as it
    was, random state included (in training mode, batch normalisation updates its running statistics as in any forward
    pass). A compiled model runs uncompiled, a data-parallel one on this process alone. Statistics are float64, but the
    stream is as coarse as the model's own dtype: in bfloat16 a change below the stream's spacing reads as none.

    Arguments:
      block: a module of the model, its dotted name, a pattern of names ("layers.*"; a star stays within one part of a
        name, two are any number), or a sequence of these. An `nn.ModuleList` stands for its members. Without it the
        outermost modules called more than once are taken, if they are one or one list; the model then runs twice.
      inputs: what the model is called with: a tensor, a tuple of positional or a mapping of keyword arguments.
      stream: the block's argument that is the stream, by name or position, or a pair: of the argument and of what the
        block puts out (the position or name in a tuple, mapping or dataclass); None in it finds one. Dots go deeper.
      mask: (sample, …), the stream's leading axes, such as (sample, token): True or 1 where a position counts; all
        means are over these alone.
      with_gradients: also gradient_second_moment (visit), the squared norm ‖∂f/∂h_k‖² of one sample's gradient, for
        f = ⟨v, h_V⟩/‖v‖ with v ~ N(0, 1) drawn for each sample, so that it is 1 at the last visit, as in `predict`. It
        takes the memory of a training step and as much again as all streams; parameters gain no gradient.
      loss: another f: maps the model's output to a scalar, taken as it is (a mean over the batch divides gradients).
      increments: what a loop is for increment_cosine: whole loops as above, or every visit on its own.
      loop_map: also the spectral radius and the norm of the last loop's Jacobian, ∂h_V/∂h_{V−L}: by how much a small
        disturbance of the stream grows in a loop. It takes some fifty passes backwards through that loop.
      memory: bytes for snapshots of the stream. When all visits do not fit, second moments stay exact, while
        covariances and cosines come from a random projection of every sample (measure.sketch) in sketch_dimension
        numbers: one sample's cosine c then has a standard error of (1 − c²)·sketch_stderr, independent between samples
        and so contained in the _stderr found over them. One more stream in float64 is held beside this.
      seed: of the readout v and of the projection.
    Returns: second_moment (visit), covariance (visit, visit_other) and increment_cosine (loop, loop_other), as means
      over samples of one sample's value, each with _stderr (NaN with one sample), and `samples`; all dimensionless.
      The cosine with a change that is zero is NaN. The coordinate `layer` (visit) names the block called, "" at 0.
      Where some positions keep their state, updated (visit) is the share that took the block's output, and
      second_moment_updated (visit) the mean square over these alone.
      Attributes: model, blocks, mode, dtype, device, visits, loops, unique_layers; changed_between_visits, the number
      of visits whose input is not the stream after the one before (a norm or an injection in between); and only where
      they apply: sharing, which blocks share weights, and how much of them; equal_not_shared, weights that are equal
      but not shared; order, the layer of each visit, where they are no whole loops; loops_are = "visits" where every
      visit is a loop of its own; outside_block, what the model makes of a block's output; sketch_dimension and
      sketch_stderr where streams did not fit; loop_radius, loop_norm, loop_angle and the errors of the first two with
      `loop_map` (measure.loop_map); first_nonfinite_visit where the stream has an infinity or a NaN.
    Raises: InputError for a block that is not in the model, is never called, nests in another or has no stream of
      constant shape, for inputs of another type, for a visit that no gradient reaches, and for too little memory.
      What the model raises passes through.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> layer.weight = nn.Parameter(2 * torch.eye(2))
    >>> looped = nn.Sequential(layer, layer, layer)
    >>> found = probe(looped, block=layer, inputs=torch.tensor([[3.0, 0.0]]), with_gradients=True)
    >>> found.second_moment.values
    array([  4.5,  18. ,  72. , 288. ])
    >>> found.gradient_second_moment.values.round(4)
    array([64., 16.,  4.,  1.])
    """
    _check(loss, with_gradients, increments, memory, seed)
    model = unwrapped(model)
    args, kwargs = call_arguments(inputs)
    with running(model):
        blocks: Block = find_block(model, args, kwargs) if block is None else block
    graph = with_gradients or loop_map
    recorder = Recorder(
        layers_of(model, blocks), stream=stream, mask=mask, memory=memory, seed=seed, with_gradients=graph
    )
    try:
        with running(model), torch.set_grad_enabled(graph), _differentiable_twice(loop_map):
            with recorder.watching():
                output = model(*args, **kwargs)
            recorder.finish(output)
            gradients = _gradients(recorder, output, loss, seed) if with_gradients else None
            linearised = _loop_map(recorder, seed) if loop_map else {}
    finally:
        recorder.release()
    sharing = recorder.sharing()
    whole = sharing.whole if increments == "loop" else None
    values, stderr = stream_statistics(recorder, whole or len(recorder.calls))
    attrs = _attributes(model, recorder, sharing) | linearised
    if whole is None:
        attrs["loops_are"] = "visits"
    if gradients is not None:
        for found, more in zip((values, stderr), gradient_statistics(gradients), strict=True):
            found.update(more)
    nonfinite = np.flatnonzero(~np.isfinite(values["second_moment"]))
    if len(nonfinite):
        attrs["first_nonfinite_visit"] = int(nonfinite[0])
    result = dataset(values, stderr=stderr, samples=recorder.shape[0], attrs=attrs)
    names = np.array(["", *recorder.calls], dtype=object)
    result = result.assign(_updated(recorder, values["second_moment"]))
    return result.assign_coords(layer=("visit", names, {"long_name": "block whose visit it is"}))


def _check(loss: object, with_gradients: bool, increments: object, memory: object, seed: object) -> None:
    if loss is not None and not with_gradients:
        raise InputError("loss", loss, "is used only with_gradients=True")
    if loss is not None and not callable(loss):
        raise InputError("loss", loss, "give a function of the model's output that returns a scalar")
    if increments not in ("loop", "visit"):
        raise InputError("increments", increments, "choose 'loop' or 'visit'")
    if not isinstance(memory, int) or memory <= 0:
        raise InputError("memory", memory, "must be a whole number of bytes above 0")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise InputError("seed", seed, "must be a whole number from 0 to 2^63 - 1")


def _attributes(model: nn.Module, recorder: Recorder, sharing: Sharing) -> dict[str, Any]:
    device, dtype = recorder.first
    visits = len(recorder.after)
    pairs = zip(recorder.after, recorder.before[1:], strict=False)
    attrs: dict[str, Any] = {
        "model": type(model).__name__,
        "blocks": ", ".join(recorder.layers.values()),
        "mode": "train" if model.training else "eval",
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "visits": visits,
        "loops": sharing.loops or visits,
        "unique_layers": sharing.layers,
        "changed_between_visits": sum(entered is not left for left, entered in pairs),
    } | sharing.words
    if recorder.followed:
        ways = kinds(each.update for each in recorder.followed.values() if each.update is not None)
        more = f" … {ways[-1]}" if len(ways) > 1 else ""
        attrs["outside_block"] = f"after {len(recorder.followed)} of {visits} visits: {ways[0]}{more}"
    if recorder.sketch is not None:
        attrs["sketch_dimension"] = recorder.sketch.dimension
        attrs["sketch_stderr"] = recorder.sketch.dimension**-0.5
    return attrs


def _updated(recorder: Recorder, second_moment: np.ndarray) -> dict[str, Any]:
    """How many positions took each visit's output, and their mean square, where some kept their state."""
    masked = {place: each for place, each in recorder.followed.items() if each.update and each.update.kind == "masked"}
    if not masked:
        return {}
    share, square = np.ones(len(second_moment)), second_moment.copy()
    share[0] = np.nan
    for place, each in masked.items():
        assert each.update is not None
        share[place + 1], square[place + 1] = each.update.updated, each.updated_square
    words = {"updated": "share of positions that took the block's output"}
    words["second_moment_updated"] = "mean square of the stream's entries at these positions"
    return {
        name: ("visit", values, {"long_name": words[name], "units": "1"})
        for name, values in (("updated", share), ("second_moment_updated", square))
    }


def _differentiable_twice(wanted: bool) -> AbstractContextManager[object]:
    """Attention by kernels whose gradients have derivatives, where they are wanted."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def _loop_map(recorder: Recorder, seed: int) -> dict[str, float]:
    """What is measured of the last loop; of all visits where they are no whole loops."""
    loops = recorder.sharing().whole or 1
    edges = recorder.edges
    before, after = edges[-1 - len(recorder.calls) // loops], edges[-1]
    if before is None or after is None:
        raise InputError("loop_map", True, "no gradient reaches the last loop (no_grad, or detached); leave it out")
    device, dtype = recorder.last
    return loop_map_of(before, after, torch.empty(0, device=device, dtype=dtype), recorder.shape, seed)


def _gradients(recorder: Recorder, output: object, loss: Callable[[Any], Tensor] | None, seed: int) -> list[Tensor]:
    """∂f/∂h_k for k = 0 … V, each (sample, …)."""
    edges: Sequence[GradientEdge | None] = recorder.edges
    for visit, edge in enumerate(edges):
        if edge is None:
            _refuse_cut(recorder, visit)
    reached = [edge for edge in edges if edge is not None]
    grad: Callable[..., Sequence[Tensor | None]] = torch.autograd.grad  # None where f does not depend on the stream
    if loss is None:
        generator = torch.Generator().manual_seed(seed)
        readout = torch.randn(recorder.shape, generator=generator, dtype=torch.float64)
        readout = recorder.mask(readout)
        readout /= readout.flatten(1).norm(dim=1).view(-1, *[1] * (readout.ndim - 1))
        found = grad(reached[-1:], reached, readout.to(*recorder.last), allow_unused=True)
    else:
        value = loss(output)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise InputError("loss", value, "must return a scalar tensor that depends on the model's output")
        found = grad(value, reached, allow_unused=True)
    for visit, gradient in enumerate(found):
        if gradient is None:
            _refuse_cut(recorder, visit)
    return [gradient for gradient in found if gradient is not None]


def _refuse_cut(recorder: Recorder, visit: int) -> None:
    name = recorder.calls[max(visit - 1, 0)]
    where = f"the stream after visit {visit} to {name}" if visit else f"the input of the first visit, to {name}"
    mend = f"none reaches {where}: the model detaches it, or runs under no_grad or a reentrant checkpoint; leave it out"
    raise InputError("with_gradients", True, mend)
