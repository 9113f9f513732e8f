"""A residual scale and learning-rate multipliers for a looped model, with what they rest on."""

import math
import textwrap
from dataclasses import dataclass
from numbers import Integral, Real

from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale
from residual_theory.stack import MOST, Stack
from residual_theory.theory.forward import predict
from residual_theory.theory.learning_rate import OPTIMIZERS, RULES, Optimizer, step_size
from residual_theory.theory.measured import MeasuredTransfer, transfers

_PREDICTED = 4096  # visits: as many take a few seconds
_WEAKEST, _STRONGEST = 1e-100, 1e100
_PAPER = range(12, 49)  # the layers of its models, to which it carries the rate over


@dataclass(frozen=True)
class Recommendation:
    """The result of `recommend`; `print` shows all of it.

    rule, residual_scale: ε, multiplying every branch before it is added to the stream.
    strength, tuned_layers: λ, and the layers L₀ at which ε = λ/N.
    default_scale: 1/(N√L), what `Stack` has unless told otherwise: λ = 1 at one layer.
    learning_rate: multiplier of the tuned rate for the weights inside the blocks, norms and biases included, by the
      rule: it keeps a bound on what one step does to the output. What trains best is another question: see the next.
    to_try: multipliers of that rate that are worth a training, the first first; one where nothing is open.
    advice: why these, in one sentence. measured: this project's trainings with and without the factor on the rate.
    adam_epsilon: multiplier of AdamW's ε for the same weights (1 for other optimizers).
    other_parameters: multiplier for embedding, final norm and head.
    stream_growth: predicted R_V/R_0 of a random ReLU stack, raw and pre-norm, at this scale; empty where N·L is above
      4096, inf beyond float64. One matrix a branch, weight variance 1.
    initial_rate: the multiplier that would keep the first-order change of the output itself the same at initialisation,
      from `step_size` of such stacks, relative to the stream where it is normalised; empty as above. The multiplier
      recommended keeps its power law in N and L; the two differ by a factor that stays bounded.
    critical_rate: 2/Θ of the raw stack, gradient descent's edge in units of 1/fan-in; None where growth is empty.
    scope: what the numbers rest on.  caveats: what they do not cover.
    """

    rule: str
    residual_scale: float
    strength: float
    tuned_layers: int
    default_scale: float
    learning_rate: float
    to_try: tuple[float, ...]
    advice: str
    measured: tuple[MeasuredTransfer, ...]
    adam_epsilon: float
    other_parameters: float
    stream_growth: dict[str, float]
    critical_rate: float | None
    initial_rate: dict[str, float]
    scope: tuple[str, ...]
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        growth = ", ".join(f"{value:.4g} ({name})" for name, value in self.stream_growth.items())
        lines = [
            f"residual scale            ε = {self.rule} = {self.residual_scale:.6g} on every branch",
            f"  which rests on          λ = {self.strength:g} at {self.tuned_layers} tuned layers; "
            f"λ = 1 at 1 layer is 1/(N*sqrt(L)) = {self.default_scale:.6g}, a Stack's default",
            f"learning rate in blocks   × {self.learning_rate:.6g} by the rule: it keeps a bound on one step's effect",
            f"  worth trying            {', then '.join(f'× {value:.3g}' for value in self.to_try)}: {self.advice}",
            f"AdamW's ε in blocks       × {self.adam_epsilon:.6g}",
            f"other parameters          × {self.other_parameters:.6g}",
        ]
        if self.critical_rate is not None:
            lines.append(f"predicted growth R_V/R_0  {growth}")
            lines.append(f"gradient descent's edge   2/Θ = {self.critical_rate:.4g} divided by a weight's fan-in (raw)")
        if self.initial_rate:
            rates = ", ".join(f"× {value:.3g} ({name})" for name, value in self.initial_rate.items())
            lines.append(f"rate, at the first step   {rates}: what would keep that one step's effect exactly")
        listed = {"measured": self.measured, "rests on": self.scope, "does not cover": self.caveats}
        for title, entries in listed.items():
            if not entries:
                continue
            lines.append(f"{title}:")
            for entry in entries:
                lines += textwrap.wrap(str(entry), 100, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)


