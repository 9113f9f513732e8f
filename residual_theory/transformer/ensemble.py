"""Training several models of one shape at once, as a stack: one batched call a step in place of one call a model."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from residual_theory.errors import InputError
from residual_theory.transformer.config import ModelConfig, TrainConfig
from residual_theory.transformer.data import Corpus, batch
from residual_theory.transformer.memory import is_out_of_memory
from residual_theory.transformer.model import LoopedTransformer
from residual_theory.transformer.processes import team
from residual_theory.transformer.train import Run

_SHARED = {"batch_size", "accumulation", "dtype", "device", "compile", "recompute"}  # members may differ in the others


def common(model: ModelConfig, training: TrainConfig) -> str:
    """What members of one ensemble share, as text to compare: shapes, precision and device.

    They may differ in the residual scale, the steps, all that the optimizer does, and the seed.

    >>> one, other = ModelConfig(loops=4, residual_scale="1/N"), ModelConfig(loops=4, residual_scale=0.5)
    >>> common(one, TrainConfig(seed=3)) == common(other, TrainConfig(learning_rate=0.1))
    True
    >>> common(one, TrainConfig()) == common(one, TrainConfig(batch_size=7))
    False
    """
    described = model.model_dump(mode="json", exclude={"residual_scale"}), training.model_dump(include=_SHARED)
    return json.dumps(described, sort_keys=True)


def obstacle(training: TrainConfig) -> str:
    """The field that keeps models trained like this from being stacked, or nothing."""
    return next((name for name in ("compile", "recompute") if getattr(training, name)), "")


def train_together(
    models: Sequence[ModelConfig],
    trainings: Sequence[TrainConfig],
    corpus: Corpus,
    progress: Callable[[int], None] | None = None,
    *,
    checkpoints: Sequence[Path] = (),
    every: int = 500,
) -> list[xr.Dataset]:
    """Train several models at once and give for each what `train` gives, up to rounding.

    The members' weights are slices of stacked tensors, and one vectorised call computes all losses and gradients. All
    else is each member's own, by the code of `train`: initial weights and order of data from its seed, clipping,
    optimizer, rates, validation, checkpoints. A member that diverges or ends leaves the stack, and the others go on.

    Arguments:
      models, trainings: one of each a member, which may differ as `common` says.
      corpus: what to train and validate on. progress: called with the rounds of steps done.
      checkpoints: a file a member, or none; each is what `train` keeps, written every `every` steps of the member and
        at its end, so that a run begun in an ensemble may end by itself and the other way round.
    Returns: a Dataset a member, in their order.
    Raises: InputError for members that cannot be stacked or do not fit into memory, and as `train` does.
    """
    _must_stack(models, trainings, corpus)
    if len(checkpoints) not in (0, len(models)):
        raise InputError("checkpoints", len(checkpoints), f"give one a model, {len(models)}, or none")
    if every < 1:
        raise InputError("every", every, "must be at least 1 step")
    with team(trainings[0].device) as place, _fitting(len(models)):
        if place.size > 1:
            raise InputError("trainings", place.size, "an ensemble trains in one process; start it without torchrun")
        members = [_Member(model, training, corpus, place) for model, training in zip(models, trainings, strict=True)]
        files = dict(zip(members, checkpoints, strict=False))
        for member, path in files.items():
            member.resume(path)
        live: list[_Member] = []
        rounds = 0
        while ongoing := [member for member in members if not member.finished]:
            if ongoing != live:
                live, stack = ongoing, _Stack([member.network for member in ongoing])
            for member, (loss, gradients) in zip(live, stack.backward(live), strict=True):
                member.follow(loss, gradients)
                if member in files and member.done % every == 0:
                    member.save(files[member])
            rounds += 1
            if progress is not None:
                progress(rounds)
        for member, path in files.items():
            member.save(path)
        return [member.results() for member in members]


def _must_stack(models: Sequence[ModelConfig], trainings: Sequence[TrainConfig], corpus: Corpus) -> None:
    if not models or len(models) != len(trainings):
        raise InputError("trainings", len(trainings), f"give one a model, and at least one; there are {len(models)}")
    if len({common(*member) for member in zip(models, trainings, strict=True)}) > 1:
        mend = "members may differ in residual_scale only, and their trainings in no size, precision or device"
        raise InputError("models", len(models), mend)
    if name := obstacle(trainings[0]):
        raise InputError(name, getattr(trainings[0], name), "such models cannot be stacked; train them one by one")
    if models[0].vocabulary < corpus.vocabulary:
        raise InputError("vocabulary", models[0].vocabulary, f"the text's tokens need at least {corpus.vocabulary}")
    corpus.must_hold(models[0].context)


@contextlib.contextmanager
def _fitting(members: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError("members", members, "are too many for the memory; take fewer, or train them apart") from None


class _Member(Run):
    """One run, whose loss and gradients come from the stack."""

    _found: tuple[float, Sequence[Tensor]]

    def upcoming(self) -> tuple[Tensor, Tensor]:
        """The batch that the next step will draw: inputs and targets, each (batch, time)."""
        ahead = torch.Generator()
        ahead.set_state(self.shuffle.get_state())
        return batch(self.corpus.train, self.training.batch_size, self.model.context, ahead)

    def follow(self, loss: float, gradients: Sequence[Tensor]) -> None:
        """The next step of the run, given the loss on its batch and the gradients, one a parameter."""
        self._found = loss, gradients
        self.step()

    def _gradients(self, inputs: Tensor, targets: Tensor) -> float:
        loss, gradients = self._found
        for parameter, gradient in zip(self.network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return loss


class _Stack:
    """The weights of several models of one shape, stacked; each model's own become slices of the stack."""

    def __init__(self, networks: Sequence[LoopedTransformer]) -> None:
        self.skeleton = _Loss(networks[0])
        self.parameters: dict[str, Tensor] = {}
        for name, parameters in _by_name(networks, nn.Module.named_parameters):
            stacked = torch.stack([parameter.detach() for parameter in parameters])  # (member, *shape)
            self.parameters[name] = stacked.requires_grad_()
            for member, parameter in enumerate(parameters):
                parameter.data = stacked.data[member]
        self.epsilons = {
            name: torch.stack(buffers)  # (member,)
            for name, buffers in _by_name(networks, nn.Module.named_buffers)
            if name.endswith(".epsilon")
        }
        self.losses = torch.vmap(self._loss)

    def _loss(self, parameters: dict[str, Tensor], epsilons: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = functional_call(self.skeleton, (parameters, epsilons), (x, y))
        return loss

    def backward(self, members: Sequence[_Member]) -> list[tuple[float, list[Tensor]]]:
        """Each member's mean loss on its upcoming batch, and the gradients, as its parameters are ordered."""
        training, device = members[0].training, members[0].team.device
        inputs, targets = (torch.stack(parts) for parts in zip(*(one.upcoming() for one in members), strict=True))
        parts = training.accumulation
        total = torch.zeros(len(members), device=device)
        for parameter in self.parameters.values():
            parameter.grad = None
        for x, y in zip(inputs.chunk(parts, dim=1), targets.chunk(parts, dim=1), strict=True):
            with (
                _allow_batched_attention(device),
                torch.autocast(device.type, torch.bfloat16, enabled=training.dtype == "bfloat16"),
            ):
                losses: Tensor = self.losses(self.parameters, self.epsilons, x.to(device), y.to(device)) / parts
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total += losses.detach()
        gradients = [parameter.grad for parameter in self.parameters.values()]
        return [
            (loss, [stack[member] for stack in gradients if stack is not None])
            for member, loss in enumerate(total.tolist())
        ]


class _Loss(nn.Module):
    """A model's loss as a module's call, which functional_call needs."""

    def __init__(self, network: LoopedTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.network.loss(tokens, targets)


def _by_name(
    networks: Sequence[LoopedTransformer], of: Callable[[nn.Module], Iterator[tuple[str, Tensor]]]
) -> Iterator[tuple[str, list[Tensor]]]:
    """The tensors of one name in all models, under the name that they have in `_Loss`."""
    for tensors in zip(*map(of, networks), strict=True):
        yield f"network.{tensors[0][0]}", [tensor for _, tensor in tensors]


def _allow_batched_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On the CPU torch's fused attention cannot be vectorised over members, and its plain formula can."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
