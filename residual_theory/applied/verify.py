"""Is the residual scale really applied? Branch outputs against the change of the stream, visit by visit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from residual_theory.applied.contributions import ITSELF, Part, StreamUnclearError, Watch
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.measure.blocks import call_arguments, layers_of, unwrapped
from residual_theory.measure.recorder import Recorder
from residual_theory.measure.running import in_mode, running
from residual_theory.measure.sharing import Sharing
from residual_theory.measure.streams import Stream
from residual_theory.measure.updates import kinds
from residual_theory.scaling import residual_scale

MODES = ("eval", "train")
_FARTHEST = 4  # times the visits: as far as another N or L is looked for


class ScaleNotAppliedError(ResidualTheoryError, AssertionError):
    """A model's residual scale is not what its rule says: names the block, the visit, what was expected and seen."""


@dataclass(frozen=True)
class Contribution:
    """One branch in one visit: `seen` times its output was added to the stream, known to ± `reach`.

    expected: what the rule says.
    gain: what else multiplies the branch inside the block, "" if nothing was seen.
    """

    mode: str
    visit: int
    block: str
    branch: str
    seen: float
    reach: float
    expected: float
    gain: str = ""


@dataclass(frozen=True)
class Applied:
    """What `verify_applied` found right: the scale that every branch of every visit has.

    scale, loops: ε and N; of the layer visited most, where layers are visited differently often.
    scales: ε by block.
    changed_between_visits: visits whose input is not what the visit before it left, nor made from that and the stream
      before it: what happens there (a norm, an injection) was not checked.
    notes: what else was seen: shared weights, gains inside branches, a scale that stands outside of the block.
    """

    scale: float
    loops: int
    unique_layers: int
    contributions: tuple[Contribution, ...]
    changed_between_visits: int
    scales: dict[str, float]
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Every field, nested, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        branches = sorted({each.branch or "the block's output" for each in self.contributions})
        worst = max(abs(each.seen - each.expected) + each.reach for each in self.contributions)
        visits = max(each.visit for each in self.contributions)
        modes = " and ".join(dict.fromkeys(each.mode for each in self.contributions))
        scale = f"ε = {self.scale:.6g} (N = {self.loops}, L = {self.unique_layers})"
        if len(set(self.scales.values())) > 1:
            scale = "ε = " + ", ".join(f"{value:.6g} in {name}" for name, value in self.scales.items())
        text = (
            f"{scale} is applied once to {', '.join(branches)} in each of {visits} visits, in {modes} mode, "
            f"to within {worst / (self.scale or 1):.1g} of it"
        )
        if self.changed_between_visits:
            text += f"; the stream is changed between visits {self.changed_between_visits} times, which was not checked"
        return "; ".join([text, *self.notes])