def recommend(
    loops: int,
    unique_layers: int,
    *,
    strength: float = 1.0,
    tuned_loops: int = 1,
    tuned_layers: int | None = None,
    optimizer: Optimizer = "adam",
) -> Recommendation:
    """The factored rule ε = λ/(N√(L/L₀)) and the learning rate that goes with it.

    Arguments:
      loops, unique_layers: N and L of the model to train.
      strength: λ > 0.
      tuned_loops, tuned_layers: N₀ and L₀ of the model whose learning rate is known, under the same rule (so trained
        at ε = λ/N₀); L₀ is L unless given. The scale is λ/N at L = L₀, as in arXiv:2606.18524 with L₀ = 12. N₀ enters
        `initial_rate` alone, since under this rule the rate does not depend on N.
      optimizer: "adam" (AdamW, Lion and other steps of fixed size), "sign" or "gradient-descent".
    Returns: a Recommendation: multipliers of the tuned values, dimensionless, with their scope and caveats.
    Raises: InputError naming the argument that cannot be used.
    Source: derivations/factored_scaling.py and derivations/learning_rate.py; arXiv:2606.18524, §4.

    >>> advice = recommend(loops=8, unique_layers=24, tuned_layers=12)
    >>> round(advice.residual_scale, 6), round(advice.learning_rate, 6)
    (0.088388, 0.707107)
    """
    base = unique_layers if tuned_layers is None else tuned_layers
    sizes: dict[str, object] = {"loops": loops, "unique_layers": unique_layers}
    for name, value in (sizes | {"tuned_loops": tuned_loops, "tuned_layers": base}).items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= MOST:
            raise InputError(name, value, f"must be an integer from 1 to {MOST}")
    of_strength: object = strength
    if isinstance(of_strength, bool) or not isinstance(of_strength, Real) or not _WEAKEST < strength < _STRONGEST:
        raise InputError("strength", strength, "must be a number above 0 of at most a hundred digits")
    if optimizer not in OPTIMIZERS:
        raise InputError("optimizer", optimizer, f"choose from {', '.join(OPTIMIZERS)}")
    factored = RULES[0]
    written = f"{strength:g}" if float(f"{strength:g}") == strength else repr(float(strength))
    rule = f"{written}/(N*sqrt(L/{base}))"
    rate = factored.learning_rate(optimizer).factor(loops / tuned_loops, unique_layers / base)
    # a block weight's gradient falls as εN ∝ 1/√L, and what Adam compares it with must fall alike
    epsilon = (unique_layers / base) ** -0.5 if optimizer == "adam" else 1.0
    to_try, advice, measured = _advise(base, unique_layers, rate, optimizer)
    growth, critical = _growth_of(loops, unique_layers, rule)
    initial = _initial_rates((tuned_loops, base), (loops, unique_layers), rule, optimizer)
    return Recommendation(
        rule=rule,
        residual_scale=residual_scale(rule, loops, unique_layers),
        strength=float(strength),
        tuned_layers=base,
        default_scale=residual_scale("1/(N*sqrt(L))", loops, unique_layers),
        learning_rate=rate,
        to_try=to_try,
        advice=advice,
        measured=measured,
        adam_epsilon=epsilon,
        other_parameters=1.0,
        stream_growth=growth,
        critical_rate=critical,
        initial_rate=initial,
        scope=_scope(optimizer),
        caveats=_caveats(optimizer, loops, growth),
    )


def _advise(
    tuned: int, layers: int, rate: float, optimizer: Optimizer
) -> tuple[tuple[float, ...], str, tuple[MeasuredTransfer, ...]]:
    """Rates to try in the blocks, why, and what was measured: theory bounds a step, and says not what trains best."""
    if rate == 1:
        return (1.0,), "the rule asks for no other rate", ()
    if optimizer != "adam":
        return (rate, 1.0), "trainings with this optimizer were not measured, so that only the bound speaks", ()
    small, large = sorted((tuned, layers))
    found = transfers()
    told = tuple(one for one in found if one.layers <= large)[-1:]
    if large <= found[-1].layers and told and told[0].cost > 2 * told[0].stderr:
        return (
            (1.0, rate),
            "with so few layers, in small models trained for a short while, the factor on the rate lost",
            told,
        )
    if large <= found[-1].layers:
        return (
            (1.0, rate),
            "with so few layers, in small models trained for a short while, both did about as well",
            told,
        )
    if small in _PAPER and large in _PAPER:
        why = (
            f"arXiv:2606.18524 reports × {rate:.3g} to transfer at these depths; small models of few layers lost by it"
        )
        return (rate, 1.0), why, told
    why = (
        f"neither the paper's models, of {_PAPER[0]} to {_PAPER[-1]} layers, nor those measured here, of up to "
        f"{found[-1].layers}, have such sizes: begin between the two"
    )
    return (rate**0.5, rate, 1.0), why, told


