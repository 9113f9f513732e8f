"""What Theorem 6 of the paper assumes of layers, measured on the blocks of looped Transformers."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import xarray as xr
from pydantic import Field

from residual_theory.claims import (
    FEWEST_SIZES,
    Claim,
    Count,
    Curve,
    Draws,
    Evidence,
    Finding,
    Measurement,
    ModelConfig,
    Observations,
    Positive,
    RedrawnBlocks,
    Round,
    TransformerParameters,
    Twin,
    equivalence,
    exponent,
    pooled,
    predicted,
    trials,
    within,
)

FACTORED = "1/(N*sqrt(L))"
Fitted = Annotated[tuple[Positive, ...], Field(min_length=FEWEST_SIZES)]
MOST = 2.0  # of C_1 over a₋²/q0, the share of a stream that a block of size a₋ changes, of that block's size


class Sizes(TransformerParameters):
    """(N, L) under the factored rule; the values of εN at which two blocks, at one N, are redrawn."""

    width: Count = 64
    mlp_width: Count = 176
    context: Count = 16
    windows: Count = 2
    models: Draws = 16
    init_std: Positive = 0.07
    sizes: tuple[tuple[Count, Count], ...] = ((4, 2), (8, 2), (4, 4))
    strengths: Fitted = (0.004, 0.007, 0.01, 0.02, 0.05)
    loops_of_strengths: Count = 4
    margin: Positive = 0.3
    margin_power: Positive = 0.3

    def described(self, loops: int, layers: int, scale: float | str) -> ModelConfig:
        """One looped Transformer."""
        return self.config(loops, FACTORED, layers).model_copy(
            update={"residual_scale": scale, "init_std": self.init_std}
        )


def plan(sizes: Sizes, current: Round) -> list[Measurement]:
    """Blocks redrawn at every size and strength; once, the predictions for the sizes."""
    factored = [sizes.described(N, L, FACTORED) for N, L in sizes.sizes]
    N = sizes.loops_of_strengths
    weak = [sizes.described(N, 2, strength / N) for strength in sizes.strengths]
    start, count = trials(sizes.models, current.number)
    corpus = current.read()
    return [
        *(
            RedrawnBlocks.on(
                corpus,
                config,
                models=count,
                first_model=start + place * 2**24,
                windows=sizes.windows,
                seed=current.seed,
            )
            for place, config in enumerate(factored + weak)
        ),
        *sizes.predictions(factored, current),
    ]


def output_squares(law: xr.Dataset, config: ModelConfig) -> np.ndarray:
    """E q(Y_l) (layer) of a predicted covariance, over the embeddings' mean square."""
    changes = np.diff(np.diff(law.covariance.values, axis=0), axis=1)
    L = config.unique_layers
    blocks = changes.reshape(config.loops, L, config.loops, L).sum(axis=(0, 2))
    return np.asarray(np.diagonal(blocks) / (config.loops * config.epsilon * config.init_std) ** 2)


def check(sizes: Sizes, observations: Observations, power: float) -> Evidence:
    """a and C_1 at every size; and how redrawing one block changes another's Y as ε grows."""
    findings: list[Finding] = []
    points: list[tuple[float, float, float]] = []
    for measurement, found in pooled(RedrawnBlocks, observations):
        config, samples = measurement.model, int(found.samples)
        change, stderr = float(found.other_change), float(found.other_change_stderr)
        place = int(found.output_square.argmin())
        least, error = float(found.output_square[place]), float(found.output_square_stderr[place])
        where = f"of a Transformer at N = {config.loops}, L = {config.unique_layers}, ε = {config.residual_scale}"
        ratio = change / (least * config.epsilon * config.loops) ** 2
        share = float(np.hypot(stderr / change, 2 * error / least))
        findings.append(within(f"C_1 q0/a₋² {where}", ratio, ratio * share, high=MOST, samples=samples))
        if config.residual_scale != FACTORED:
            points.append((config.epsilon * config.loops, change, stderr))
            continue
        law = output_squares(predicted(observations, config, found), config)
        for place in (0, config.unique_layers - 1):
            value = float(law[place])
            findings.append(
                equivalence(
                    f"q(Y) of block {place + 1} {where}",
                    float(found.output_square[place]), float(found.output_square_stderr[place]),
                    predicted=value, margin=sizes.margin * value, samples=samples,
                )
            )  # fmt: skip
    return Evidence((*findings, *_power(sizes, points, power)))


def _power(sizes: Sizes, points: Sequence[tuple[float, float, float]], power: float) -> tuple[Finding, Finding]:
    strengths, changes, stderrs = zip(*sorted(points), strict=True)
    curve = Curve(strengths, changes, stderrs, sizes.models)
    return exponent("½q(Y_l − Y_l^(s)) in β", curve, predicted=power, margin=sizes.margin_power)


CLAIMS = (
    Claim(
        id="assumption-layers",
        level="model",
        statement="what a looped Transformer's block adds at initialisation has the predicted size, and redrawing "
        "another block changes it by C_1β²",
        source="arXiv:2606.18524, Theorem 6, assumptions (7) and (9)",
        paper=("Theorem 3", "Theorem 6"),
        recorded="confirmed",
        reason="E q(Y_l) equals the token recursion's, and the change grows like β² while it is small, with C_1 near "
        "0.6 a₋²/q0, q0 the embeddings' mean square; at λ = 1, where blocks outgrow the embeddings, C_1 is smaller",
        margin="30 % of E q(Y_l), which varies by 18 % from model to model at width 64; 0.3 in the exponent, of which "
        "what follows β² takes 0.1; C_1 ≤ 2 a₋²/q0, thrice its largest value, at β → 0",
        law=2.0,
        twin=Twin("redrawing one block changes another's in proportion to β", 1.0),
        parameters=Sizes,
        plan=plan,
        check=check,
    ),
)
