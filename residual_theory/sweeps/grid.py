"""The grid of a sweep: which models and trainings, on which data. Free of torch, and read from TOML files."""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from residual_theory.description import Description
from residual_theory.errors import InputError
from residual_theory.transformer.config import Count, ModelConfig, Positive, TrainConfig

if TYPE_CHECKING:
    from residual_theory.transformer.data import Corpus


class DataSource(Description):
    """What a sweep trains on: a text, or a data set with its tokenizer.

    Arguments:
      text: a file or folder, read as bytes; None is Python's own library.
      dataset, tokenizer, configuration, split, text_column, limit: as of `load_dataset`.
    Raises: InputError naming the field that cannot be used.
    """

    text: str | None = None
    dataset: str | None = None
    tokenizer: str | None = None
    configuration: str | None = None
    split: str = "train"
    text_column: str = "text"
    limit: Count | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> "DataSource":
        if self.text is not None and self.dataset is not None:
            raise InputError("text", self.text, "give a text or a dataset, not both")
        if (self.dataset is None) != (self.tokenizer is None):
            raise InputError("tokenizer", self.tokenizer, "goes with a dataset: give both or neither")
        unread = self.model_fields_set - {"text", "dataset", "tokenizer"}
        if self.dataset is None and unread:
            name = min(unread)
            raise InputError(name, getattr(self, name), "is of a dataset: give its name too")
        return self

    def read(self) -> "Corpus":
        """Raises: InputError as `load_corpus` and `load_dataset` do."""
        from residual_theory.transformer.data import load_corpus
        from residual_theory.transformer.tokenized import load_dataset

        if self.dataset is None or self.tokenizer is None:
            return load_corpus(self.text)
        options = self.model_dump(exclude={"text", "dataset", "tokenizer"})
        return load_dataset(self.dataset, self.tokenizer, **options)


class SweepConfig(Description):
    """A grid of training runs: every combination of the five lists, on one base model and training.

    Arguments:
      model: the base of all models, without the fields that the lists give: loops, unique_layers, residual_scale.
      training: the base of all trainings, without learning_rate and seed.
      data: what to train on; `sweep` is given it read.
      rules: of the residual scale, numbers or formulas in N and L, such as 1/N,1/sqrt(N).
      loops: N, such as 1,2,4,8.
      unique_layers: L, such as 1,2.
      learning_rates: η, rising, such as 1e-3,2e-3,4e-3.
      seeds: of weights and data order, paired over all else, such as 0,1,2.
    Raises: InputError naming the field that cannot be used.

    >>> config = SweepConfig(loops=(1, 4), rules=("1/N",), learning_rates=(1e-3, 2e-3), seeds=(0, 1))
    >>> len(config.cells()), config.cells()[-1].model.epsilon
    (8, 0.25)
    """

    model: ModelConfig = ModelConfig()
    training: TrainConfig = TrainConfig()
    data: DataSource = DataSource()
    rules: Annotated[tuple[str | float, ...], Field(min_length=1)] = ("1/sqrt(N)", "1/N")
    loops: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8)
    unique_layers: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)

    @model_validator(mode="after")
    def _fields_agree(self) -> "SweepConfig":
        for name in ("rules", "loops", "unique_layers", "seeds"):
            values = getattr(self, name)
            if len(set(map(str, values))) < len(values):
                raise InputError(name, values, "lists a value twice")
        if any(low >= high for low, high in itertools.pairwise(self.learning_rates)):
            raise InputError("learning_rates", self.learning_rates, "must rise")
        for base, given in (
            (self.model, ("loops", "unique_layers", "residual_scale")),
            (self.training, ("learning_rate", "seed")),
        ):
            for name in given:
                if name in base.model_fields_set:
                    raise InputError(name, getattr(base, name), "is given by the sweep's own list; leave it out here")
        self.cells()  # each validates itself
        return self

    def cells(self) -> list["Cell"]:
        """The runs, in the order of the axes rule, loops, unique_layers, learning_rate, seed."""
        axes = (self.rules, self.loops, self.unique_layers, self.learning_rates, self.seeds)
        models = {
            (rule, loops, layers): change(self.model, residual_scale=rule, loops=loops, unique_layers=layers)
            for rule, loops, layers in itertools.product(*axes[:3])
        }
        trainings = {
            (rate, seed): change(self.training, learning_rate=rate, seed=seed)
            for rate, seed in itertools.product(*axes[3:])
        }
        return [Cell(models[place[:3]], trainings[place[3:]]) for place in itertools.product(*axes)]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    model: ModelConfig
    training: TrainConfig


def change(base: Any, **fields: Any) -> Any:
    """A description with some fields given anew."""
    return type(base)(**{**base.model_dump(exclude_unset=True), **fields})


def read_sweep(path: Path, **changes: Any) -> SweepConfig:
    """The sweep in a TOML file: the lists at its top, tables [model], [training] and [data]; `changes` override either.

    Raises: InputError for a file that is missing or no TOML, and naming the field that cannot be used.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("sweep", str(path), f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # of TOML or of UTF-8
        raise InputError("sweep", str(path), f"is not valid TOML: {error}") from None
    return sweep_of(tables, **changes)


def sweep_of(tables: Mapping[str, Any], **changes: Any) -> SweepConfig:
    """A SweepConfig from nested tables, lists being read as tuples; `changes` may themselves hold tables."""
    fields = {name: _tuples(value) for name, value in tables.items()}
    for name, value in changes.items():
        fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
    for name, kind in (("model", ModelConfig), ("training", TrainConfig), ("data", DataSource)):
        if name in fields and not isinstance(fields[name], dict):
            raise InputError(name, fields[name], f"must be a table [{name}]")
        fields[name] = kind(**fields.get(name, {}))
    return SweepConfig(**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
