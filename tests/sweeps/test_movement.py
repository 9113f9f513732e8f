"""Exponents of best rates: their errors against what is known, and tables of losses read back."""

import math
from pathlib import Path

import numpy as np
import pytest

from residual_theory.arrays import Array
from residual_theory.cli import main
from residual_theory.errors import InputError
from residual_theory.statistics.findings import equivalence
from residual_theory.sweeps.movement import Movement, movement, movement_of_means
from residual_theory.sweeps.recorded import read_curves

RATES = 4e-3 * 2 ** np.arange(-4, 4.5, 0.5)
SIZES = (1, 2, 4, 8)
ROOT = Path(__file__).parents[2]


def bowls(power: float, noise: Array, cube: float = 0.0) -> dict[int, Array]:
    """Losses (rate, seed) whose optimum in log rate is power · log(size) + noise (seed, size)."""
    places = np.log(RATES / 4e-3)[:, None]
    moved = {size: places - power * math.log(size) - noise[:, at] for at, size in enumerate(SIZES)}
    return {size: 2 + 0.2 * u**2 + cube * math.log(size) * u**3 for size, u in moved.items()}


def drawn(seeds: int, random: np.random.Generator) -> Movement:
    return movement(RATES, bowls(-0.4, 0.1 * random.standard_normal((seeds, len(SIZES)))))


def test_exponents_over_all_sizes_and_between_neighbours() -> None:
    curves = bowls(0.0, np.zeros((3, 4)))
    curves[8] = bowls(0.5, np.zeros((3, 4)))[8]
    found = movement(RATES, curves)
    assert [one.value for one in found.local] == pytest.approx([0.0, 0.0, 1.5], abs=1e-9)
    assert found.over_all.value == pytest.approx(0.45, abs=1e-9)  # 1.5 · 3/10 · …: the line's weights are ∓3, ∓1
    assert found.over_all.stderr == pytest.approx(0.0, abs=1e-9)
    assert found.seeds == 3


def test_the_statistical_error_is_that_of_the_mean_over_seeds() -> None:
    """Shifts of parabolas average, so that the jackknife must be their standard error: √(Σ weights²) 0.1/√n."""
    random = np.random.default_rng(5)
    weights = np.array([-3, -1, 1, 3]) / 10 / math.log(2)
    due = 0.1 * float(np.linalg.norm(weights)) / math.sqrt(6)
    found = [drawn(6, random).over_all for _ in range(40)]
    assert np.sqrt(np.mean([one.stderr**2 for one in found])) == pytest.approx(due, rel=0.12)
    assert np.std([one.value for one in found]) == pytest.approx(due, rel=0.35)


def test_the_systematic_error_is_the_largest_difference_between_fits() -> None:
    found = movement(RATES, bowls(-0.4, np.zeros((2, 4)), cube=0.01))
    differences = [abs(value - found.over_all.value) for value in found.by_fit.values()]
    assert found.over_all.systematic == max(differences) > 0.03
    assert found.over_all.value == pytest.approx(-0.4, abs=1e-9)  # curves are cubic


def test_verdicts_allow_for_the_systematic_error() -> None:
    settings = {"value": 0.0, "stderr": 0.01, "predicted": 0.0, "margin": 0.25, "samples": 9}
    sure, unsure, none = (equivalence("", **settings, systematic=bound) for bound in (0.0, 0.24, math.nan))  # type: ignore[arg-type]
    assert sure.confirm_p < 1e-6 < 0.1 < unsure.confirm_p < 0.3
    shifted = equivalence("", **(settings | {"value": 0.24}))  # type: ignore[arg-type]
    assert unsure.confirm_p == pytest.approx(shifted.confirm_p)
    low, high = unsure.interval(0.95)
    assert (low + high, high - 0.24) == pytest.approx((0.0, sure.interval(0.95)[1]))
    assert (none.confirm_p, none.refute_p) == (1.0, 1.0)
    far = settings | {"value": 0.3}
    assert equivalence("", **far).refute_p < 0.01 < 0.9 < equivalence("", **far, systematic=0.1).refute_p  # type: ignore[arg-type]


