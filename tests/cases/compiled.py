"""A loop whose model, block or inner function is compiled, before or after it has run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.cases.gains import Looped
from tests.cases.shared_weights import Block

STEPS = 6


def plain() -> Looped:
    """The same weights every time, ε = 1/6."""
    return Looped(Block(1 / STEPS), STEPS).eval()


def whole(run: bool, **options: object) -> nn.Module:
    """torch.compile(model)."""
    made = torch.compile(plain(), backend="eager", **options)  # type: ignore[call-overload]
    return _run(made, run)


def inner(run: bool) -> nn.Module:
    """torch.compile(block), put in the block's place."""
    model = plain()
    model.block = torch.compile(model.block, backend="eager")  # type: ignore[assignment]
    return _run(model, run)


def in_place(run: bool) -> nn.Module:
    """model.compile() and block.compile()."""
    model = plain()
    model.block.compile(backend="eager")
    model.compile(backend="eager")
    return _run(model, run)


class CompilesStep(Looped):
    """The body of the loop, compiled as a function."""

    def __init__(self) -> None:
        super().__init__(Block(1 / STEPS), STEPS)
        self.step: Callable[[Tensor], Tensor] = torch.compile(self.once, backend="aot_eager")

    def once(self, h: Tensor) -> Tensor:
        """A loop's body."""
        return self.block(h)  # type: ignore[no-any-return]

    def forward(self, h: Tensor) -> Tensor:
        for _ in range(self.loops):
            h = self.step(h)
        return h


def step(run: bool) -> nn.Module:
    """A compiled function that calls the block."""
    return _run(CompilesStep().eval(), run)


def hooked(run: bool) -> nn.Module:
    """Compiled when a hook of the user's was on already."""
    model = plain()
    model.block.register_forward_hook(lambda *_: None)
    return _run(torch.compile(model, backend="eager"), run)  # type: ignore[arg-type]


def _run(model: nn.Module, run: bool) -> nn.Module:
    if run:
        with torch.no_grad():
            model(torch.ones(2, 32))
    return model


def replayed() -> nn.Module:
    """A module as torch.cuda.make_graphed_callables leaves it: its forward replays what was captured."""

    def make_graphed_forward(original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def new_fwd(h: Tensor) -> Tensor:
            return original(h)

        return new_fwd

    model = plain()
    model.block.forward = make_graphed_forward(model.block.forward)
    return model
