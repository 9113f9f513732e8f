"""The runs of a coordinate check: models of several sizes trained a few steps, every visit measured at fixed inputs."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from residual_theory.errors import InputError
from residual_theory.measure.changes import called, first_tensor, sizes_and_changes
from residual_theory.measure.probe import probe

AXES = ("loops", "unique_layers")
QUANTITIES = {
    "stream": "rms of the stream",
    "stream_update": "rms of what the optimizer changed in the stream",
    "output": "rms of the output",
    "output_update": "rms of what the optimizer changed in the output",
}
Numbers = tuple[int, ...]


class Request(NamedTuple):
    """What is run at every size: the arguments of `coordinate_check` of these names."""

    make: Callable[..., nn.Module]
    block: Any
    inputs: Any
    loss: Callable[[nn.Module], Tensor]
    optimizer: Callable[[nn.Module, int, int], Optimizer]
    steps: int


def run(
    request: Request, loops: Numbers, layers: Numbers, seeds: Numbers, progress: Callable[[int, int], None] | None
) -> xr.Dataset:
    """All runs, in the order of the seeds, then of the sizes.

    Returns: the quantities (loops, unique_layers, step, visit, seed), those of the output and `loss` without visit,
      visit_fraction k/V, and first_nonfinite_step, −1 where all is finite; NaN is what no model has or no run reached.
    Raises: InputError as `coordinate_check` does.
    """
    _require_reproducible(request.make, (loops[0], layers[0]), seeds)
    visits = loops[-1] * layers[-1] + 1
    shape = (len(loops), len(layers), request.steps + 1)
    arrays = {name: np.full((*shape, visits, len(seeds)), np.nan) for name in ("stream", "stream_update")}
    arrays |= {name: np.full((*shape, len(seeds)), np.nan) for name in ("output", "output_update", "loss")}
    nonfinite = np.full((len(loops), len(layers), len(seeds)), -1)
    cells = list(itertools.product(enumerate(seeds), enumerate(loops), enumerate(layers)))
    for done, ((k, seed), (i, n), (j, depth)) in enumerate(cells, start=1):
        with _seeded(seed):
            for step, measured in enumerate(_trajectory(request, n, depth, seed)):
                for name, value in measured.items():
                    visited = (slice(n * depth + 1),) if name.startswith("stream") else ()
                    arrays[name][(i, j, step, *visited, k)] = value
                if not all(np.isfinite(value).all() for value in measured.values()):
                    nonfinite[i, j, k] = step
                    break
        if progress is not None:
            progress(done, len(cells))
    return _dataset(arrays, nonfinite, loops, layers, seeds)


def _dataset(
    arrays: Mapping[str, NDArray[np.float64]],
    nonfinite: NDArray[np.int64],
    loops: Numbers,
    layers: Numbers,
    seeds: Numbers,
) -> xr.Dataset:
    words = QUANTITIES | {"loss": "loss before the step"}
    variables: dict[str, Any] = {}
    for name, array in arrays.items():
        dims = (*AXES, "step", "visit", "seed") if name.startswith("stream") else (*AXES, "step", "seed")
        variables[name] = (dims, array, {"long_name": words[name], "units": "1"})
    steps, visits = arrays["stream"].shape[2:4]
    last = np.multiply.outer(loops, layers)[:, :, None]
    visit = np.arange(visits)
    variables["visit_fraction"] = ((*AXES, "visit"), np.where(visit <= last, visit / last, np.nan))
    variables["first_nonfinite_step"] = ((*AXES, "seed"), nonfinite, {"long_name": "−1 where all is finite"})
    coordinates = {"loops": list(loops), "unique_layers": list(layers), "step": list(range(steps))}
    coordinates |= {"visit": visit.tolist(), "seed": list(seeds)}
    return xr.Dataset(variables, coords=coordinates, attrs={"torch": str(torch.__version__)})


def loss_of(
    inputs: Any, targets: Tensor | None, loss: Callable[[nn.Module], Tensor] | None
) -> Callable[[nn.Module], Tensor]:
    """The scalar to minimise: `loss` itself, or cross-entropy or mean squared error of the output against `targets`."""
    if (targets is None) == (loss is None):
        raise InputError("loss", loss, "give either targets or a loss(model)")
    if loss is not None:
        if not callable(loss):
            raise InputError("loss", loss, "give a function of the model that returns a scalar")
        return loss
    if not isinstance(targets, Tensor):
        raise InputError("targets", targets, "give a tensor of class ids, or of numbers of the output's shape")

    def of_targets(model: nn.Module) -> Tensor:
        output = first_tensor(called(model, inputs))
        if targets.is_floating_point():
            if targets.shape != output.shape:
                raise InputError("targets", tuple(targets.shape), f"must have the output's shape {tuple(output.shape)}")
            return functional.mse_loss(output, targets)
        if targets.shape != output.shape[:-1]:
            mend = f"must be class ids of shape {tuple(output.shape[:-1])}, the output's but for its last axis"
            raise InputError("targets", tuple(targets.shape), mend)
        return functional.cross_entropy(output.flatten(0, -2), targets.flatten())

    return of_targets


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generators at the seed; their states are put back afterwards."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield


def _made(make: Callable[..., nn.Module], loops: int, layers: int, seed: int) -> nn.Module:
    given = {"seed": seed} if "seed" in inspect.signature(make).parameters else {}
    model = make(loops, layers, **given)
    if not isinstance(model, nn.Module):
        raise InputError("make", model, "must return a torch.nn.Module")
    return model


def _require_reproducible(make: Callable[..., nn.Module], smallest: tuple[int, int], seeds: Numbers) -> None:
    """Refuse a `make` whose weights are other than a function of its seed, or that hands out one model twice."""
    models = []
    for seed in (seeds[0], seeds[0], seeds[1]):
        with _seeded(seed):
            models.append(_made(make, *smallest, seed))
    first, again, other = (dict(model.named_parameters()) for model in models)
    if not first:
        raise InputError("make", type(models[0]).__name__, "the model has no parameters to train")
    if any(first[name] is again.get(name) for name in first):
        raise InputError("make", smallest, "hands out the same parameters twice; build a fresh model at every call")
    mend = "draw them from torch's generator, or with make's argument `seed`"
    if not _equal(first, again):
        raise InputError("make", smallest, f"gives other weights when called again with the same seed; {mend}")
    if _equal(first, other):
        raise InputError("make", smallest, f"gives the same weights for seeds {seeds[0]} and {seeds[1]}; {mend}")


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _trajectory(request: Request, loops: int, layers: int, seed: int) -> Iterator[dict[str, Any]]:
    """What is measured before the first step and after each: rms values (visit,) and numbers."""
    model = _made(request.make, loops, layers, seed)
    blocks = _blocks(model, request, loops, layers)
    optimizer = _optimizer(model, request, loops, layers)
    start: list[Tensor] = []
    for step in range(request.steps + 1):
        sizes, changes = sizes_and_changes(model, blocks, request.inputs, start)
        loss = request.loss(model)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError("loss", loss, "must return a tensor of one number that depends on the model's parameters")
        *stream, output = sizes
        *stream_update, output_update = changes
        yield {
            "stream": stream, "stream_update": stream_update,
            "output": output, "output_update": output_update, "loss": loss.item(),
        }  # fmt: skip
        if step < request.steps:
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _blocks(model: nn.Module, request: Request, loops: int, layers: int) -> set[nn.Module]:
    """The blocks, once `probe` has seen that they are visited N·L times."""
    attrs = probe(model, block=request.block, inputs=request.inputs).attrs
    if attrs["visits"] != loops * layers:
        mend = f"make({loops}, {layers}) visits it {attrs['visits']} times, not {loops * layers}: loops × unique_layers"
        raise InputError("block", attrs["blocks"], mend)
    return {model.get_submodule(name) for name in str(attrs["blocks"]).split(", ")}


def _optimizer(model: nn.Module, request: Request, loops: int, layers: int) -> Optimizer:
    try:
        optimizer = request.optimizer(model, loops, layers)
    except ValueError as error:  # what torch says of an empty list, or of a bad rate
        raise InputError("optimizer", (loops, layers), f"cannot be made: {error}") from error
    if not isinstance(optimizer, Optimizer):
        raise InputError("optimizer", optimizer, "must return a torch.optim.Optimizer")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & {id(parameter) for parameter in model.parameters()}:
        mend = "holds none of the model's parameters; build it from the model it is given"
        raise InputError("optimizer", type(optimizer).__name__, mend)
    return optimizer
