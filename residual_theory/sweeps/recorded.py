"""Losses of a sweep read back from a table, and how their best rate moves with size."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.statistics.optima import CENTRAL, FITS
from residual_theory.sweeps.movement import Movement, movement, movement_of_means

ANY = "any"  # the panel of the size at which all rules coincide


class Curves(NamedTuple):
    """One panel of a table: losses (rate, seed) by size, or, where seeds were not kept, means and errors (rate,)."""

    rates: Array
    losses: dict[int, Array]
    errors: dict[int, Array] | None

    def movement(self) -> Movement:
        """How the best rate moves."""
        if self.errors is None:
            return movement(self.rates, self.losses)
        return movement_of_means(self.rates, self.losses, self.errors)


def read_curves(file: Path) -> dict[str, Curves]:
    """The panels of a table of losses, by title.

    Arguments: file: CSV with the columns panel, a size, learning_rate, and validation_loss, one row for each seed,
      told apart by a column `seed`, or one row for all with a column `stderr`. Rows of the panel "any" belong to all;
      a rate that some size or seed has no row for is not used, and an empty loss is a run that diverged.
    Raises: InputError for a file that is not such a table, or where no rate is left.
    """
    try:
        table = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        size = list(table[0])[1]
        places = [(row["panel"], int(row[size]), float(row["learning_rate"]), row.get("seed", "")) for row in table]
        values = [(float(row["validation_loss"] or "nan"), float(row.get("stderr") or "nan")) for row in table]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError("file", str(file), f"is no table of losses ({' '.join(str(error).split())})") from None
    found = dict(zip(places, values, strict=True))
    by_seed = "seed" in table[0]
    return {
        panel: _panel(file, {place[1:]: of for place, of in found.items() if place[0] in (panel, ANY)}, by_seed=by_seed)
        for panel in dict.fromkeys(place[0] for place in places if place[0] != ANY)
    }


def _panel(file: Path, found: Mapping[tuple[int, float, str], tuple[float, float]], *, by_seed: bool) -> Curves:
    sizes, rates = sorted({size for size, _, _ in found}), sorted({rate for _, rate, _ in found})
    seeds = sorted({seed for _, _, seed in found})
    rates = [rate for rate in rates if all((size, rate, seed) in found for size in sizes for seed in seeds)]
    if not rates:
        raise InputError("file", str(file), "has no rate at which every size and seed has a loss")
    values = {size: np.array([[found[size, rate, seed] for seed in seeds] for rate in rates]) for size in sizes}
    losses = {size: of[..., 0] if by_seed else of[:, 0, 0] for size, of in values.items()}
    return Curves(np.array(rates), losses, None if by_seed else {size: of[:, 0, 1] for size, of in values.items()})


def rows(panels: Mapping[str, Curves]) -> list[dict[str, str]]:
    """One row a panel: the exponent with its errors, by each fit, and between neighbouring sizes."""
    found = []
    for title, curves in panels.items():
        moved = curves.movement()
        row = {"": title, "over all sizes": str(moved.over_all)}
        row |= {fit: _number(moved.by_fit[fit]) for fit in FITS if fit != CENTRAL}
        found.append(row | {"between neighbours": "; ".join(map(str, moved.local))})
    return found


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