def test_an_optimum_at_the_edge_or_for_all_but_one_seed_decides_nothing() -> None:
    assert math.isnan(movement(RATES, bowls(3.0, np.zeros((3, 4)))).over_all.value)
    curves = bowls(0.0, np.zeros((3, 4)))
    curves[8][:] = np.linspace(3, 2, len(RATES))[:, None]
    curves[8][:, 0] = 5 * bowls(0.0, np.zeros((3, 4)))[8][:, 0]  # without it the curve falls to the end
    found = movement(RATES, curves).over_all
    assert math.isfinite(found.value)
    assert math.isnan(found.stderr)


def test_of_means_the_error_is_that_of_independent_means() -> None:
    random, error = np.random.default_rng(2), 0.004
    curves = {size: losses.mean(1) for size, losses in bowls(-0.4, np.zeros((2, 4))).items()}
    errors = {size: np.full(len(RATES), error) for size in SIZES}
    found = movement_of_means(RATES, curves, errors).over_all
    values = []
    for _ in range(60):
        moved = {size: (curve + error * random.standard_normal(len(RATES)))[:, None] for size, curve in curves.items()}
        values.append(movement(RATES, moved).over_all.value)
    assert found.value == pytest.approx(-0.4)
    assert np.std(values) == pytest.approx(found.stderr, rel=0.3)


@pytest.mark.parametrize(
    ("table", "fits", "least"),
    [  # what earlier parabolas gave, and how far the other fits lie from them
        ("rate-transfer.csv", {"ε = 1": (-0.29, 0.15), "ε = 1/√N": (-0.33, 0.0)}, 4),
        ("layer-transfer.csv", {"ε = 1/√L, rate η/√L in blocks": (0.51, 0.06), "ε = 1/√L, rate η": (-0.02, 0.1)}, 3),
    ],
)
def test_published_exponents_by_parabolas_were_off_by_more_than_their_errors(
    table: str, fits: dict[str, tuple[float, float]], least: int
) -> None:
    panels = read_curves(ROOT / "docs" / table)
    assert len(panels) == least
    for title, (published, differ) in fits.items():
        found = panels[title].movement()
        assert found.by_fit["parabola, ±2 octaves"] == pytest.approx(published, abs=0.006)
        assert found.over_all.systematic > differ


def test_a_table_with_seeds_gives_what_its_losses_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = bowls(-0.4, 0.1 * np.random.default_rng(0).standard_normal((3, 4)), cube=0.005)
    lines = ["panel,loops,learning_rate,seed,validation_loss"]
    for size, losses in curves.items():
        panel = "ε = 1/N" if size > 1 else "any"
        lines += [
            f"{panel},{size},{rate!r},{seed},{float(loss)!r}"
            for rate, row in zip(RATES.tolist(), losses, strict=True)
            for seed, loss in enumerate(row)
        ]
    file = tmp_path / "losses.csv"
    file.write_text("\n".join(lines))
    (found,) = read_curves(file).values()
    expected = movement(RATES, curves)
    assert found.movement().over_all == expected.over_all
    assert main(["best-rates", str(file), "--markdown"]) == 0
    assert f"| ε = 1/N | {expected.over_all} |" in capsys.readouterr().out
    for spoilt in (
        "",
        "a,b\n1,2",
        "\n".join(lines).replace("learning_rate", "rate"),
        "\n".join([*lines[:40], lines[-1]]),
    ):
        file.write_text(spoilt)
        assert main(["best-rates", str(file)]) == 2
        assert capsys.readouterr().err.startswith("error: file = ")


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"^curves = .*two sizes"):
        movement(RATES, {1: np.zeros((len(RATES), 2))})
    with pytest.raises(InputError, match=r"^curves = .*\(rate, seed\)"):
        movement(RATES, {1: np.zeros((len(RATES), 2)), 2: np.zeros((len(RATES), 3))})
