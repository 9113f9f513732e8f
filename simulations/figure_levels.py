"""The levels read off the paper's Fig. 2 d–f: those of the Transformer that it shows, at initialisation."""

from collections.abc import Callable

from residual_theory import LlamaStack, Stack, predict
from residual_theory.claims import (
    Claim,
    Count,
    Evidence,
    Measurement,
    ModelConfig,
    Observations,
    Positive,
    Prediction,
    Probe,
    Round,
    TransformerParameters,
    Twin,
    computed,
    equivalence,
    pooled,
    predicted,
)

LEVELS = {"1": 60.0, "1/sqrt(N)": 8.0, "1/N": 1.0}  # R at 64 loops of 12 blocks, read off the plot, each to about 15 %


class Sizes(TransformerParameters):
    """Loops as in the figure; the Transformers drawn, an eighth as wide and with branches as strong as the paper's.

    `tokens`, all different, are how many the figure's own Transformer reads in the prediction. `margin` is relative, of
    R²; `margin_reading` of R.
    """

    loops: Count = 64
    layers: Count = 1
    tokens: Count = 8
    width: Count = 96
    mlp_width: Count = 256
    context: Count = 8
    windows: Count = 2
    models: Count = 32
    init_std: Positive = 0.0566  # 0.02 √8, which keeps 0.02² · 768
    margin: Positive = 0.2
    margin_reading: Positive = 0.2

    def drawn(self, rule: str) -> ModelConfig:
        """A Transformer to draw, weights from a truncated normal law."""
        described = self.config(self.loops, rule, self.layers)
        return described.model_copy(update={"init_std": self.init_std})


def of_the_figure(sizes: Sizes, rule: str) -> LlamaStack:
    """The figure's Transformer."""
    return LlamaStack(
        width=768, mlp_width=2048, heads=12, unique_layers=12, init_std=0.02, embedding_std=0.02,
        loops=sizes.loops, tokens=sizes.tokens, residual_scale=rule,
    )  # fmt: skip


Law = Callable[
    [float, int, int, str, float], float
]  # R² at the end, of that predicted, N, L, ε's rule, R² at the start


def of_transformers(predicted_last: float, loops: int, layers: int, rule: str, start: float) -> float:
    """What is predicted for the Transformer."""
    return predicted_last


def of_theorem_1(predicted_last: float, loops: int, layers: int, rule: str, start: float) -> float:
    """Raw ReLU layers, Var W = 1/d, from a stream of the same size."""
    raw = Stack(loops=loops, unique_layers=layers, residual_scale=rule, initial_variance=start)
    return float(predict(raw, with_gradients=False).second_moment[-1])


def plan(sizes: Sizes, current: Round) -> list[Measurement]:
    """Transformers under each rule; once, the predictions for them and for the figure's."""
    configs = [sizes.drawn(rule) for rule in LEVELS]
    planned: list[Measurement] = [*sizes.probes(configs, current), *sizes.predictions(configs, current, tied=(True,))]
    if current.number == 0:
        planned += [Prediction(stack=of_the_figure(sizes, rule), with_gradients=False) for rule in LEVELS]
    return planned


def check(sizes: Sizes, observations: Observations, law: Law) -> Evidence:
    """R² of the Transformers drawn is the law's, and so is R read off the figure."""
    findings = []
    for probe, probed in pooled(Probe, observations):
        config, moments = probe.model, predicted(observations, probe.model, probed).second_moment.values
        expected = law(moments[-1], config.loops, config.unique_layers, str(config.residual_scale), moments[0])
        findings.append(
            equivalence(
                f"R² of Transformers of width {sizes.width} at N = {sizes.loops}, ε = {config.residual_scale}",
                float(probed.second_moment[-1]), float(probed.second_moment_stderr[-1]),
                predicted=expected, margin=sizes.margin * expected, samples=int(probed.samples),
            )
        )  # fmt: skip
    predictions = {prediction.stack: result for prediction, result in pooled(Prediction, observations)}
    for rule, level in LEVELS.items():
        last = float(predictions[of_the_figure(sizes, rule)].second_moment[-1])
        reach = 1 + sizes.margin_reading
        where = f"R of the law in Fig. 2 at ε = {rule}, read off as {level:g} ± {sizes.margin_reading:.0%}"
        findings.append(computed(where, law(last, sizes.loops, 1, rule, 1.0) ** 0.5, level / reach, level * reach))
    return Evidence(tuple(findings))


CLAIMS = (
    Claim(
        id="figure-levels",
        level="model",
        statement="the levels of Fig. 2 d–f at 64 loops, R ≈ 60, 8 and 1 under ε = 1, 1/√N and 1/N, are those that the "
        "theory predicts for the figure's own Transformer at initialisation, with nothing fitted, and smaller "
        "Transformers drawn have the norms predicted for them",
        source="arXiv:2606.18524, Fig. 2",
        paper="Fig. 2",
        recorded="confirmed",
        reason="12 blocks of width 768 looped 64 times are predicted at 68.8, 8.59 and 1.015 on 32 tokens, and four "
        "such models have 69.2, 8.55 and 1.016 (benchmarks/theory/llama.csv). Theorem 1's raw model has 3·10¹⁴, 92 and "
        "1.25",
        margin="20 % of R: 15 % for reading a plot, and what R falls by from 8 tokens to the paper's 128; 20 % of R² "
        "(10 % of R) for the models drawn, within that and with room for terms of order 1/d",
        law=of_transformers,
        twin=Twin("they are those of Theorem 1's model, raw ReLU with Var W = 1/d", of_theorem_1),
        parameters=Sizes,
        plan=plan,
        check=check,
    ),
)
