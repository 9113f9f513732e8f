"""Does the best learning rate of a Transformer move with its layers (Fig. 5c, d), with and without the L-factors?"""

from collections.abc import Sequence

from residual_theory.stack import Count
from residual_theory.store import Specification
from residual_theory.verify.claim import Claim, Observation, Round, Twin
from residual_theory.verify.statistics import Evidence
from residual_theory.verify.training_experiments import SweepParameters, from_one, losses, rate_exponent

FACTORED, COMPLETEP = "1/(N*sqrt(L))", "1/(N*L)"
WITH, WITHOUT, RIVAL = (FACTORED, "paper"), (FACTORED, "none"), (COMPLETEP, "completep")


class LayerSweep(SweepParameters):
    """Unique layers from 1, at which the base rate is tuned, all looped alike."""

    loops: Count = 1
    layers: tuple[Count, ...] = (1, 4)

    def model_post_init(self, context: object) -> None:
        """Raises: InputError unless layers rise from 1."""
        super().model_post_init(context)
        from_one("layers", self.layers)


def plan(sizes: LayerSweep, draw: Round) -> list[Specification]:
    """One layer, then more under the paper's factors, without them, and under the rival 1/(N·L) with its own."""
    planned = sizes.sweep([sizes.model(sizes.loops, FACTORED)], draw)
    for rule, factors in (WITH, WITHOUT, RIVAL):
        models = [sizes.model(sizes.loops, rule, unique_layers=layers) for layers in sizes.layers[1:]]
        planned += sizes.sweep(models, draw, block_rule=factors)
    return planned


def check(sizes: LayerSweep, observations: Sequence[Observation], law: dict[tuple[str, str], float]) -> Evidence:
    """The best base rate moves like L^p under each rule and its factors."""
    findings = []
    for (rule, factors), predicted in law.items():
        curves = {1: losses(observations, unique_layers=1)}
        for layers in sizes.layers[1:]:
            chosen = [item for item in observations if item.specification["training"]["block_rule"] == factors]
            curves[layers] = losses(chosen, unique_layers=layers, residual_scale=rule)
        label = f"exponent of the best base rate in L at ε = {rule}, factors of {factors}"
        found = rate_exponent(label, sizes.rates, curves, predicted=predicted, margin=sizes.margin)
        findings.append(found)
    return Evidence(tuple(findings))


CLAIMS = (
    Claim(
        id="lr-transfer-layers",
        level="model",
        statement="with the L-factors on residual scale, rate and Adam's ε the best base rate does not move with L",
        source="arXiv:2606.18524, Fig. 5c, d",
        recorded="inconclusive",
        reason="from one layer to four the exponent is 0.40 ± 0.13 (five seeds), beyond the margin but not surely; "
        "without the factor on the rate it is −0.07 ± 0.10",
        margin="0.25, half of what the factor L^-1/2 is worth",
        law={WITH: 0.0},
        twin=Twin("it falls like 1/√L", {WITH: -0.5}),
        parameters=LayerSweep,
        plan=plan,
        check=check,
    ),
)
