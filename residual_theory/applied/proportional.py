"""Is the residual scale really applied? The same model at half the scale, from the same streams."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residual_theory.applied.verify import ScaleNotAppliedError
from residual_theory.errors import InputError
from residual_theory.measure.blocks import call_arguments, layers_of, unwrapped
from residual_theory.measure.recorder import Recorder
from residual_theory.measure.running import running
from residual_theory.measure.visits import Seen

_LOST = 0.1  # of a contribution, in the stream's rounding: beyond it no factor can be told


def verify_proportional(
    build: Callable[[float], nn.Module],
    block: nn.Module | str | Sequence[nn.Module | str],
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    scale: float,
    *,
    curvature: float = 0.0,
) -> None:
    """Verify that at half of ε every visit adds half as much to the same stream.

    Arguments, raises: as `residual_theory.testing.assert_scale_applied`.
    """
    if not math.isfinite(scale) or scale == 0:
        raise InputError("scale", scale, "must be finite and not 0")
    if not 0 <= curvature < 0.5:
        raise InputError("curvature", curvature, "must lie between 0 and 1/2, where a scale applied twice would pass")
    whole = _visits(build, scale, block, inputs, None)
    again, half = (_visits(build, factor * scale, block, inputs, whole) for factor in (1.0, 0.5))
    if not len(whole.after) == len(again.after) == len(half.after):
        raise InputError("build", build, "makes models with different numbers of visits")
    for visit, (h, *after) in enumerate(zip(whole.before, whole.after, again.after, half.after, strict=True), start=1):
        start = h.double()
        full, repeated, halved = (out.double() - start for out in after)
        length = float(full.norm())
        if not 0 < length < math.inf:
            raise InputError("build", build, f"visit {visit} adds {length:g} to the stream; give weights that show")
        rounding = 4 * torch.finfo(h.dtype).eps * float(start.norm() + full.norm()) / length
        if rounding > _LOST:
            mend = f"visit {visit} adds less than {h.dtype} can tell; take a larger scale or precision"
            raise InputError("scale", scale, mend)
        if float((repeated - full).norm()) > rounding * length:
            mend = f"visit {visit} differs from call to call; fix the weights, and put it into evaluation mode"
            raise InputError("build", build, mend)
        departure = float((2 * halved - full).norm()) / length
        if not departure <= rounding + curvature:
            factor = float((halved * full).sum()) / length**2
            raise ScaleNotAppliedError(
                f"the residual scale is not applied exactly once: at visit {visit} half of scale = {scale:g} makes the "
                f"contribution {factor:.3g} times as large (once 0.5, never 1, twice 0.25), which departs from "
                f"proportionality by {departure:.2g}, at most {rounding + curvature:.2g} allowed"
            )


class _Visits(Recorder):
    """A recorder that gives every visit the stream that entered it in another run."""

    def __init__(self, layers: dict[nn.Module, str], pinned: Sequence[Tensor]) -> None:
        super().__init__(layers)
        self.pinned = pinned
        self.made: dict[int, Tensor] = {}  # what this run itself would have given, by the visit before

    def entered(self, seen: Seen) -> None:
        """Keep the stream, then put the other run's in its place."""
        super().entered(seen)
        place = len(self.before) - 1
        if place < len(self.pinned):
            self.made[place - 1] = self.before[-1]
            if not torch.equal(seen.tensor, self.pinned[place]):
                seen.tensor.copy_(self.pinned[place])
            self.before[-1] = self.pinned[place]

    def finish(self, output: object) -> None:
        """The stream follows this run's own."""
        super().finish(output)
        for place in self.followed.keys() & self.made.keys():
            self.after[place] = self.made[place]


def _visits(
    build: Callable[[float], nn.Module], scale: float, block: Any, inputs: Any, pinned: Recorder | None
) -> Recorder:
    """The stream before and after every visit of the model at a scale."""
    args, kwargs = call_arguments(inputs)
    devices = list(range(torch.cuda.device_count()))
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        model = build(scale)
        if not isinstance(model, nn.Module):
            raise InputError("build", model, "must return a torch.nn.Module")
        model = unwrapped(model)
        visits = _Visits(layers_of(model, block), pinned.before if pinned else ())
        with running(model), visits.watching():
            output = model(*args, **kwargs)
        visits.finish(output)
    return visits