def _growth_of(loops: int, layers: int, rule: str) -> tuple[dict[str, float], float | None]:
    """R_V/R_0 of the raw and the pre-norm stack, and 2/Θ of the raw one."""
    if loops * layers > _PREDICTED:
        return {}, None
    raw = Stack(loops=loops, unique_layers=layers, residual_scale=rule)
    normed = raw.model_copy(update={"normalization": "rms"})
    step = step_size(raw)
    growth = {"raw": step.stream, "pre-norm": float(predict(normed, with_gradients=False).second_moment[-1]) ** 0.5}
    return growth, 2 / step.gradient_descent if step.gradient_descent else math.inf


def _initial_rates(
    tuned: tuple[int, int], wanted: tuple[int, int], rule: str, optimizer: Optimizer
) -> dict[str, float]:
    """How much the first-order change of the output falls from the tuned to the wanted size (loops, layers)."""
    if max(math.prod(tuned), math.prod(wanted)) > _PREDICTED:
        return {}
    rates: dict[str, float] = {}
    for name, norm in (("raw", "none"), ("pre-norm", "rms")):
        changes = []
        for loops, layers in (tuned, wanted):
            step = step_size(Stack(loops=loops, unique_layers=layers, residual_scale=rule, normalization=norm))  # type: ignore[arg-type]
            change = step.gradient_descent if optimizer == "gradient-descent" else step.sign
            changes.append(change / (step.stream if norm == "rms" and optimizer != "gradient-descent" else 1.0))
        if changes[1] > 0 and math.isfinite(changes[0]):
            rates[name] = changes[0] / changes[1]
    return rates


def _scope(optimizer: Optimizer) -> tuple[str, ...]:
    step = "gradient descent's Θ" if optimizer == "gradient-descent" else "a step of fixed size in every weight"
    return (
        "The stream stays bounded exactly when εN√L does, uniformly in N and L: proved for random ReLU stacks at "
        "infinite width (derivations factored-scaling, pre-norm-growth).",
        f"The learning rate keeps the power law in N and L of a bound on the first-order change of the output by {step}"
        " (derivation learning-rate, for bounded Jacobians; bounded factors are left out). Layers that do not push the "
        "same way stay below the bound, and would bear a larger rate.",
        "arXiv:2606.18524 reports the rate not to move with N ∈ {1, 2, 4, 8} at L ∈ {12, 24, 48} for AdamW.",
    )


def _caveats(optimizer: Optimizer, loops: int, growth: dict[str, float]) -> tuple[str, ...]:
    notes = [
        "Predictions are of random ReLU stacks, one matrix a branch, weight variance 1. Trained branches may align "
        "more or less than random ones. L counts blocks; a Transformer's block has two branches.",
        "A rate that does not move with N is no proof of 1/N: pre-norm streams that grow have one too.",
        "A smaller ε, such as 1/(NL), is as stable; which of the two learns better is not settled by this theory.",
    ]
    if loops == 1:
        notes.append("One loop shares nothing: this is the rule for L distinct layers.")
    if optimizer == "adam":
        notes.append("Adam's first step is a sign step; later steps are smaller where gradients disagree.")
        notes.append("AdamW's ε falls as the gradients of block weights do, ∝ εN = λ/√L. Weight decay is not scaled.")
    if not growth:
        notes.append(f"Growth is predicted for up to {_PREDICTED} visits; theory.bounds.bounds has bounds beyond.")
    if growth.get("raw", 0.0) > 10:
        notes.append(
            f"Without a norm before each branch this strength lets the stream grow by {growth['raw']:.3g}; "
            "choose pre-norm, or a smaller strength or tuned_layers."
        )
    return tuple(notes)
