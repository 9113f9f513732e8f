"""Is the residual scale really applied? Branch outputs against the change of the stream, visit by visit."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.measure.blocks import call_arguments, layers_of
from residual_theory.measure.recorder import Recorder, floating_tensors
from residual_theory.scaling import residual_scale

MODES = ("eval", "train")
_DEVIATES = 6.0  # standard errors of rounding
_ADDED = 1e-6  # of the largest contribution: a part that was found has to come to more


class ScaleNotAppliedError(ResidualTheoryError, AssertionError):
    """A model's residual scale is not what its rule says: names the block, the visit, what was expected and seen."""


@dataclass(frozen=True)
class Contribution:
    """One branch in one visit: `seen` times its output was added to the stream, known to ± `reach`."""

    mode: str
    visit: int
    block: str
    branch: str
    seen: float
    reach: float


@dataclass(frozen=True)
class Applied:
    """What `verify_applied` found right: the scale that every branch of every visit has.

    changed_between_visits: visits whose input is not what the visit before it left, nor that times a scale: what
      happens there (a norm, an injection) was not checked.
    """

    scale: float
    loops: int
    unique_layers: int
    contributions: tuple[Contribution, ...]
    changed_between_visits: int

    def row(self) -> dict[str, Any]:
        """Every field, nested, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        branches = sorted({each.branch for each in self.contributions})
        worst = max(abs(each.seen / self.scale - 1) + each.reach / self.scale for each in self.contributions)
        visits = max(each.visit for each in self.contributions)
        modes = " and ".join(dict.fromkeys(each.mode for each in self.contributions))
        text = (
            f"ε = {self.scale:.6g} (N = {self.loops}, L = {self.unique_layers}) is applied once "
            f"to {', '.join(branches)} in each of {visits} visits, in {modes} mode, to within {worst:.1g} of it"
        )
        if self.changed_between_visits:
            text += f"; the stream is changed between visits {self.changed_between_visits} times, which was not checked"
        return text


def verify_applied(
    model: nn.Module,
    rule: float | str,
    *,
    block: nn.Module | str | Sequence[nn.Module | str],
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    branches: str | Sequence[str] | None = None,
    loops: int | None = None,
    unique_layers: int | None = None,
    modes: Sequence[str] = MODES,
    tolerance: float = 1e-3,
) -> Applied:
    """Verify that every branch of every visit is added to the residual stream times the scale of a rule, once.

    A visit to a block of branches f_1, f_2, … that are added one after the other changes the stream by exactly
    Δ = Σ_b ε f_b, where f_b is what the branch put out, whatever it was put in. So the factors are the least-squares
    solution of Δ = Σ_b c_b f_b over all samples and entries, and c_b = ε. What remains has to be the stream's rounding.
    Where the next visit's input is not what this one left, its difference from this one's input is fitted as well: a
    model that scales once more what its blocks have scaled shows there.

    The interval of c is six standard errors of what remains, plus the unit roundoff of the dtypes, as ε may be held in
    them. A rule whose neighbours (N ± 1, N and L exchanged, ε², 1) are closer than what can be told is refused.

    Arguments:
      model: looked at in each of `modes`, "eval" and "train", and left as it was; dropout modules are off in both.
      rule: a number or a rule in N and L, such as "1/(N*sqrt(L))".
      block, inputs: as in `probe`.
      branches: names, within each block, of the modules that put out the raw contributions, before the scale: such as
        ("attention", "mlp"); "" is the block itself, if it puts out its contribution and the model adds it (the last
        visit, whose sum no block sees, is then left out). Without it they are searched for among the block's parts,
        outermost first; a branch that is never added is then not missed.
      loops, unique_layers: N and L of the rule, where they are not the ones counted.
      tolerance: of c/ε − 1, beyond rounding.
    Returns: an Applied report.
    Raises: ScaleNotAppliedError, also an AssertionError, naming block, visit and branch, what was expected and seen;
      InputError for bad arguments, for changes that the branches do not explain, and where rounding leaves no answer.

    >>> class Half(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.branch = nn.Linear(3, 3)
    ...     def forward(self, h):
    ...         return h + self.branch(h) / 2
    >>> half = Half()
    >>> verify_applied(nn.Sequential(half, half), "1/N", block=half, inputs=torch.randn(9, 3)).scale
    0.5
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", model, "give a torch.nn.Module")
    if not modes or isinstance(modes, str) or not set(modes) <= set(MODES):
        raise InputError("modes", modes, f"give some of {MODES}")
    if not 0 <= tolerance < 1:
        raise InputError("tolerance", tolerance, "must be at least 0 and below 1")
    if not isinstance(branches, str | Sequence | None):
        raise InputError("branches", branches, "give names of modules within each block")
    for name, count in (("loops", loops), ("unique_layers", unique_layers)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InputError(name, count, "must be an integer above 0")
    args, kwargs = call_arguments(inputs)
    layers = layers_of(model, block)
    names = None if branches is None else (branches,) if isinstance(branches, str) else tuple(branches)
    contributions: list[Contribution] = []
    changed = 0
    for mode in modes:
        watched = _Watch(layers, names, mode)
        with watched.hooks(), _in_mode(model, mode), torch.no_grad():
            model(*args, **kwargs)
        counted = watched.loops()
        n, m = loops or counted, unique_layers or max(1, len(watched.calls) // counted)
        expected = residual_scale(rule, n, m)
        rivals = _rivals(rule, n, m, expected)
        for each in watched.contributions:
            _judge(each, rule, n, m, expected, rivals, tolerance)
        contributions += watched.contributions
        changed = watched.changed
    if not contributions:
        raise InputError("block", block, "is visited once, and puts out its contribution: no visit shows the sum")
    return Applied(expected, n, m, tuple(contributions), changed)


def _rivals(rule: float | str, loops: int, layers: int, expected: float) -> dict[str, float]:
    """What mistakes would make of ε, where that is another number."""
    found = {
        "the scale never arrives": 1.0,
        "the branch is not added": 0.0,
        "applied twice, ε²": expected**2,
        "its root": math.sqrt(expected),
        "its inverse": 1 / expected if expected else math.inf,
    }
    sizes = {f"N = {n} in place of {loops}": (n, layers) for n in (loops - 1, loops + 1)}
    sizes |= {f"L = {m} in place of {layers}": (loops, m) for m in (layers - 1, layers + 1)}
    sizes |= {"N and L exchanged": (layers, loops), f"N = {loops * layers}, the visits": (loops * layers, 1)}
    sizes |= {"N = 1": (1, layers), "L = 1": (loops, 1)}
    for name, (n, m) in sizes.items():
        if n > 0 and m > 0:
            found.setdefault(name, residual_scale(rule, n, m))
    return {name: value for name, value in found.items() if not math.isclose(value, expected, rel_tol=1e-12)}


def _judge(
    each: Contribution, rule: float | str, n: int, m: int, expected: float, rivals: dict[str, float], tolerance: float
) -> None:
    allowed = tolerance * expected + each.reach
    where = f"visit {each.visit} to {each.block} in {each.mode} mode"
    if abs(each.seen - expected) > allowed:
        close = [name for name, value in rivals.items() if abs(value - each.seen) <= tolerance * value + each.reach]
        raise ScaleNotAppliedError(
            f"{where} adds {each.branch or 'its output'} times {each.seen:.6g} ± {each.reach:.1g}, expected "
            f"ε = {expected:.6g}, {rule} at N = {n}, L = {m}{': ' if close else ''}{', or '.join(close)}"
        )
    gap = min(abs(value - expected) for value in rivals.values())
    if allowed > gap / 2:
        mend = f"{where} cannot tell it from {expected - gap:.4g} or {expected + gap:.4g} (± {allowed:.1g})"
        raise InputError("rule", rule, f"{mend}; give more inputs, a larger precision or a smaller tolerance")


@contextmanager
def _in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The model in one mode without dropout, its modes, buffers and the random state restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    cuda = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(cuda)):
            model.train(mode == "train")
            for module in model.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.training = False
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


class _Watch(Recorder):
    """A recorder that fits every visit's change of the stream by what its branches put out."""

    def __init__(self, layers: dict[nn.Module, str], branches: tuple[str, ...] | None, mode: str) -> None:
        super().__init__(layers)
        self.branches, self.mode = branches, mode
        self.outputs: list[tuple[str, Tensor]] = []  # of this visit: (branch, output)
        self.contributions: list[Contribution] = []
        self.changed = 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer, name in self.layers.items():
                stack.enter_context(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
                for branch, module in self._parts(layer, name):
                    stack.enter_context(module.register_forward_hook(self._catch(branch)))
                stack.enter_context(layer.register_forward_hook(self.leave))
            yield

    def _parts(self, layer: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        known = dict(layer.named_modules())
        if self.branches is None:
            yield from known.items()
            return
        for branch in self.branches:
            if branch not in known:
                raise InputError("branches", branch, f"{name} has no module of this name; it has {sorted(known)[1:]}")
            yield branch, known[branch]

    def _catch(self, branch: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if len(self.calls) == len(self.after):
                return  # outside of any visit
            stream = self.before[-1]
            caught = next((tensor for tensor in floating_tensors(output) if tensor.shape == stream.shape), None)
            passes_on = caught is not None and any(_same(caught, given) for given in floating_tensors(args))
            if caught is not None and not (passes_on and self.branches is None):
                self.outputs.append((branch, caught.detach().clone()))
            elif caught is None and self.branches is not None:
                mend = f"visit {len(self.calls)} puts out nothing of the stream's shape {tuple(stream.shape)}"
                raise InputError("branches", branch, mend)

        return hook

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().enter(layer, args, kwargs)
        if len(self.before) > 1 and self.before[-1] is not self.after[-1]:
            found = self._fit(self.before[-1], self.calls[-2], required=self.branches == ("",))
            self.changed += not found
        self.outputs = []

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        super().leave(layer, args, output)
        if self.branches != ("",):
            self._fit(self.after[-1], self.calls[-1], required=True)

    def _fit(self, end: Tensor, block: str, *, required: bool) -> bool:
        """Note the branches' factors in the change from the visit's input to `end`; False if they do not explain it."""
        visit = len(self.after)
        start = self.before[visit - 1]
        outputs = [pair for pair in self.outputs if (pair[0] == "") == (self.branches == ("",))]
        for depth in sorted({name.count(".") for name, _ in outputs}):
            chosen = outputs if self.branches is not None else _distinct(outputs, depth)
            fit = _least_squares(start, end, [output for _, output in chosen])
            if fit is not None and self.branches is None and not all(fit.told):
                chosen = [pair for pair, told in zip(chosen, fit.told, strict=True) if told]
                fit = _least_squares(start, end, [output for _, output in chosen]) if chosen else None
            if fit is not None:
                for (name, _), seen, reach in zip(chosen, fit.seen, fit.reach, strict=True):
                    self.contributions.append(Contribution(self.mode, visit, block, name, seen, reach))
                return True
        if required:
            names = [name for name, _ in outputs]
            mend = (
                f"visit {visit} to {block} changes the stream by more than its branches, {', '.join(names) or 'none'}"
            )
            raise InputError(
                "branches", self.branches, f"{mend} ({self.mode} mode); name those that put out raw contributions"
            )
        return False


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))


def _distinct(outputs: list[tuple[str, Tensor]], depth: int) -> list[tuple[str, Tensor]]:
    """The parts down to a depth, without those that only pass on what an inner one put out first."""
    kept: list[tuple[str, Tensor]] = []
    for name, output in outputs:
        if name.count(".") <= depth:
            kept = [(other, before) for other, before in kept if not torch.equal(before, output)]
            kept.append((name, output))
    return kept


class _Fit(NamedTuple):
    """Factors, how far they are known, and whether each explains more than a tenth of what rounding leaves."""

    seen: list[float]
    reach: list[float]
    told: list[bool]


def _least_squares(start: Tensor, end: Tensor, outputs: list[Tensor]) -> _Fit | None:
    """The factors of the outputs in end − start; None if more than rounding remains.

    A contribution below the stream's spacing may be rounded away: then its factor is known no better than that.
    Raises: InputError for outputs that are proportional to one another or zero.
    """
    columns = torch.stack([output.to("cpu", torch.float64).flatten() for output in outputs], dim=1)  # (entry, branch)
    h, after = start.to("cpu", torch.float64).flatten(), end.to("cpu", torch.float64).flatten()
    change = after - h
    lengths = columns.norm(dim=0)
    if not (lengths > 0).all() or not change.isfinite().all():
        raise InputError("inputs", f"branch {int(lengths.argmin()) + 1}", "puts out zeros, or the stream is not finite")
    unit = columns / lengths
    inverse = torch.linalg.pinv(unit.mT @ unit, rcond=1e-12)
    if float(torch.linalg.eigvalsh(unit.mT @ unit)[0]) < 1e-10:
        raise InputError("branches", f"{len(outputs)} outputs", "are proportional to one another; name the raw ones")
    factors = inverse @ (unit.mT @ change)  # in lengths
    rest = change - unit @ factors
    roundoff = max(torch.finfo(tensor.dtype).eps for tensor in (start, end)) / 2
    coarse = max(torch.finfo(output.dtype).eps for output in outputs) / 2
    total = float(factors.abs().sum())
    bound = 2 * len(outputs) * (roundoff * float(h.norm() + after.norm() + total) + coarse * total)
    if float(rest.norm()) > bound + 1e-12 * float(h.norm()):
        return None
    spread = float(rest.norm()) / math.sqrt(max(1, len(rest) - len(outputs)))
    reach = _DEVIATES * spread * inverse.diagonal().sqrt() + 4 * max(roundoff, coarse) * factors.abs() + 1e-13 * total
    spacing = 2 * roundoff * h.norm()
    reach = torch.where(factors.abs() < spacing, torch.maximum(reach, spacing), reach)
    explained = factors.square() / inverse.diagonal()  # of ‖change‖², by each beside the others
    told = explained > torch.maximum(rest.square().sum() / 10, (_ADDED * factors).square().max())
    return _Fit((factors / lengths).tolist(), (reach / lengths).tolist(), told.tolist())
