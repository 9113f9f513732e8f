"""What claims about Transformers at initialisation have in common."""

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
        """The description of `layers` blocks looped `loops` times under a residual-scale rule.

        >>> TransformerParameters(width=32, heads=2).config(4, "1/N", layers=2).unique_layers
        2
        """
        sizes = self.model_dump(include={"width", "mlp_width", "heads", "context"})
        return ModelConfig(**sizes, loops=loops, unique_layers=layers, residual_scale=rule)

    def probes(self, configs: Sequence[ModelConfig], current: Round) -> list[Probe]:
        """The probes that a round adds: some models of every description, all reading the same windows of the text.

        Arguments: configs: such as `self.config` makes. current: the round, as `plan` gets it.
        Raises: InputError when the text is shorter than one sequence.

        >>> from residual_theory.transformer.data import load_corpus
        >>> sizes = TransformerParameters(models=10)
        >>> (probe,) = sizes.probes([sizes.config(4, "1/N")], Round(number=1, seed=7, read=load_corpus))
        >>> probe.models, probe.first_model, probe.windows
        (10, 10, 4)
        """
        start, count = trials(self.models, current.number)
        corpus = current.read()
        return [
            Probe.on(corpus, config, models=count, first_model=start, windows=self.windows, seed=current.seed)
            for config in configs
        ]

    def predictions(
        self, configs: Sequence[ModelConfig], current: Round, *, tied: Sequence[bool] = (True, False)
    ) -> list[Prediction]:
        """The predictions for every description and window of text, tied and untied; none after the first round.

        Arguments, raises: as of `probes`. tied: which of the two are wanted.

        >>> from residual_theory.transformer.data import load_corpus
        >>> sizes = TransformerParameters(windows=3)
        >>> first, later = (Round(number=number, seed=7, read=load_corpus) for number in (0, 1))
        >>> [len(sizes.predictions([sizes.config(4, "1/N")], current)) for current in (first, later)]
        [6, 0]
        """
        if current.number:
            return []
        tokens, _ = evaluation_windows(current.read().validation, self.windows, self.context)
        return [
            Prediction(stack=transformer(config, window, tied=of_tied), with_gradients=False)
            for config in configs
            for of_tied in tied
            for window in tokens.tolist()
        ]


def transformer(config: ModelConfig, tokens: Sequence[int], *, tied: bool = True) -> LlamaStack:
    """The LlamaStack of a looped Transformer that reads the given tokens, for `predict`.

    Arguments: config: of the model. tokens: the ids it reads. tied: whether loops share weights, whatever config says.
    Raises: InputError for a field that no LlamaStack can express, or tokens that the model cannot read.

    >>> transformer(ModelConfig(loops=3), [5, 7, 5], tied=False).tied
    False
    """
    return describe_at_init(config if tied else config.model_copy(update={"tied": False}), tokens)


def predicted(observations: Observations, config: ModelConfig, probed: xr.Dataset, *, tied: bool = True) -> xr.Dataset:
    """The prediction for a probe's model, averaged over the windows of text that it read.

    Arguments: observations: among them those that `TransformerParameters.predictions` plans. config: of the model.
      probed: a probe's result, with its `tokens` (window, position). tied: False for the law of blocks with weights of
      their own at every visit.
    Returns: the observables of `predict`, without gradients.
    Raises: KeyError when a window's prediction is not among the observations.

    >>> from pathlib import Path
    >>> from residual_theory.measurements.measurement import Context, Observation
    >>> config, windows = ModelConfig(loops=3), [[5, 7], [5, 5]]
    >>> planned = [Prediction(stack=transformer(config, tokens), with_gradients=False) for tokens in windows]
    >>> observed = [Observation(one, one.measure(Context(Path()))) for one in planned]
    >>> probed = xr.Dataset({"tokens": (("window", "position"), windows)})
    >>> predicted(observed, config, probed).second_moment.sizes["visit"]
    4
    """
    found = {prediction.stack: result for prediction, result in pooled(Prediction, observations)}
    laws = [found[transformer(config, window, tied=tied)] for window in probed["tokens"].values]
    return xr.concat(laws, dim="window", combine_attrs="drop").mean("window")
