"""The best rate of a sweep and the loss given up at another, on curves whose answers are known."""

import math

import numpy as np
import pytest

from residual_theory.arrays import Array
from residual_theory.errors import InputError
from residual_theory.sweeps.transfer import best_rate, regret

RATES = np.log(np.array([5, 7.5, 10, 12.5, 15, 20, 30, 40]) * 1e-4)
OPTIMUM = math.log(1.3e-3)


def parabola(curvature: float = 0.1, optimum: float = OPTIMUM) -> Array:
    return 3 + curvature * (RATES - optimum) ** 2


def draws(curve: Array, seeds: int, noise: float, rng: np.random.Generator) -> Array:
    """Losses (rate, seed): what a seed adds to all its runs, and what each run adds."""
    return curve[:, None] + rng.normal(0, 0.05, (1, seeds)) + rng.normal(0, noise, (len(curve), seeds))


def test_the_optimum_of_a_parabola_is_found_exactly_whatever_seeds_add() -> None:
    rng = np.random.default_rng(1)
    found = best_rate(RATES, draws(parabola(), 3, 0.0, rng))
    assert found.log_rate == pytest.approx(OPTIMUM, abs=1e-10)
    assert found.low == pytest.approx(OPTIMUM, abs=1e-6)
    assert found.high == pytest.approx(OPTIMUM, abs=1e-6)
    assert (found.index, found.edge) == (3, "")


@pytest.mark.parametrize(("noise", "seeds"), [(0.002, 3), (0.005, 5), (0.01, 4)])
def test_intervals_cover_as_often_as_they_say(noise: float, seeds: int) -> None:
    """Where the curve is a parabola, nothing is lost to misfit, and what the interval allows for that is extra."""
    rng = np.random.default_rng(seeds)
    trials, at = 600, 5
    given_up = float(parabola()[at] - parabola().min())
    optimum = noise_alone = lost = 0
    for _ in range(trials):
        losses = draws(parabola(), seeds, noise, rng)
        found, price = best_rate(RATES, losses, confidence=0.9), regret(losses, at, confidence=0.9)
        optimum += found.low <= OPTIMUM <= found.high
        noise_alone += found.low + found.systematic <= OPTIMUM <= found.high - found.systematic
        lost += price.low <= given_up <= price.high
    error = 4 * math.sqrt(0.9 * 0.1 / trials)
    assert noise_alone / trials == pytest.approx(0.9, abs=error + 0.02)  # the window moves with the draw
    assert optimum >= noise_alone
    assert lost / trials > 0.9 - error


def test_where_nothing_is_given_up_the_regret_seldom_says_so() -> None:
    rng = np.random.default_rng(7)
    flat = np.full(len(RATES), 3.0)
    trials = 1500
    wrong = sum(regret(draws(flat, 4, 0.01, rng), 2).low > 0 for _ in range(trials)) / trials
    assert wrong < 0.025 + 4 * math.sqrt(0.025 / trials)
    lost = regret(draws(flat + 0.1 * (np.arange(len(flat)) == 2), 4, 0.002, rng), 2)
    assert 0.05 < lost.low < 0.1 < lost.high < 0.12


def test_a_rate_that_lost_a_seed_is_not_used() -> None:
    losses = np.stack([parabola(), parabola() + 0.1], axis=1)
    losses[6:, 1] = np.nan
    kept = best_rate(RATES[:6], losses[:6])
    assert best_rate(RATES, losses) == kept
    assert regret(losses, 6).value == math.inf
    assert math.isnan(regret(losses, 6).high)
    assert regret(losses, 5) == regret(losses[:6], 5)
    losses[:, 0] = np.nan
    none = best_rate(RATES, losses)
    assert (none.index, none.edge) == (-1, "both")
    assert math.isnan(none.log_rate)


@pytest.mark.parametrize(("optimum", "edge", "index"), [(RATES[0] - 0.5, "low", 0), (RATES[-1] + 0.5, "high", 7)])
def test_a_minimum_at_the_edge_is_flagged(optimum: float, edge: str, index: int) -> None:
    found = best_rate(RATES, parabola(optimum=optimum)[:, None] + np.zeros((1, 3)))
    assert (found.edge, found.index) == (edge, index)
    assert found.log_rate == RATES[index]


def test_stability_ends_the_grid_too() -> None:
    losses = parabola(optimum=RATES[5])[:, None] + np.zeros((1, 2))
    losses[4:] = np.nan
    assert best_rate(RATES, losses).edge == "high"


def test_what_cannot_be_told_is_unbounded() -> None:
    single = best_rate(RATES, parabola()[:, None])
    assert single.log_rate == pytest.approx(OPTIMUM)
    assert (single.low, single.high) == (-math.inf, math.inf)
    rng = np.random.default_rng(0)
    flat = best_rate(RATES, draws(np.full(len(RATES), 3.0), 3, 0.1, rng))
    assert (flat.low, flat.high) == (-math.inf, math.inf)
    assert regret(parabola()[:, None], 0).high == math.inf


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: best_rate(RATES[:3], parabola()[:, None]), "log_rates"),
        (lambda: best_rate(RATES[::-1], parabola()[:, None]), "log_rates"),
        (lambda: best_rate(RATES, parabola()), "losses"),
        (lambda: best_rate(RATES, parabola()[:, None], confidence=1.0), "confidence"),
        (lambda: regret(parabola()[:, None], 8), "at"),
        (lambda: regret(np.empty((0, 3)), 0), "losses"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=rf"^{named} = "):
        call()
