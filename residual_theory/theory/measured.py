"""What was measured of a learning rate carried over to more layers: a table in docs/, and what it says."""

import csv
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from residual_theory.loading import PACKAGE

SETTING = "N = 1, width 64, 150 steps of AdamW"  # of the claim lr-transfer-layers, whose trainings the table is of
TABLE = "docs/layer-transfer.csv"
_ONE, _WITH, _WITHOUT = (
    "any",
    "ε = 1/√L, rate η/√L in blocks",
    "ε = 1/√L, rate η",
)  # panels; rules coincide at one layer

Losses = Mapping[float, tuple[float, float]]  # mean validation loss and its standard error, nats a byte, by base rate


@dataclass(frozen=True)
class MeasuredTransfer:
    """What the factor L^-1/2 on the blocks' rate cost, the base rate being the best of one layer.

    layers: L. learning_rate: the factor. cost, stderr: validation loss with it less that without, nats a byte; the
      errors of the two means are taken as independent, though seeds are paired. seeds: of each mean. setting, table: of
      the trainings.
    """

    layers: int
    learning_rate: float
    cost: float
    stderr: float
    seeds: int
    setting: str = SETTING
    table: str = TABLE

    def __str__(self) -> str:
        return (
            f"L = {self.layers} at the rate best at L = 1: blocks × {self.learning_rate:.3g} had a loss "
            f"{self.cost:+.3f} ± {self.stderr:.3f} nats a byte against that of × 1 "
            f"({self.setting}, {self.seeds} seeds; {self.table})"
        )


@functools.cache
def transfers() -> tuple[MeasuredTransfer, ...]:
    """The measurements, by L.

    >>> [one.layers for one in transfers()]
    [2, 4, 8]
    """
    bundled = PACKAGE / "_catalog" / TABLE
    path = bundled if bundled.is_file() else PACKAGE.parent / TABLE
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curves: dict[tuple[str, int], dict[float, tuple[float, float]]] = {}
    for row in rows:
        loss = float(row["validation_loss"] or "nan"), float(row["stderr"] or "nan")
        curves.setdefault((row["panel"], int(row["unique_layers"])), {})[float(row["learning_rate"])] = loss
    rate, seeds = _best(curves[_ONE, 1]), min(int(row["seeds"]) for row in rows)
    found = []
    for layers in sorted(layers for panel, layers in curves if panel == _WITH):
        (with_it, error), (without, other) = curves[_WITH, layers][rate], curves[_WITHOUT, layers][rate]
        found.append(MeasuredTransfer(layers, layers**-0.5, with_it - without, math.hypot(error, other), seeds))
    return tuple(found)


def _best(curve: Losses) -> float:
    """The rate of least mean loss among those where no seed diverged."""
    finite = {rate: loss for rate, (loss, _) in curve.items() if math.isfinite(loss)}
    return min(finite, key=finite.__getitem__)
