"""What claims about Transformers at initialisation do alike."""

from collections.abc import Sequence

import xarray as xr

from residual_theory.claims.claim import Parameters, Round
from residual_theory.claims.stacks import Positive, trials
from residual_theory.measurements.kinds import Prediction, Probe
from residual_theory.measurements.measurement import Observations
from residual_theory.measurements.observations import pooled
from residual_theory.stack import Count, LlamaStack
from residual_theory.transformer.config import ModelConfig
from residual_theory.transformer.data import evaluation_windows
from residual_theory.transformer.description import describe_at_init


class TransformerParameters(Parameters):
    """The Transformers to initialise, how many of each at first, and the windows of validation text that they read."""

    width: Count = 256
    mlp_width: Count = 684
    heads: Count = 4
    context: Count = 32
    windows: Count = 4
    models: Count = 100
    margin: Positive = 0.05
    rounds: Count = 3

    def config(self, loops: int, rule: str, layers: int = 1) -> ModelConfig:
        """Some blocks looped `loops` times under a residual-scale rule."""
        sizes = self.model_dump(include={"width", "mlp_width", "heads", "context"})
        return ModelConfig(**sizes, loops=loops, unique_layers=layers, residual_scale=rule)

    def probes(self, configs: Sequence[ModelConfig], draw: Round) -> list[Probe]:
        """The probes of every config that a round adds."""
        start, count = trials(self.models, draw.number)
        corpus = draw.read()
        return [
            Probe.on(corpus, config, models=count, first_model=start, windows=self.windows, seed=draw.seed)
            for config in configs
        ]

    def predictions(self, configs: Sequence[ModelConfig], draw: Round) -> list[Prediction]:
        """What is predicted for every config and window, tied and untied; once, in the first round."""
        if draw.number:
            return []
        tokens, _ = evaluation_windows(draw.read().validation, self.windows, self.context)
        return [
            Prediction(stack=transformer(config, window, tied=tied), with_gradients=False)
            for config in configs
            for tied in (True, False)
            for window in tokens.tolist()
        ]


def transformer(config: ModelConfig, tokens: Sequence[int], *, tied: bool = True) -> LlamaStack:
    """The description of a looped Transformer reading the given tokens."""
    return describe_at_init(config if tied else config.model_copy(update={"tied": False}), tokens)


def predicted(observations: Observations, config: ModelConfig, probed: xr.Dataset, *, tied: bool = True) -> xr.Dataset:
    """The prediction for a probe's model, averaged over the windows of text that it read.

    Arguments: observations: among them those that `TransformerParameters.predictions` plans. probed: of the probe.
      tied: False for the law of blocks with weights of their own at every visit.
    Raises: KeyError when a window's prediction is not among the observations.
    """
    found = {prediction.stack: result for prediction, result in pooled(Prediction, observations)}
    laws = [found[transformer(config, window, tied=tied)] for window in probed["tokens"].values]
    return xr.concat(laws, dim="window", combine_attrs="drop").mean("window")
