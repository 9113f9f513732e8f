"""What a looped Transformer is at initialisation, in the terms that predictions are made from."""

from collections.abc import Sequence

from residual_theory.errors import InputError
from residual_theory.stack import LlamaStack
from residual_theory.transformer.config import ModelConfig

_PASSED_ON = LlamaStack.model_fields.keys() & ModelConfig.model_fields.keys()
_HEEDED = {
    "vocabulary",  # tokens are below it
    "context",  # and no more than that
    "initial_distribution",  # either has the standard deviation init_std, and the law depends on no more
}


def describe_at_init(config: ModelConfig, tokens: Sequence[int]) -> LlamaStack:
    """The description of an initialised model that reads the given tokens.

    Arguments:
      config: of the model. tokens: the ids it reads, such as a window of text.
    Returns: a LlamaStack, embedding_std being init_std.
    Raises: InputError naming a field that no LlamaStack can express, unless it is at its default; InputError("tokens",
      …) for tokens that the model cannot read.

    >>> describe_at_init(ModelConfig(loops=3, init_std=0.05, tied=False), [5, 7, 5]).embedding_std
    0.05
    """
    for name, field in type(config).model_fields.items():
        given = getattr(config, name)
        value = config.value(name) if isinstance(given, str) and isinstance(field.default, float) else given
        if name not in _PASSED_ON | _HEEDED and value != field.default:
            raise InputError(name, given, f"is not covered by LlamaStack; only {field.default!r} is")
    ids = tuple(int(token) for token in tokens)
    if len(ids) > config.context:
        raise InputError("tokens", ids, f"a sequence has at most context = {config.context} tokens")
    if ids and not 0 <= min(ids) <= max(ids) < config.vocabulary:
        raise InputError("tokens", ids, f"ids are from 0 to vocabulary - 1 = {config.vocabulary - 1}")
    return LlamaStack(**config.model_dump(include=set(_PASSED_ON)), tokens=ids, embedding_std=config.init_std)
