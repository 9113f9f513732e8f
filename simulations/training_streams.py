"""What training does to the stream of a looped Transformer: updates, norms, alignment (Fig. 3, 4, 7, 9)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from residual_theory import InputError
from residual_theory.claims import (
    FEWEST_SIZES,
    Array,
    Claim,
    Count,
    Evidence,
    Finding,
    FittedSizes,
    Observations,
    Positive,
    Round,
    Seeds,
    Training,
    TrainingParameters,
    Twin,
    change_cosines,
    equivalence,
    paired_exponent,
    positive,
    runs_of,
    visit_alignment,
    within,
)

EARLY = 10  # steps of the paper's initialisation diagnostics


class WatchedParameters(TrainingParameters):
    """Loop counts of one block, what it reads when watched, and the rate of its training."""

    width: Count = 32
    mlp_width: Count = 80
    init_std: Positive = 0.1
    seeds: Seeds = 10
    loops: FittedSizes = (1, 2, 4, 8, 16)
    windows: Count = 4
    learning_rate: Positive = 8e-3
    margin: Positive = 0.25

    def model_post_init(self, _: object) -> None:
        """Raises: InputError unless loop counts rise."""
        if list(self.loops) != sorted(set(self.loops)):
            raise InputError("loops", self.loops, "must rise")

    def runs(
        self,
        kinds: Sequence[tuple[str, bool]],
        loops: Sequence[int],
        current: Round,
        *,
        at: Sequence[int],
        **fields: Any,
    ) -> list[Training]:
        """Watched runs of every kind (ε's rule, tied) and loop count; `fields` change the training."""
        if current.number:
            return []
        base = current.seed % 2**40
        return [
            Training.on(
                current.read(),
                self.model(count, rule, tied=tied),
                self.schedule(self.learning_rate, seed, **fields),
                watched=at,
                windows=self.windows,
            )
            for (rule, tied), count in itertools.product(kinds, loops)
            for seed in range(base, base + self.seeds)
        ]


def watched(observations: Observations, loops: int, **wanted: Any) -> list[xr.Dataset]:
    """The runs of that loop count whose model has the wanted fields, by seed."""
    chosen = runs_of(observations, loops=loops, **wanted)
    return [run.result for run in sorted(chosen, key=lambda run: run.measurement.training.seed)]


class UpdateSizes(WatchedParameters):
    """One step from the initial weights."""

    loops: FittedSizes = (1, 2, 4, 8, 16, 32, 64)
    learning_rate: Positive = 1e-3
    steps: Count = 1
    evaluation_sequences: Count = 1
    margin_factor: Positive = 4.0


def plan_update(sizes: UpdateSizes, current: Round) -> list[Training]:
    """One step at every N under 1/N and 1/√N, from the same weights and on the same batch."""
    kinds = [("1/N", True), ("1/sqrt(N)", True)]
    return sizes.runs(kinds, sizes.loops, current, at=(), warmup=0, decay=0)


def check_update(sizes: UpdateSizes, observations: Observations, rule: str) -> Evidence:
    """The change of the stream at the end of the stack: its exponent at the larger loop counts, its whole range."""
    updates = np.array(
        [
            [float(run.stream_update[-1, -1]) for run in watched(observations, loops, residual_scale=rule)]
            for loops in sizes.loops
        ]
    ).T  # (seed, loops)
    large = [index for index, loops in enumerate(sizes.loops) if loops >= sizes.loops[-FEWEST_SIZES]]
    growth = paired_exponent(
        f"exponent of the one-step update in N at ε = {rule}",
        [sizes.loops[index] for index in large], updates[:, large], predicted=0.0, margin=sizes.margin,
    )  # fmt: skip
    room = math.log(sizes.margin_factor) - np.log(updates.max(1) / updates.min(1))
    return Evidence(
        (growth, positive(f"log({sizes.margin_factor:g}/range of the one-step update over N) at ε = {rule}", room))
    )


class StreamSizes(WatchedParameters):
    """A short training. γ is fitted from two loops on: one is aligned with itself whatever the rule."""

    loops: FittedSizes = (1, 2, 4, 8, 12, 16)
    steps: Count = 20
    evaluation_sequences: Count = 1  # no loss is looked at


TIED, TIED_SQRT, UNTIED = ("1/N", True), ("1/sqrt(N)", True), ("1/sqrt(N)", False)


def plan_streams(sizes: StreamSizes, current: Round) -> list[Training]:
    """Tied blocks under both rules and untied ones under theirs: one set of runs for three claims."""
    return sizes.runs((TIED, TIED_SQRT, UNTIED), sizes.loops, current, at=())


def check_norm(sizes: StreamSizes, observations: Observations, rule: str) -> Evidence:
    """The rms of the stream at the end of the stack after training, against N."""
    norms = [
        [math.sqrt(run.second_moment[-1, -1]) for run in watched(observations, n, residual_scale=rule, tied=True)]
        for n in sizes.loops
    ]
    label = f"exponent of the trained R in N at ε = {rule}"
    return Evidence((paired_exponent(label, sizes.loops, np.transpose(norms), predicted=0.0, margin=sizes.margin),))


def alignment(
    sizes: StreamSizes, observations: Observations, kind: tuple[str, bool], at: int, predicted: float
) -> Finding:
    """γ of κ_N ∝ N^γ at the start (0) or at the end (-1) of training."""
    rule, tied = kind
    counts = [loops for loops in sizes.loops if loops > 1]
    values = np.transpose(
        [
            [
                float(visit_alignment(run.covariance.values, loops)[at])
                for run in watched(observations, loops, residual_scale=rule, tied=tied)
            ]
            for loops in counts
        ]
    )  # (seed, loops)
    name = f"γ {'tied' if tied else 'untied'}, ε = {rule}, {'after training' if at else 'at the start'}"
    return paired_exponent(name, counts, values, predicted=predicted, margin=sizes.margin)


def check_initial_alignment(sizes: StreamSizes, observations: Observations, tied: float) -> Evidence:
    """Before training γ is as stated when tied, and below ½ when untied."""
    return Evidence((alignment(sizes, observations, TIED, 0, tied), untied(sizes, observations, 0, below=True)))


def check_trained_alignment(sizes: StreamSizes, observations: Observations, below: bool) -> Evidence:
    """After training γ is 1 when tied, and when untied on the stated side of ½."""
    return Evidence((alignment(sizes, observations, TIED, -1, 1.0), untied(sizes, observations, -1, below=below)))


def untied(sizes: StreamSizes, observations: Observations, at: int, *, below: bool) -> Finding:
    """γ of untied visits lies below ½, or above."""
    found = alignment(sizes, observations, UNTIED, at, 0.5)
    low, high = (-math.inf, 0.5) if below else (0.5, math.inf)
    return within(found.label, found.value, found.stderr, low, high, samples=found.samples, degrees=found.degrees)


class EarlySizes(WatchedParameters):
    """The paper's diagnostics: ten steps at the beginning of a long warm-up."""

    loops: tuple[Count, ...] = (12,)
    learning_rate: Positive = 1.25e-3
    steps: Count = EARLY
    evaluation_sequences: Count = 1
    warmup: Count = 500
    margin: Positive = 0.05


def plan_early(sizes: EarlySizes, current: Round) -> list[Training]:
    """Tied and untied at the largest N."""
    return sizes.runs([("1/N", True), ("1/N", False)], sizes.loops, current, at=(), warmup=sizes.warmup, decay=0)


def check_early(sizes: EarlySizes, observations: Observations, tied: bool) -> Evidence:
    """The least cosine between two loops is positive if tied, and the mean cosine about zero if not."""
    loops = sizes.loops[-1]
    below = np.tril_indices(loops, -1)

    def cosines(of_tied: bool) -> Array:
        runs = watched(observations, loops, tied=of_tied)
        return np.array([change_cosines(run.covariance.values, loops)[-1][below] for run in runs])  # (seed, pair)

    coherent, independent = cosines(tied), cosines(not tied)
    mean = independent.mean(1)
    return Evidence(
        (
            positive(f"least cosine between two of {loops} loops, {'tied' if tied else 'untied'}", coherent.min(1)),
            equivalence(
                f"mean cosine between two of {loops} loops, {'untied' if tied else 'tied'}",
                float(mean.mean()), float(mean.std(ddof=1) / math.sqrt(len(mean))),
                predicted=0.0, margin=sizes.margin, samples=len(mean),
            ),
        )
    )  # fmt: skip


_PAIRED = "seeds fix weights and data, so that runs at different N are paired; an exponent is fitted to each seed"
_QUARTER = "0.25, half of what separates the rules; the exponents at the ends of the range are stated beside it"

CLAIMS = (
    Claim(
        id="update-size",
        level="model",
        statement="one optimizer step changes the stream at the end of a looped Transformer by an amount that "
        "saturates in N under ε = 1/N, within a factor 4 from N = 1 to 64",
        source="arXiv:2606.18524, Fig. 4, 9",
        paper="Fig. 4",
        regime="L = 1, N = 1 … 64, width 32, 1 step",
        recorded="confirmed",
        reason=_PAIRED,
        margin=_QUARTER,
        law="1/N",
        twin=Twin("so does it under 1/√N", "1/sqrt(N)"),
        parameters=UpdateSizes,
        plan=plan_update,
        check=check_update,
    ),
    Claim(
        id="trained-norm",
        level="model",
        statement="after a short training the norm at the end of a block looped N times is about the same for every N "
        "under ε = 1/N",
        source="arXiv:2606.18524, Fig. 7",
        paper="Fig. 7",
        regime="L = 1, N = 1 … 16, width 32, 20 steps",
        recorded="confirmed",
        reason=_PAIRED,
        margin=_QUARTER,
        law="1/N",
        twin=Twin("so is it under 1/√N", "1/sqrt(N)"),
        parameters=StreamSizes,
        plan=plan_streams,
        check=check_norm,
    ),
    Claim(
        id="visit-alignment",
        drawn_with="trained-norm",
        level="model",
        statement="at initialisation the visits of a Transformer's block are aligned like N^γ with γ = 1 when it is "
        "tied, and hardly (γ < ½) when each visit has a block of its own",
        source="arXiv:2607.13491 (the definition of γ), for the model of arXiv:2606.18524",
        regime="L = 1, N = 2 … 16, width 32",
        recorded="confirmed",
        reason=_PAIRED,
        margin=_QUARTER,
        law=1.0,
        twin=Twin("γ = 0.4 when tied, as measured in toys", 0.4),
        parameters=StreamSizes,
        plan=plan_streams,
        check=check_initial_alignment,
    ),
    Claim(
        id="trained-alignment",
        drawn_with="trained-norm",
        level="model",
        statement="a short training leaves γ = 1 when tied, and makes untied visits aligned as well: γ > ½",
        source="this project",
        regime="L = 1, N = 2 … 16, width 32, 20 steps",
        recorded="confirmed",
        reason=_PAIRED,
        margin=_QUARTER,
        law=False,
        twin=Twin("untied visits stay nearer to independent ones: γ < ½", True),
        parameters=StreamSizes,
        plan=plan_streams,
        check=check_trained_alignment,
    ),
    Claim(
        id="early-cosine",
        level="model",
        statement="after the first ten steps of a long warm-up every two loops of a tied block still push the same "
        "way, and those of untied blocks do not",
        source="arXiv:2606.18524, Fig. 3",
        paper="Fig. 3",
        regime="L = 1, N = 12, width 32, 10 steps",
        recorded="confirmed",
        reason="the least of all cosines of a model, over seeds, is above zero if tied; "
        "the mean one is near zero if not",
        margin="0.05 absolute for the mean cosine of untied blocks: the paper's range is −0.037 to 0.034",
        law=True,
        twin=Twin("untied blocks push the same way, and tied ones do not", False),
        parameters=EarlySizes,
        plan=plan_early,
        check=check_early,
    ),
)