def verify_applied(
    model: nn.Module,
    rule: float | str,
    *,
    block: nn.Module | str | Sequence[nn.Module | str],
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    stream: Stream = None,
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
    Where the model takes only a part s of what a block did, h + s (block(h) − h), or adds the block's output times s,
    h + s block(h), the factors are s c_b, or s. A gain inside a branch, a module's or a number among the parameters, is
    part of the branch: ε may be what stands before the gain or what stands after it, unless both are ε.

    N is how often the weights of the visit's block are visited, whatever objects hold them, and L how many different
    weights there are. The interval of c is six standard errors of what remains, plus the unit roundoff of the dtypes,
    as ε may be held in them. A rule whose neighbours (N ± 1, N and L exchanged, ε², 1) are closer than what can be told
    is refused.

    Arguments:
      model: looked at in each of `modes`, "eval" and "train", and left as it was; dropout modules are off in both.
        Compiled, it runs uncompiled.
      rule: a number or a rule in N and L, such as "1/(N*sqrt(L))".
      block, inputs, stream: as in `probe`.
      branches: names, within each block, of the modules that put out the raw contributions, before the scale: such as
        ("attention", "mlp"); "" is the block itself, if it puts out its contribution and the model adds it (the last
        visit, whose sum no block sees, is then left out unless the model puts it out). Without it they are searched for
        among the block's parts, outermost first; a branch that is never added is then not missed.
      loops, unique_layers: N and L of the rule, where they are not the ones counted.
      tolerance: of c/ε − 1, beyond rounding.
    Returns: an Applied report.
    Raises: ScaleNotAppliedError, also an AssertionError, naming block, visit and branch, what was expected and seen,
      and which N or L that fits; InputError for bad arguments, for changes that the branches do not explain, for gates
      outside of the block, and where rounding leaves no answer.

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
    model = unwrapped(model)
    args, kwargs = call_arguments(inputs)
    layers = layers_of(model, block)
    names = None if branches is None else (branches,) if isinstance(branches, str) else tuple(branches)
    contributions: list[Contribution] = []
    watched: list[Watch] = []
    notes: list[str] = []
    for mode in modes:
        with in_mode(model, mode), running(model), torch.no_grad():
            watch = _watch(model, layers, names, mode, stream, args, kwargs)
        if watched and watch.calls != watched[0].calls:
            mend = f"visits its blocks {len(watched[0].calls)} times in {watched[0].mode} mode and {len(watch.calls)} "
            mend += f"times, or in another order, in {mode} mode; give modes=({mode!r},) or ({watched[0].mode!r},)"
            raise InputError("modes", modes, mend)
        watched.append(watch)
        sharing = watch.sharing()
        counts = _Counts(rule, sharing, loops, unique_layers)
        for visit in range(len(watch.calls)):
            for part in watch.added(visit):
                contributions.append(_judge(watch, visit, part, counts, tolerance))
    if not contributions:
        raise InputError("block", block, "is visited once, and puts out its contribution: no visit shows the sum")
    notes += [sharing.words["sharing"]] if "sharing" in sharing.words else []
    updates = kinds(each.update for each in watch.followed.values() if each.update is not None)
    notes += [f"outside of the block: {' … '.join(updates[:: max(1, len(updates) - 1)])}"] if updates else []
    notes += dict.fromkeys(f"{each.branch}: {each.gain}" for each in contributions if each.gain)
    scales = {watch.calls[visit]: counts.expected(visit) for visit in range(len(watch.calls))}
    most = max(range(len(watch.calls)), key=sharing.count)
    changed = len(watch.junctions) - len(watch.followed.keys() & watch.junctions.keys())
    if names == ITSELF:
        changed = 0
    return Applied(
        counts.expected(most), counts.loops(most), counts.layers, tuple(contributions), changed, scales, tuple(notes)
    )


def _watch(
    model: nn.Module,
    layers: dict[nn.Module, str],
    branches: tuple[str, ...] | None,
    mode: str,
    stream: Stream,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Watch:
    """One run; or two, where only a whole run tells which tensor is the stream."""
    watch = Watch(layers, branches, mode, stream)
    try:
        with watch.watching():
            output = model(*args, **kwargs)
    except StreamUnclearError:
        scout = Recorder(layers, stream=stream)
        with scout.watching():
            scout.finish(model(*args, **kwargs))
        watch = Watch(layers, branches, mode, stream)
        watch.finder.paths.update(scout.finder.paths)
        with watch.watching():
            output = model(*args, **kwargs)
        if watch.calls != scout.calls:
            raise InputError("model", type(model).__name__, "visits its blocks otherwise from run to run") from None
    watch.finish(output)
    return watch


class _Counts(NamedTuple):
    """What a rule expects of every visit."""

    rule: float | str
    sharing: Sharing
    given_loops: int | None
    given_layers: int | None

    @property
    def layers(self) -> int:
        """L."""
        return self.given_layers or self.sharing.layers

    def loops(self, visit: int) -> int:
        """N of a visit (from 0): how often its layer is visited."""
        return self.given_loops or self.sharing.count(visit)

    def expected(self, visit: int) -> float:
        """ε of a visit."""
        return residual_scale(self.rule, self.loops(visit), self.layers)

    def rivals(self, visit: int) -> dict[str, float]:
        """What mistakes would make of ε, where that is another number."""
        n, m, expected = self.loops(visit), self.layers, self.expected(visit)
        found = {
            "the scale never arrives": 1.0,
            "the branch is not added": 0.0,
            "applied twice, ε²": expected**2,
            "its root": math.sqrt(expected),
            "its inverse": 1 / expected if expected else math.inf,
        }
        sizes = {"N and L exchanged": (m, n), f"fits N = {n * m}, the visits, not {n}": (n * m, 1)}
        for other in (n - 1, n + 1, 1):
            sizes.setdefault(f"fits N = {other}, not {n}", (other, m))
        for other in (m - 1, m + 1, 1):
            sizes.setdefault(f"fits L = {other}, not {m}", (n, other))
        for name, (loops, layers) in sizes.items():
            if loops > 0 and layers > 0:
                found.setdefault(name, residual_scale(self.rule, loops, layers))
        return {name: value for name, value in found.items() if not math.isclose(value, expected, rel_tol=1e-12)}

    def fitting(self, visit: int, seen: float, allowed: float) -> list[str]:
        """The nearest other N, and the nearest other L, whose ε is what was seen."""
        n, m, expected = self.loops(visit), self.layers, self.expected(visit)
        farthest = _FARTHEST * max(len(self.sharing.visits), n, m)
        found = []
        for letter, own in (("N", n), ("L", m)):
            for other in sorted(range(1, farthest + 1), key=lambda size: abs(size - own)):
                value = residual_scale(self.rule, *((other, m) if letter == "N" else (n, other)))
                if abs(value - seen) <= allowed < abs(value - expected):
                    found.append(f"fits {letter} = {other}, not {own}")
                    break
        return found


def _judge(watch: Watch, visit: int, part: Part, counts: _Counts, tolerance: float) -> Contribution:
    expected = counts.expected(visit)
    rivals = counts.rivals(visit)
    where = f"visit {visit + 1} to {watch.calls[visit]} in {watch.mode} mode"
    seen, reach, gain = _beside_gains(part, expected, tolerance)
    allowed = tolerance * expected + reach
    if abs(seen - expected) > allowed:
        close = [name for name, value in rivals.items() if abs(value - seen) <= tolerance * value + reach]
        close += [name for name in counts.fitting(visit, seen, tolerance * seen + reach) if name not in close]
        gains = [f"with {name} = {factor:.6g}" for name, factor in part.gains]
        more = [*gains, f"{part.spread}, a part of the branch"] if part.spread else gains
        alias = counts.sharing.words.get("equal_not_shared")
        between = visit in watch.junctions and visit not in watch.followed
        raise ScaleNotAppliedError(
            f"{where} adds {part.branch or 'its output'} times {seen:.6g} ± {reach:.1g}, expected "
            f"ε = {expected:.6g}, {counts.rule} at N = {counts.loops(visit)}, L = {counts.layers}"
            f"{': ' if close else ''}{', or '.join(close)}{'; ' if more else ''}{', '.join(more)}"
            f"{'; ' if alias else ''}{alias or ''}"
            f"{'; what the model does between visits is not recognised and may hold a scale, too' if between else ''}"
        )
    gap = min(abs(value - expected) for value in rivals.values())
    if allowed > gap / 2:
        mend = f"{where} cannot tell it from {expected - gap:.4g} or {expected + gap:.4g} (± {allowed:.1g})"
        raise InputError("rule", counts.rule, f"{mend}; give more inputs, a larger precision or a smaller tolerance")
    return Contribution(watch.mode, visit + 1, watch.calls[visit], part.branch, seen, reach, expected, gain)


def _beside_gains(part: Part, expected: float, tolerance: float) -> tuple[float, float, str]:
    """The factor that is ε, with its reach and the gain it stands beside: the whole one unless a gain accounts for it.

    A gain that is ε itself accounts for nothing: then the scale is applied twice.
    """

    def is_expected(value: float, reach: float) -> bool:
        return abs(value - expected) <= tolerance * expected + reach

    spread = f"gains {part.spread} are part of it" if part.spread else ""
    if is_expected(part.seen, part.reach):
        return part.seen, part.reach, spread
    for name, factor in part.gains:
        if factor in (0.0, 1.0) or is_expected(abs(factor), part.reach):
            continue
        left, reach = part.seen / factor, part.reach / abs(factor)
        if is_expected(left, reach):
            return left, reach, f"a gain of {factor:.6g} in {name} is part of it"
    return part.seen, part.reach, spread
