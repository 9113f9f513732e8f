"""Does the best learning rate of a Transformer move with its layers (Fig. 5c, d), with and without the L-factors?"""

from residual_theory.claims import (
    Array,
    Claim,
    Count,
    Evidence,
    Observations,
    Rates,
    Round,
    SweepParameters,
    Training,
    Twin,
    at_best,
    from_one,
    losses,
    lower,
    rate_exponent,
    runs_of,
)

FACTORED, COMPLETEP = "1/(N*sqrt(L))", "1/(N*L)"
WITH, WITHOUT, RIVAL = (FACTORED, "paper"), (FACTORED, "none"), (COMPLETEP, "completep")


class LayerSweep(SweepParameters):
    """Unique layers from 1, at which the base rate is tuned, all looped alike."""

    rates: Rates = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)  # with the factors the best rate rises
    loops: Count = 1
    layers: tuple[Count, ...] = (1, 4)

    def model_post_init(self, context: object) -> None:
        """Raises: InputError unless layers rise from 1."""
        super().model_post_init(context)
        from_one("layers", self.layers)


def plan(sizes: LayerSweep, current: Round) -> list[Training]:
    """One layer, then more under the paper's factors, without them, and under the rival 1/(N·L) with its own."""
    planned = sizes.sweep([sizes.model(sizes.loops, FACTORED)], current)
    for rule, factors in (WITH, WITHOUT, RIVAL):
        models = [sizes.model(sizes.loops, rule, unique_layers=layers) for layers in sizes.layers[1:]]
        planned += sizes.sweep(models, current, block_rule=factors)
    return planned


def check(sizes: LayerSweep, observations: Observations, law: dict[tuple[str, str], float]) -> Evidence:
    """The best base rate moves like L^p under each rule and its factors."""
    findings = []
    for (rule, factors), predicted in law.items():
        found = {layers: curve(observations, layers, rule, factors) for layers in sizes.layers}
        label = f"exponent of the best base rate in L at ε = {rule}, factors of {factors}"
        findings.append(rate_exponent(label, sizes.rates, found, predicted=predicted, margin=sizes.margin))
    return Evidence(tuple(findings))


def curve(observations: Observations, layers: int, rule: str, factors: str) -> Array:
    """Losses (rate, seed) of so many layers under a rule and its factors; all rules coincide at one layer."""
    if layers == 1:
        return losses(observations, unique_layers=1)
    of_layers = runs_of(observations, unique_layers=layers, residual_scale=rule)
    return losses([run for run in of_layers if run.measurement.training.block_rule == factors])


def check_rival(sizes: LayerSweep, observations: Observations, better: str) -> Evidence:
    """At the most layers, the paper's rule and its rival, each with its factors and at the best of its own rates."""
    layers = sizes.layers[-1]
    best = {rule: at_best(curve(observations, layers, rule, factors)) for rule, factors in (WITH, RIVAL)}
    return Evidence((lower(best, better, f"at L = {layers}"),))


CLAIMS = (
    Claim(
        id="lr-transfer-layers",
        level="model",
        statement="with the L-factors on residual scale, rate and Adam's ε the best base rate does not move with L",
        source="arXiv:2606.18524, Fig. 5c, d",
        paper="Fig. 5",
        regime="N = 1, L = 1 … 8, width 64, 150 steps",
        recorded="refuted",
        reason="in small models it rises like √L, so that the blocks' own best rate stays: the factor L^-1/2 on the "
        "rate is undone. The paper's models, 12 to 48 layers trained far longer, were not tried",
        margin="0.25, half of what the factor L^-1/2 is worth",
        law={WITH: 0.0},
        twin=Twin("it falls like 1/√L", {WITH: -0.5}),
        parameters=LayerSweep,
        plan=plan,
        check=check,
    ),
    Claim(
        id="layer-rival",
        drawn_with="lr-transfer-layers",
        level="model",
        statement="L layers at ε = 1/(NL), the rival that the paper does not try, have a lower validation loss than at "
        "1/(N√L), each with its own factors and at the best of its own rates, at the largest L",
        source="arXiv:2505.01618 against arXiv:2606.18524",
        regime="N = 1, L = 8, width 64, 150 steps",
        recorded="inconclusive",
        reason="paired over seeds that fix weights and data; small models and a short training. The rival is ahead at "
        "four layers, by 0.030 ± 0.005 nats a byte, and no longer surely at eight, by 0.005 ± 0.005",
        margin="none: the sign of the mean paired difference",
        law=COMPLETEP,
        twin=Twin("1/(N√L) has the lower loss", FACTORED),
        parameters=LayerSweep,
        plan=plan,
        check=check_rival,
    ),
)
