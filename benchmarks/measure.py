"""What `probe` costs beside a model's own forward pass, and what it holds.

    python benchmarks/measure.py [--rounds 9] [--width 256] [--visits 100]

Every round runs the model alone and under the recorder, one after the other, so that a busy machine slows both; the
table has medians of the ratios of the rounds, with the least and the most. `run` is the forward pass with every visit
recorded, `statistics` the second moments, covariances and cosines made of it, in forward passes; `MiB` what is held.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from residual_theory.console import say
from residual_theory.measure.blocks import layers_of
from residual_theory.measure.moments import stream_statistics
from residual_theory.measure.recorder import Recorder


class Block(nn.Module):
    """h + ε W₂ gelu(W₁ norm(h))."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.scale * self.narrow(nn.functional.gelu(self.wide(self.norm(h))))
        return out


class Model(nn.Module):
    """Visits to blocks in turn, each output taken as `update` has it."""

    def __init__(self, blocks: list[Block], visits: int, update: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks, self.visits, self.update = nn.ModuleList(blocks), visits, update

    def forward(self, h: Tensor) -> Tensor:
        for visit in range(self.visits):
            h = self.update(h, self.blocks[visit % len(self.blocks)](h))
        return h


def models(width: int, visits: int) -> dict[str, Model]:
    """One loop, blocks that share their matrices, and streams that the model makes itself."""
    one = [Block(width, 1 / visits)]
    tied = [Block(width, 1 / visits) for _ in range(visits)]
    for block in tied[1:]:
        block.wide, block.narrow = tied[0].wide, tied[0].narrow
    halted = torch.arange(64)[:, None] % 2 == 0
    return {
        "one block": Model(one, visits, lambda h, out: out),
        "blocks tied by parameters": Model(tied, visits, lambda h, out: out),
        "interpolated outside": Model(one, visits, lambda h, out: h + 0.1 * (out - h)),
        "positions halted": Model(one, visits, lambda h, out: torch.where(halted, h, out)),
        "normed between": Model(one, visits, lambda h, out: nn.functional.layer_norm(out, (width,))),
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def ratios(model: Model, x: Tensor, rounds: int, memory: int) -> tuple[list[float], list[float], float]:
    """The recorder's run and the statistics, each over the forward pass, by round; and the MiB held."""
    runs, more = [], []
    for _ in range(rounds):
        recorder = Recorder(layers_of(model, "blocks"), memory=memory)

        def run(recorder: Recorder = recorder) -> None:
            with recorder.watching():
                recorder.finish(model(x))
            recorder.sharing()

        alone = [seconds(lambda: model(x))]
        watched = seconds(run)
        alone.append(seconds(lambda: model(x)))
        made = seconds(lambda recorder=recorder: stream_statistics(recorder, recorder.sharing().whole or model.visits))
        runs.append(watched / statistics.mean(alone))
        more.append(made / statistics.mean(alone))
    return runs, more, recorder.most_held / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--visits", type=int, default=100)
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(8, 64, chosen.width)
    say(f"{'model':28} {'run / forward':>22} {'statistics / forward':>24} {'MiB':>7}")
    for name, model in models(chosen.width, chosen.visits).items():
        model(x)
        runs, more, held = ratios(model, x, chosen.rounds, chosen.memory * 2**20)
        cells = [f"{statistics.median(each):.2f} ({min(each):.2f} … {max(each):.2f})" for each in (runs, more)]
        say(f"{name:28} {cells[0]:>22} {cells[1]:>24} {held:7.1f}")


if __name__ == "__main__":
    main()
