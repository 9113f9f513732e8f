"""How a model is run while it is watched: uncompiled, without dropout where asked, and left as it was."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from residual_theory.errors import InputError


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Run the model uncompiled, as compiled code skips hooks, and leave the random state as it was.

    Raises: InputError where that cannot be done: parts that replay a captured CUDA graph, or compiled ones before
      torch 2.6.
    """
    for name, part in model.named_modules():
        if "make_graphed" in getattr(
            getattr(part, "forward", None), "__qualname__", ""
        ):  # replays kernels and calls no module
            named = name or type(model).__name__
            raise InputError("model", named, "replays a CUDA graph, which calls no hooks; give it before the capture")
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
        set_stance = vars(torch.compiler).get("set_stance")  # from torch 2.6 on
        if set_stance is not None:
            stack.enter_context(set_stance("force_eager"))
        elif any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) for part in model.modules()):
            raise InputError("model", type(model).__name__, "has compiled parts; give it before compiling them")
        yield


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The model in one mode without dropout, its modes and buffers restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers: list[tuple[Tensor, Tensor]] = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        model.train(mode == "train")
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) or _drops(module):
                module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _drops(module: nn.Module) -> bool:
    """Whether a module is a dropout of somebody's own: named so, and without parameters."""
    name = type(module).__name__.lower()
    return ("drop" in name or "stochasticdepth" in name) and not any(True for _ in module.parameters())


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({each.device for each in (*model.parameters(), *model.buffers()) if each.device.type == "cuda"})
