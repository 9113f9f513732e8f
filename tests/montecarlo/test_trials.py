"""Trials: the same bits whoever draws them, extended by more, independent of each other."""

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from residual_theory import parallel
from residual_theory.errors import InputError, ResidualTheoryError
from residual_theory.montecarlo import machine, randomness, trials
from residual_theory.montecarlo.estimate import pool
from residual_theory.montecarlo.machine import halved_when_full, trials_in_block
from residual_theory.montecarlo.plan import Plan, make_plan
from residual_theory.montecarlo.simulate import simulate
from residual_theory.montecarlo.trials import draw_trials
from residual_theory.parallel import each
from residual_theory.stack import Stack

NAMES = ("second_moment", "log_second_moment", "covariance", "increment_cosine")
METHODS = ("matrix-free", "dense")
SOME = Stack(loops=3, unique_layers=2, residual_scale=0.7, weight_variance=1.3, initial_variance=0.6)


# Trials, blocks and threads


def bits(drawn: xr.Dataset) -> list[bytes]:
    return [drawn[name].values.tobytes() for name in sorted(map(str, drawn.data_vars))]


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are divided among threads at 16 entries already."""
    monkeypatch.setattr(randomness, "PIECE", 16)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("samples", [1, 23, 150])
def test_threads_and_memory_change_no_bit(method: str, samples: int, dtype: str) -> None:
    settings: dict[str, Any] = {"width": 77, "samples": samples, "seed": 7, "method": method, "dtype": dtype}
    settings["with_gradients"] = True
    whole = simulate(SOME, **settings)
    torch.set_num_threads(3)
    try:
        threaded = simulate(SOME, **settings)
        tight = simulate(SOME, **settings, memory_budget=least_budget(SOME, **settings))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert bits(threaded) == bits(whole)
    assert bits(tight) == bits(whole)
    assert threaded.attrs == whole.attrs


def test_blocks_go_over_processes_where_much_is_left_and_no_bit_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"width": 65, "samples": 500, "seed": 7}
    own_stack = Stack(loops=3, residual_scale=0.7, activation=lambda x: np.maximum(x, 0))
    whole = simulate(SOME, **settings)
    begun: list[int] = []
    start = parallel.processes

    def watched(count: int, begin: Callable[[], None]) -> Any:
        begun.append(count)
        return start(count, begin)

    monkeypatch.setattr(parallel, "processes", watched)
    torch.set_num_threads(2)
    try:
        threaded = simulate(SOME, **settings)
        assert not begun
        for name in ("_START", "_MOVE"):
            monkeypatch.setattr(parallel, name, 0.0)
        shared = simulate(SOME, **settings)
        assert begun == [2]
        own = simulate(own_stack, **settings)  # stays where its function is known
        assert begun == [2]
        with (
            pytest.raises(ResidualTheoryError, match="a process was ended from outside"),
            machine.workers(64, 64, torch.device("cpu"), movable=True) as (mapped, _),
        ):
            list(mapped(_end_in_a_process, range(64)))
        assert begun == [2, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert bits(threaded) == bits(whole)
    assert bits(shared) == bits(whole)
    assert bits(own) == bits(simulate(own_stack, **settings))


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("inputs", [None, 2])
def test_parts_of_a_block_have_the_bits_of_the_whole(
    activation: Any, inputs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(loops=4, unique_layers=2, residual_scale=0.3, activation=activation)
    settings: dict[str, Any] = {"samples": 20, "seed": 7, "inputs": inputs, "with_gradients": True}
    sizes: list[list[int]] = []
    part = trials._part

    def watched(plan: Plan, drawn: Sequence[int], rows: randomness.Rows) -> Any:
        sizes[-1].append(len(drawn))
        return part(plan, drawn, rows)

    def drawn(width: int) -> list[bytes]:
        sizes.append([])
        return bits(simulate(stack, width=width, **settings))

    monkeypatch.setattr(trials, "_part", watched)
    monkeypatch.setattr(trials, "_STORED", 2**40)
    whole, odd = drawn(48), drawn(50)
    monkeypatch.setattr(trials, "_STORED", 0)
    assert drawn(48) == whole
    assert drawn(50) == odd
    assert sizes == [[64], [64], [2] * 32, [64]]  # at width 50 two arrays would end in the midst of a vector register


def test_parts_whose_trials_would_have_decided_together_are_drawn_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(loops=8, residual_scale="1/N")
    settings: dict[str, Any] = {"width": 128, "samples": 16, "seed": 3, "tolerance": 0.06}
    whole = bits(simulate(stack, **settings))
    monkeypatch.setattr(trials, "_size_of_part", lambda *_: 2)
    assert bits(simulate(stack, **settings)) == whole
    part = trials._part
    monkeypatch.setattr(trials, "_part", lambda *arguments: (part(*arguments)[0], []))  # what they decided, forgotten
    assert bits(simulate(stack, **settings)) != whole


def _end_in_a_process(block: int) -> int:
    if threading.current_thread() is threading.main_thread():  # of the caller's process, threads do the work
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_its_own_gives_the_same_bits(method: str) -> None:
    there = next(iter(each(partial(_elsewhere, method), [8], jobs=2)))
    assert there == bits(simulate(SOME, width=65, samples=8, seed=3, method=method))


def _elsewhere(method: str, samples: int) -> list[bytes]:
    return bits(simulate(SOME, width=65, samples=samples, seed=3, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_is_the_same_in_whichever_run_it_is_drawn(method: str) -> None:
    arguments: dict[str, Any] = dict.fromkeys(("memory_budget", "inputs", "control", "tolerance"))
    plan = make_plan(
        SOME, 400, seed=5, method=method, device="cpu", dtype="float64", with_gradients=False, antithetic=False,
        **arguments,
    )  # fmt: skip
    size = trials_in_block(plan.weights_of_trial, plan.one_trial, plan.device)
    assert size > 1
    whole = np.concatenate([block["second_moment"] for block in draw_trials(plan, range(3 * size))])
    assert len(np.unique(whole)) == whole.size
    for part in (range(1), range(size - 1, 2 * size + 1), range(2 * size, 3 * size)):
        again = np.concatenate([block["second_moment"] for block in draw_trials(plan, part)])
        assert again.tobytes() == whole[part.start : part.stop].tobytes()


def least_budget(stack: Stack, **settings: Any) -> int:
    with pytest.raises(InputError) as caught:
        simulate(stack, **settings, memory_budget=1)
    assert caught.value.argument == "memory_budget"
    return int("".join(filter(str.isdigit, caught.value.mend)))


def test_a_budget_must_hold_what_is_drawn_at_once() -> None:
    least = least_budget(SOME, width=64, samples=10)
    simulate(SOME, width=64, samples=10, memory_budget=least)
    with pytest.raises(InputError, match="memory_budget"):
        simulate(SOME, width=64, samples=10, memory_budget=least - 1)


def test_a_full_device_halves_the_block_and_goes_on() -> None:
    tried: list[int] = []

    def work(trials: Sequence[int]) -> list[int]:
        tried.append(len(trials))
        if len(trials) > 3:
            raise torch.cuda.OutOfMemoryError("full")
        return [trial * trial for trial in trials]

    found = halved_when_full(work, range(8), lambda parts: [square for part in parts for square in part])
    assert found == [trial * trial for trial in range(8)]
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        halved_when_full(lambda trials: work([0, 0, 0, 0]), range(2), lambda parts: parts[0])


def test_more_trials_extend_a_run() -> None:
    whole = simulate(SOME, width=12, samples=50, seed=8)
    parts = [
        simulate(SOME, width=12, samples=n, first_trial=first, seed=8) for first, n in ((0, 30), (30, 2), (32, 18))
    ]
    xr.testing.assert_allclose(pool(parts), whole, rtol=1e-10, atol=1e-13)
    xr.testing.assert_allclose(
        simulate(SOME, width=12, samples=50, seed=8, earlier=parts[0]), whole, rtol=1e-10, atol=1e-13
    )
    assert int(pool(parts).samples) == 50
    assert parts[1].attrs["first_trial"] == 30
    again = simulate(SOME, width=12, samples=30, seed=8)
    assert again.identical(parts[0])


def test_one_more_trial_extends_a_run() -> None:
    first = simulate(SOME, width=12, samples=30, seed=8)
    whole = simulate(SOME, width=12, samples=31, seed=8)
    xr.testing.assert_allclose(
        simulate(SOME, width=12, samples=31, seed=8, earlier=first), whole, rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_trials_and_pieces_beyond_32_bits_have_numbers_of_their_own(dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")

    def first(trial: int, size: int) -> float:
        out = torch.empty(1, size, dtype=dtype)
        randomness.Normals(0, (size,), [trial], randomness.Rows(cpu), cpu).fill(out)
        return float(out[0, -1])

    size = randomness.PIECE + 1
    assert len({first(trial, size) for trial in (0, 1, 2**32, 2**32 + 1, 2**62)}) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [3, 100, randomness.PIECE + 5])
def test_numbers_are_standard_normal(dtype: torch.dtype, size: int) -> None:
    """Four moments and the products of neighbours, within five standard errors of each."""
    cpu = torch.device("cpu")
    out = torch.empty(min(2000, 10**6 // size), size, dtype=dtype)
    randomness.Normals(3, (size,), range(len(out)), randomness.Rows(cpu), cpu).fill(out)
    x = out.double()
    bound = 5 / x.numel() ** 0.5
    for power, moment, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(float((x**power).mean()) - moment) < deviation * bound
    assert abs(float((x[:, 1:] * x[:, :-1]).mean())) < 1.3 * bound
    assert abs(float((x[1:] * x[:-1]).mean())) < 1.3 * bound


def test_no_more_blocks_are_begun_than_may_be_held() -> None:
    begun: list[int] = []
    taken = 0
    torch.set_num_threads(2)
    try:
        with machine.workers(100, 3, torch.device("cpu")) as (mapped, _):
            for _ in mapped(begun.append, range(100)):
                taken += 1
                assert len(begun) - taken <= 3
    finally:
        torch.set_num_threads(1)
    assert begun == sorted(begun)
    assert taken == 100


def test_standard_errors_are_those_of_the_single_trials() -> None:
    trials = [simulate(SOME, width=12, samples=1, first_trial=trial, seed=9) for trial in range(5, 17)]
    together = simulate(SOME, width=12, samples=12, first_trial=5, seed=9)
    for name in NAMES:
        values = np.array([trial[name].values for trial in trials])
        np.testing.assert_allclose(together[name], values.mean(axis=0), rtol=1e-12, atol=1e-14)
        expected = values.std(axis=0, ddof=1) / math.sqrt(12)
        np.testing.assert_allclose(together[f"{name}_stderr"], expected, rtol=1e-9, atol=1e-14)
        assert (expected > 0).any()


def test_the_largest_trial_is_that_of_all_blocks() -> None:
    parts = [simulate(SOME, width=12, samples=64, first_trial=first) for first in (0, 64, 128)]
    largest = [part.attrs["largest_second_moment"] for part in parts]
    assert max(largest) > largest[-1]
    assert simulate(SOME, width=12, samples=192).attrs["largest_second_moment"] == max(largest)


@pytest.mark.parametrize("method", ["matrix-free", "dense"])
def test_what_is_odd_in_the_weights_cancels_in_antithetic_pairs(method: str) -> None:
    stack = Stack(loops=1, residual_scale=0.7, activation="linear")
    paired = simulate(stack, width=12, samples=5, method=method, antithetic=True)
    np.testing.assert_allclose(paired.covariance[0, 1], paired.second_moment[0], rtol=1e-12)
    single = simulate(stack, width=12, samples=5, method=method)
    assert abs(single.covariance[0, 1] - single.second_moment[0]) > 1e-3


def test_a_stack_controlled_by_itself_is_known_exactly_from_either_side() -> None:
    stack = Stack(loops=2, residual_scale=0.5, activation="linear")
    exact = 1 + 4 * 0.5**2 + 0.5**4 + 2 * 0.5**2 / 12 + 2 * 0.5**4 / 12**2
    found = simulate(stack, width=12, samples=40, control=(stack, exact))
    assert float(found.second_moment[-1]) == pytest.approx(exact, rel=1e-9)
    for wrong in (exact - 5, exact + 5):
        with pytest.raises(InputError, match="is not its stack's mean"):
            simulate(stack, width=12, samples=40, control=(stack, wrong))


def test_one_sample_has_no_standard_error() -> None:
    drawn = simulate(SOME, width=12, samples=1)
    for name in NAMES:
        assert np.isfinite(drawn[name]).all()
        assert np.isnan(drawn[f"{name}_stderr"]).all()
    assert int(drawn.samples) == 1


# Randomness


def test_the_same_seed_gives_the_same_numbers_and_another_others() -> None:
    drawn = simulate(SOME, width=12, samples=6, seed=10)
    assert drawn.identical(simulate(SOME, width=12, samples=6, seed=10))
    others = [
        simulate(SOME, width=12, samples=6, seed=11),
        simulate(SOME, width=12, samples=6, seed=10, first_trial=6),
        simulate(SOME, width=13, samples=6, seed=10),
        simulate(SOME, width=12, samples=6, seed=2**63 - 1),
    ]
    starts = [float(other.second_moment[0]) for other in [drawn, *others]]
    assert len(set(starts)) == 5


def test_trials_are_independent_of_each_other() -> None:
    starts = [float(simulate(SOME, width=1, samples=1, first_trial=t).second_moment[0]) for t in range(40)]
    assert len(set(starts)) == 40


def test_the_global_random_states_are_left_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    simulate(SOME, width=12, samples=6)
    assert torch.equal(torch.get_rng_state(), torch_before)
    for before, after in zip(numpy_before, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)
