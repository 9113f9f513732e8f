"""Measure any PyTorch module: forward hooks read the residual stream, one row a visit, loops never pooled."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.observables import dataset

_ENTRIES_AT_ONCE = 2**24  # float64 numbers held while averaging: 128 MiB, whatever the size of the model


def probe(
    model: nn.Module,
    *,
    block: nn.Module | str | Sequence[nn.Module | str],
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
) -> xr.Dataset:
    """Run `model` once and measure its residual stream at every visit to `block`.

    With L blocks called N times in turn there are V = N·L visits; h_0 is the input of the first visit, h_k the stream
    after visit k, and Δ_n = (stream after the last visit of loop n) − (input of its first visit). The stream is the
    first floating-point tensor of a block's positional, then keyword arguments, and of its output (a tensor, or a
    tuple, list, mapping or dataclass holding one). Its leading axis counts the samples and must be the batch: for a
    sequence-first model (`nn.TransformerEncoderLayer` with batch_first=False) the samples, and with them the standard
    errors, are positions. All other axes of a sample (tokens × width, padding included) make one vector.

    The model runs without gradients in the mode it is in: call `model.eval()` first unless dropout is to be measured.
    It is left as it was, random state included (in training mode, batch normalisation updates its running statistics
    as in any forward pass). Statistics are float64, but the stream is as coarse as the model's own dtype: in bfloat16
    a change below the stream's spacing reads as none.

    Arguments:
      block: a module of the model, its dotted name, or a sequence of these: the L unique layers of one loop, in
        order. An `nn.ModuleList` stands for its members.
      inputs: what the model is called with: a tensor, a tuple of positional or a mapping of keyword arguments.
    Returns: second_moment (visit), covariance (visit, visit_other) and increment_cosine (loop, loop_other), as means
      over samples of one sample's value, each with _stderr (NaN with one sample), and `samples`; all dimensionless.
      The cosine with a change that is zero is NaN. Attributes: model, blocks, mode, dtype, device, visits, loops,
      unique_layers; changed_between_visits, the number of visits whose input is not what the visit before it left (a
      norm or an injection in between); and first_nonfinite_visit, only where the stream has an infinity or a NaN.
    Raises: InputError for a block that is not in the model, is never called, is not called in turn, nests in another
      or has no stream of constant shape, and for inputs of another type. What the model raises passes through.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> layer.weight = nn.Parameter(2 * torch.eye(2))
    >>> looped = nn.Sequential(layer, layer, layer)
    >>> probe(looped, block=layer, inputs=torch.tensor([[3.0, 0.0]])).second_moment.values
    array([  4.5,  18. ,  72. , 288. ])
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", model, "give a torch.nn.Module")
    args, kwargs = _call_arguments(inputs)
    recorder = _Recorder(_layers(model, block))
    cuda = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with ExitStack() as hooks, torch.no_grad(), torch.random.fork_rng(devices=list(cuda)):
        for layer in recorder.layers:
            hooks.enter_context(layer.register_forward_pre_hook(recorder.enter, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(recorder.leave))
        model(*args, **kwargs)
    loops = recorder.loops()
    attrs = {
        "model": type(model).__name__,
        "blocks": ", ".join(recorder.layers.values()),
        "mode": "train" if model.training else "eval",
        "dtype": str(recorder.before[0].dtype).removeprefix("torch."),
        "device": str(recorder.before[0].device),
        "visits": len(recorder.after),
        "loops": loops,
        "unique_layers": len(recorder.layers),
        "changed_between_visits": sum(
            entered is not left for left, entered in zip(recorder.after, recorder.before[1:], strict=False)
        ),
    }
    return _statistics(recorder.before, recorder.after, loops, attrs)


def _call_arguments(inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), dict(inputs)
    raise InputError("inputs", inputs, "give a tensor, a tuple of positional or a mapping of keyword arguments")


def _layers(model: nn.Module, block: object) -> dict[nn.Module, str]:
    """The distinct modules that `block` stands for, in order, each with its dotted name."""
    # A shared module is found under each of its names and called by its first; the model itself has none but its class.
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    names = {model: type(model).__name__}
    for name, module in modules.items():
        names.setdefault(module, name)
    layers: dict[nn.Module, str] = {}

    def collect(item: object) -> None:
        if isinstance(item, str):
            if item not in modules:
                raise InputError("block", item, f"the model has no module of this name{_did_you_mean(item, modules)}")
            item = modules[item]
        if isinstance(item, nn.ModuleList | list | tuple):
            for member in item:
                collect(member)
        elif not isinstance(item, nn.Module):
            raise InputError("block", item, "give a module of the model, its dotted name, or a list of these")
        elif item not in names:
            raise InputError("block", item, "is not a module of this model; pick one from model.named_modules()")
        else:
            layers[item] = names[item]

    collect(block)
    if not layers:
        raise InputError("block", block, "holds no module; give at least one")
    return layers


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    endings = [other for other in known if other.endswith(f".{name}")]
    close = (endings or difflib.get_close_matches(name, known))[:3]
    return f"; did you mean {' or '.join(close)}?" if close else "; pick one from model.named_modules()"


class _Recorder:
    """The stream before and after every visit, as snapshots that a later change in place cannot reach."""

    def __init__(self, layers: dict[nn.Module, str]) -> None:
        self.layers = layers
        self.calls: list[str] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = self.layers[layer]
        if len(self.calls) > len(self.after):
            raise InputError("block", name, f"is called inside {self.calls[-1]}; give blocks that do not nest")
        self.calls.append(name)
        stream = self._stream((args, kwargs), "arguments")
        kept = self.after[-1] if self.after and _identical(stream, self.after[-1]) else stream.detach().clone()
        self.before.append(kept)

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self.after.append(self._stream(output, "output").detach().clone())

    def loops(self) -> int:
        """N, once the calls are known to be the L layers in turn, N times over."""
        names = list(self.layers.values())
        for name in names:
            if name not in self.calls:
                mend = "was never called; name a block that the model calls (not by .forward(), nor scripted)"
                raise InputError("block", name, mend)
        if len(self.after) < len(self.calls):
            raise InputError(
                "block", self.calls[len(self.after)], "raised, or its stream could not be read, in one visit"
            )
        loops, rest = divmod(len(self.calls), len(names))
        for visit, (called, expected) in enumerate(zip(self.calls, names * (loops + 1), strict=False), start=1):
            if called != expected:
                mend = f"visit {visit} called {called} where {expected} was due; give the layers of one loop in order"
                raise InputError("block", names, mend)
        if rest:
            raise InputError("block", names, f"were called {len(self.calls)} times in all, not a whole number of loops")
        return loops

    def _stream(self, structure: object, where: str) -> Tensor:
        name, visit = self.calls[-1], len(self.calls)
        stream = next(_floating_tensors(structure), None)
        if stream is None:
            raise InputError("block", name, f"visit {visit} has no floating-point tensor in its {where}")
        if stream.is_nested or stream.layout != torch.strided:
            raise InputError("block", name, f"visit {visit} has a nested or sparse stream; make it dense")
        shape = tuple(stream.shape)
        if len(shape) < 2 or not stream.numel():
            raise InputError("block", name, f"visit {visit} has a stream of shape {shape}; needs (samples, entries…)")
        first = tuple(self.before[0].shape) if self.before else shape
        if shape != first:
            mend = f"visit {visit} has a stream of shape {shape} in its {where} where {first} came first"
            raise InputError("block", name, f"{mend}; give blocks that keep the shape")
        return stream


def _floating_tensors(structure: object) -> Iterator[Tensor]:
    """The floating-point tensors of a nested structure, depth first."""
    if isinstance(structure, Tensor):
        if structure.is_floating_point():
            yield structure
    elif isinstance(structure, Mapping):
        yield from _floating_tensors(tuple(structure.values()))
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from _floating_tensors(member)
    elif dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        yield from _floating_tensors([getattr(structure, field.name) for field in dataclasses.fields(structure)])


def _identical(stream: Tensor, other: Tensor) -> bool:
    """Equal entry by entry, NaN to NaN."""
    if stream.dtype != other.dtype:
        return False
    return torch.allclose(stream.to(other.device), other, rtol=0, atol=0, equal_nan=True)


def _statistics(before: list[Tensor], after: list[Tensor], loops: int, attrs: dict[str, Any]) -> xr.Dataset:
    """Means and standard errors over samples of the products between visits and the cosines between loops."""
    layers = len(after) // loops
    rows = [stream.flatten(1) for stream in (before[0], *after)]  # each (sample, entry)
    starts = [stream.flatten(1) for stream in before[::layers]]
    samples, width = rows[0].shape
    products = torch.zeros(samples, len(rows), len(rows), dtype=torch.float64)  # (sample, visit, visit_other)
    changes = torch.zeros(samples, loops, loops, dtype=torch.float64)  # (sample, loop, loop_other)
    step = max(1, _ENTRIES_AT_ONCE // (samples * len(rows)))
    for start in range(0, width, step):
        h = _stacked(rows, start, step)
        change = h[:, layers::layers] - _stacked(starts, start, step)  # Δ_n
        products += h @ h.mT
        changes += change @ change.mT
    products /= width
    length = changes.diagonal(dim1=1, dim2=2).sqrt()  # (sample, loop)
    per_sample = {
        "second_moment": products.diagonal(dim1=1, dim2=2),
        "covariance": products,
        "increment_cosine": changes / length[:, :, None] / length[:, None, :],
    }
    values = {name: each.mean(0).numpy() for name, each in per_sample.items()}
    stderr = {name: _standard_error(each) for name, each in per_sample.items()}
    nonfinite = np.flatnonzero(~np.isfinite(values["second_moment"]))
    if len(nonfinite):
        attrs = {**attrs, "first_nonfinite_visit": int(nonfinite[0])}
    return dataset(values, stderr=stderr, samples=samples, attrs=attrs)


def _stacked(streams: list[Tensor], start: int, step: int) -> Tensor:
    """Entries start … start + step of all streams: (sample, stream, entry), in float64 on the CPU."""
    return torch.stack([stream[:, start : start + step].to("cpu", torch.float64) for stream in streams], dim=1)


def _standard_error(each: Tensor) -> np.ndarray:
    count = len(each)
    error = each.std(0) / count**0.5 if count > 1 else torch.full_like(each[0], torch.nan)
    return np.asarray(error.numpy())
