"""A residual scale and learning-rate multipliers for a looped model, with what they rest on."""

import math
import textwrap
from dataclasses import dataclass

from residual_theory.errors import InputError
from residual_theory.scaling import residual_scale
from residual_theory.stack import Stack
from residual_theory.theory.forward import predict
from residual_theory.theory.learning_rate import OPTIMIZERS, RULES, Optimizer, step_size

_LARGEST_PREDICTED = 1024  # visits to a layer; more change the predicted numbers by less than 1/N of them
_MOST_LAYERS = 64


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` answers; `print` shows it whole.

    rule, residual_scale: ε, multiplying every branch before it is added to the stream.
    learning_rate: multiplier of the tuned rate for the weights inside the blocks, norms and biases included.
    adam_epsilon: multiplier of AdamW's ε for the same weights (1 for other optimizers).
    other_parameters: multiplier for embedding, final norm and head.
    stream_growth: predicted R_V/R_0 of a random ReLU stack, raw and pre-norm, at this scale.
    critical_rate: 2/Θ of the raw stack, gradient descent's edge in units of 1/fan-in.
    scope: what the numbers rest on.  caveats: what they do not cover.
    """

    rule: str
    residual_scale: float
    learning_rate: float
    adam_epsilon: float
    other_parameters: float
    stream_growth: dict[str, float]
    critical_rate: float
    scope: tuple[str, ...]
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        growth = ", ".join(f"{value:.4g} ({name})" for name, value in self.stream_growth.items())
        lines = [
            f"residual scale            ε = {self.rule} = {self.residual_scale:.6g} on every branch",
            f"learning rate in blocks   × {self.learning_rate:.6g}",
            f"AdamW's ε in blocks       × {self.adam_epsilon:.6g}",
            f"other parameters          × {self.other_parameters:.6g}",
            f"predicted growth R_V/R_0  {growth}",
            f"gradient descent's edge   2/Θ = {self.critical_rate:.4g}, in units of 1/fan-in (raw)",
        ]
        for title, entries in (("rests on", self.scope), ("does not cover", self.caveats)):
            lines.append(f"{title}:")
            for entry in entries:
                lines += textwrap.wrap(entry, 100, initial_indent="  - ", subsequent_indent="    ")
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
      tuned_loops, tuned_layers: N₀ and L₀ of the model whose learning rate is known, under the same rule; L₀ is L
        unless given. The scale is λ/N at L = L₀, as in arXiv:2606.18524 with L₀ = 12.
      optimizer: "adam" (AdamW, Lion and other steps of fixed size), "sign" or "gradient-descent".
    Returns: a Recommendation: multipliers of the tuned values, dimensionless, with their scope and caveats.
    Raises: InputError naming the argument that cannot be used.
    Source: derivations/factored_scaling.py and derivations/learning_rate.py; arXiv:2606.18524, §4.

    >>> advice = recommend(loops=8, unique_layers=24, tuned_layers=12)
    >>> round(advice.residual_scale, 6), round(advice.learning_rate, 6)
    (0.088388, 0.707107)
    """
    base = unique_layers if tuned_layers is None else tuned_layers
    for name, value in (
        ("loops", loops),
        ("unique_layers", unique_layers),
        ("tuned_loops", tuned_loops),
        ("tuned_layers", base),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(name, value, "must be an integer of at least 1")
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength < math.inf:
        raise InputError("strength", strength, "must be a finite number above 0")
    if optimizer not in OPTIMIZERS:
        raise InputError("optimizer", optimizer, f"choose from {', '.join(OPTIMIZERS)}")
    factored = RULES[0]
    rule = f"{strength:g}/(N*sqrt(L/{base}))"
    rate = factored.learning_rate(optimizer).factor(loops / tuned_loops, unique_layers / base)
    # a block weight's gradient falls as εN ∝ 1/√L, and what Adam compares it with must fall alike
    epsilon = (unique_layers / base) ** -0.5 if optimizer == "adam" else 1.0
    raw, normed = (_stack(loops, unique_layers, base, strength, norm) for norm in ("none", "rms"))
    growth = {"raw": _growth(raw), "pre-norm": _growth(normed)}
    return Recommendation(
        rule=rule,
        residual_scale=residual_scale(rule, loops, unique_layers),
        learning_rate=rate,
        adam_epsilon=epsilon,
        other_parameters=1.0,
        stream_growth=growth,
        critical_rate=2 / step_size(raw).gradient_descent,
        scope=_scope(optimizer),
        caveats=_caveats(optimizer, loops, growth["raw"]),
    )


def _stack(loops: int, layers: int, base: int, strength: float, normalization: str) -> Stack:
    """The stack of the same ε N √L with few enough visits; beyond them the prediction is at its limit."""
    loops, layers = min(loops, _LARGEST_PREDICTED), min(layers, _MOST_LAYERS)
    if loops * layers > 4 * _LARGEST_PREDICTED:
        loops = 4 * _LARGEST_PREDICTED // layers
    scale = strength * math.sqrt(base) / (loops * math.sqrt(layers))
    return Stack(loops=loops, unique_layers=layers, residual_scale=scale, normalization=normalization)  # type: ignore[arg-type]


def _growth(stack: Stack) -> float:
    return math.sqrt(float(predict(stack, with_gradients=False).second_moment[-1]))


def _scope(optimizer: Optimizer) -> tuple[str, ...]:
    step = "gradient descent's Θ" if optimizer == "gradient-descent" else "a step of fixed size in every weight"
    return (
        "The stream stays bounded exactly when εN√L does, uniformly in N and L: proved for random ReLU stacks at "
        "infinite width (derivations factored-scaling, pre-norm-growth).",
        f"The learning rate keeps the first-order change of the output by {step} the same (derivation learning-rate).",
        "arXiv:2606.18524 reports the rate not to move with N ∈ {1, 2, 4, 8} at L ∈ {12, 24, 48} for AdamW.",
    )


def _caveats(optimizer: Optimizer, loops: int, raw_growth: float) -> tuple[str, ...]:
    notes = [
        "Predictions are of random weights. Trained branches may align more or less than random ones.",
        "A rate that does not move with N is no proof of 1/N: pre-norm streams that grow have one too.",
        "A smaller ε, such as 1/(NL), is as stable; which of the two learns better is not settled by this theory.",
    ]
    if loops == 1:
        notes.append("One loop shares nothing: this is the rule for L distinct layers.")
    if optimizer == "adam":
        notes.append("Adam's first step is a sign step; later steps are smaller where gradients disagree.")
    if raw_growth > 10:
        notes.append(
            f"Without a norm before each branch this strength lets the stream grow by {raw_growth:.3g}; "
            "choose pre-norm, or a smaller strength or tuned_layers."
        )
    return tuple(notes)
