"""What each branch adds to the stream: its outputs fitted to the change of the stream, visit by visit."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError
from residual_theory.measure.blocks import without_wrappers
from residual_theory.measure.recorder import Recorder
from residual_theory.measure.sharing import inner_modules
from residual_theory.measure.streams import Stream, floating
from residual_theory.measure.updates import Update
from residual_theory.measure.visits import Seen

_DEVIATES = 6.0  # standard errors of rounding
_ADDED = 1e-6  # of the largest contribution: a part that was found has to come to more
_MOST_GAINED = 64  # pairs of a branch and a gain tried
ITSELF = ("",)  # the branches of a block that is one


Outputs: TypeAlias = list[tuple[str, Tensor]]  # by the name of the branch, in the order of the calls


class StreamUnclearError(Exception):
    """The first visit does not tell which tensor is the stream; a whole run may."""


class Part(NamedTuple):
    """A branch whose output was added to the stream times `seen`, known to ± `reach`.

    gains: what else multiplies the branch inside the block, by name, so that ε may be what is left beside it.
    spread: gains that differ from channel to channel and are part of the branch.
    """

    branch: str
    seen: float
    reach: float
    gains: tuple[tuple[str, float], ...] = ()
    spread: str = ""


class Watch(Recorder):
    """A recorder that fits every visit's change of the stream by what its branches put out.

    parts: of every visit; or why they do not explain it.
    """

    def __init__(
        self, layers: dict[nn.Module, str], branches: tuple[str, ...] | None, mode: str, stream: Stream = None
    ) -> None:
        super().__init__(layers, stream=stream)
        self.branches, self.mode = branches, mode
        self.parts: list[list[Part] | InputError] = []
        self._outputs: Outputs = []  # of this visit: (branch, output)
        self._gains: dict[str, Tensor] = {}
        self._matrices: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the calls within, and catch what their branches put out."""
        with ExitStack() as stack:
            for layer, name in self.layers.items():
                stack.enter_context(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
                for branch, module in self._modules(layer, name):
                    stack.enter_context(module.register_forward_hook(self._catch(branch)))
                stack.enter_context(layer.register_forward_hook(self.leave))
            yield

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a visit. Raises: StreamUnclearError where only a later one tells its stream."""
        super().enter(layer, args, kwargs)
        if self._entering is not None:
            raise StreamUnclearError
        self._outputs = []
        gains = {name: each.detach() for name, each in layer.named_parameters() if each.is_floating_point()}
        self._gains = {name: each for name, each in gains.items() if each.numel() in (1, self.shape[-1])}
        self._matrices = [name for name, each in gains.items() if each.numel() not in (1, self.shape[-1])]

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """End a visit. Raises: StreamUnclearError as before."""
        super().leave(layer, args, output)
        if self._leaving is not None:
            raise StreamUnclearError

    def left(self, seen: Seen) -> None:
        """Fit the visit's change."""
        super().left(seen)
        if not self.after[-1].isfinite().all():
            where = f"the stream after visit {len(self.calls)} to {self.calls[-1]}"
            raise InputError("inputs", where, "holds an infinity or a NaN; give smaller weights or a wider dtype")
        try:
            self.parts.append([] if self.branches == ITSELF else self._fitted())
        except InputError as refusal:
            self.parts.append(refusal)

    def added(self, visit: int) -> list[Part]:
        """What a visit (from 0) adds to the model's stream, whether the block or the model adds it.

        Raises: InputError where the branches do not explain it.
        """
        junction = self.followed.get(visit, self.junctions.get(visit))
        update = junction.update if junction is not None else None
        own = self.parts[visit]
        if self.branches == ITSELF:
            if update is None and visit == len(self.after) - 1:
                return []  # no visit shows the sum
            if update is None or update.kind != "mixed":
                raise self._refusal(visit, "", "is not what the model adds")
            return [Part("", update.taken, update.reach)]
        if update is not None and update.kind == "gated":
            raise self._refusal(visit, "", f"is not added times one number: {update}; no rule gives its scale")
        if update is None or update.kind == "masked" or visit not in self.followed:
            if isinstance(own, InputError):
                raise own
            return own
        return self._taken(update, own)

    def _taken(self, update: Update, own: list[Part] | InputError) -> list[Part]:
        """The parts of a visit of whose output the model takes a part itself."""
        if isinstance(own, InputError) or not update.interpolates:
            return [Part("", update.taken, update.reach)]
        taken, reach = update.taken, update.reach
        return [
            each._replace(seen=each.seen * taken, reach=abs(each.seen) * reach + each.reach * abs(taken))
            for each in own
        ]

    def _modules(self, layer: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        known: dict[str, nn.Module] = {}
        for own, module in inner_modules(layer):
            known.setdefault(without_wrappers(own), module)
        if self.branches is None:
            yield from known.items()
            return
        for branch in self.branches:
            if branch not in known:
                raise InputError("branches", branch, f"{name} has no module of this name; it has {sorted(known)[1:]}")
            yield branch, known[branch]

    def _catch(self, branch: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if len(self.calls) == self._ended:
                return  # outside of any visit
            shape = self.shape
            caught = next((each.tensor for each in floating(output) if tuple(each.tensor.shape) == shape), None)
            passes_on = caught is not None and any(_same(caught, given.tensor) for given in floating(args))
            if caught is not None and not (passes_on and self.branches is None):
                self._outputs.append((branch, caught.detach().clone()))
            elif caught is None and self.branches is not None:
                mend = f"visit {len(self.calls)} puts out nothing of the stream's shape {shape}"
                raise InputError("branches", branch, mend)

        return hook

    def _fitted(self) -> list[Part]:
        """The branches' factors in the visit's change. Raises: InputError if they do not explain it."""
        start, end = self.before[-1], self.after[-1]
        outputs = [pair for pair in self._outputs if pair[0]]
        refusal: InputError | None = None
        for chosen in self._choices(outputs):
            try:
                parts = self._fitted_by(chosen, start, end)
            except InputError as error:
                refusal = refusal or error
                continue
            if parts is not None:
                return parts
        if refusal is not None:
            raise refusal
        gained = self._gained(outputs)
        if gained and (parts := _told(start, end, gained)) is not None:
            return parts
        whole = [name for name, output in outputs if torch.equal(output, end)]
        if whole and self.branches is None:
            what = (
                f"is put out by {whole[-1]}, behind which (a norm?) no factor shows; try testing.assert_scale_applied"
            )
            raise InputError("block", self.calls[-1], f"visit {len(self.calls)}: the whole stream {what}")
        names = ", ".join(name for name, _ in outputs) or "none"
        raise self._refusal(len(self.after) - 1, names, "changes the stream by more than its branches")

    def _choices(self, outputs: Outputs) -> Iterator[Outputs]:
        """What may be the branches: those named; else the parts down to each depth, then without what holds others."""
        if self.branches is not None:
            yield outputs
            return
        for depth in sorted({name.count(".") for name, _ in outputs}):
            chosen = _distinct(outputs, depth)
            yield chosen
            inner = [pair for pair in chosen if not any(name.startswith(f"{pair[0]}.") for name, _ in chosen)]
            if len(inner) < len(chosen):
                yield inner

    def _fitted_by(self, chosen: Outputs, start: Tensor, end: Tensor) -> list[Part] | None:
        if self.branches is not None:
            fit = least_squares(start, end, [output for _, output in chosen]) if chosen else None
            parts = None if fit is None else _parts([name for name, _ in chosen], fit)
            multiplied: dict[str, list[tuple[str, float]]] = {}
        else:
            chosen, multiplied = _without_multiples(chosen)
            parts = _told(start, end, chosen)
        if parts is None:
            return None
        numbers = [(name, each.item()) for name, each in self._gains.items() if each.numel() == 1]
        return [
            each._replace(gains=(*multiplied.get(each.branch, ()), *numbers), spread=self._spread(each.branch))
            for each in parts
        ]

    def _spread(self, branch: str) -> str:
        """The learned gains of a part that is nothing else."""
        if any(name.startswith(f"{branch}.") for name in self._matrices):
            return ""
        own = {name: each for name, each in self._gains.items() if name.startswith(f"{branch}.") and each.numel() > 1}
        ranges = [(name, float(each.min()), float(each.max())) for name, each in own.items()]
        return ", ".join(f"{name} from {low:.3g} to {high:.3g}" for name, low, high in ranges if low != high)

    def _gained(self, outputs: Outputs) -> Outputs:
        """The outputs times the block's own vectors, as a learned gain of each channel is one."""
        vectors = {name: each for name, each in self._gains.items() if each.numel() > 1}
        vectors = {name: each.reshape(-1) for name, each in vectors.items() if float(each.max() - each.min()) > 0}
        pairs = [(f"{branch} · {name}", output * each) for branch, output in outputs for name, each in vectors.items()]
        return pairs if len(pairs) <= _MOST_GAINED else []

    def _refusal(self, visit: int, names: str, what: str) -> InputError:
        mend = f"visit {visit + 1} to {self.calls[visit]} {what}{names and f', {names}'} ({self.mode} mode)"
        return InputError("branches", self.branches, f"{mend}; name those that put out raw contributions")


def _told(start: Tensor, end: Tensor, chosen: Outputs) -> list[Part] | None:
    """The fit by those outputs that explain some of the change."""
    if not chosen:
        return None
    fit = least_squares(start, end, [output for _, output in chosen])
    if fit is not None and not all(fit.told):
        chosen = [pair for pair, told in zip(chosen, fit.told, strict=True) if told]
        fit = least_squares(start, end, [output for _, output in chosen]) if chosen else None
    return None if fit is None else _parts([name for name, _ in chosen], fit)


def _parts(names: list[str], fit: "Fit") -> list[Part]:
    return [Part(*each) for each in zip(names, fit.seen, fit.reach, strict=True)]


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))


def _distinct(outputs: Outputs, depth: int) -> Outputs:
    """The parts down to a depth, without those that only pass on what an inner one put out first."""
    kept: Outputs = []
    for name, output in outputs:
        if name.count(".") <= depth:
            kept = [(other, before) for other, before in kept if not torch.equal(before, output)]
            kept.append((name, output))
    return kept


def _without_multiples(
    outputs: Outputs,
) -> tuple[Outputs, dict[str, list[tuple[str, float]]]]:
    """The outputs that are no multiple of an earlier one, and the multiples of each by name."""
    kept: Outputs = []
    multiplied: dict[str, list[tuple[str, float]]] = {}
    for name, output in outputs:
        for raw, before in kept:
            factor = _multiple(before, output)
            if factor is not None:
                multiplied.setdefault(raw, []).append((name, factor))
                break
        else:
            kept.append((name, output))
    return kept, multiplied


def _multiple(output: Tensor, other: Tensor) -> float | None:
    """The number that makes one output of another; None where none does."""
    x, y = output.flatten().double(), other.flatten().double()
    square = float(x.square().sum())
    if square == 0 or not math.isfinite(square):
        return None
    factor = float((x * y).sum()) / square
    rounding = torch.finfo(other.dtype).eps * abs(factor) * math.sqrt(square)
    return factor if factor and float((y - factor * x).norm()) <= rounding else None


class Fit(NamedTuple):
    """Factors, how far they are known, and whether each explains more than a tenth of what rounding leaves."""

    seen: list[float]
    reach: list[float]
    told: list[bool]


def least_squares(start: Tensor, end: Tensor, outputs: list[Tensor]) -> Fit | None:
    """The factors of the outputs in end − start; None if more than rounding remains.

    A contribution below the stream's spacing may be rounded away: then its factor is known no better than that.
    Raises: InputError for outputs that are proportional to one another or zero.
    """
    columns = torch.stack([output.to("cpu", torch.float64).flatten() for output in outputs], dim=1)  # (entry, branch)
    h, after = start.to("cpu", torch.float64).flatten(), end.to("cpu", torch.float64).flatten()
    change = after - h
    lengths = columns.norm(dim=0)
    if not (lengths > 0).all():
        raise InputError("inputs", f"branch {int(lengths.argmin()) + 1}", "puts out zeros, which have no factor")
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
    return Fit((factors / lengths).tolist(), (reach / lengths).tolist(), told.tolist())
