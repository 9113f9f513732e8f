"""Assertions for the tests of other projects: claims hold, quantities grow as they should, residual scales are applied.

Bad arguments raise InputError; what is wrong, or stays undecided, raises AssertionError with the numbers.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from residual_theory.applied.proportional import verify_proportional
from residual_theory.applied.verify import verify_applied
from residual_theory.claims.claim import Claim
from residual_theory.claims.families import budgets_of_files
from residual_theory.claims.files import ClaimsFiles, lack
from residual_theory.claims.presets import Preset, RunParameters, load_preset
from residual_theory.claims.session import Selection, Session
from residual_theory.errors import InputError
from residual_theory.loading import find_root
from residual_theory.measurements.measurement import Context
from residual_theory.statistics.exponents import growth_exponent


def assert_confirmed(
    claims: Claim | Sequence[Claim] | Path | str,
    *,
    preset: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    results: Path | str | None = None,
    seed: int = 0,
    alpha: float = 0.01,
    text: Path | None = None,
    jobs: int = 1,
) -> None:
    """Measure claims and fail with the evidence unless each is confirmed and its false twin refuted.

    Arguments:
      claims: one, several, or the path of a claims file or folder.
      preset: a TOML file, or the name of a bundled preset, for sizes, seed and alpha; instead of `seed` and `alpha`.
      parameters: sizes by name, the same for every claim, over those of the preset or the claims' defaults.
      results: a folder that keeps the measurements, to be reused; a temporary one unless given.
      alpha: the chance that any verdict is wrong, at most: on the claims given, or on those of one file.
      text: what to read instead of Python's own library.
    Raises: AssertionError with value, interval, prediction, margin and samples; InputError for bad arguments.
    """
    __tracebackhide__ = True
    given, files = _find_claims(claims)
    run_parameters, sizes = RunParameters(seed=seed, alpha=alpha), {}
    if preset is not None:
        bundled = not str(preset).endswith(".toml")
        loaded = load_preset(find_root(None), str(preset), given, shared=bundled)
        run_parameters, sizes = loaded.run, dict(loaded.parameters)
    for claim in given:
        usual = sizes[claim.key].model_dump() if claim.key in sizes else {}
        sizes[claim.key] = claim.parameters(**usual | dict(parameters or {}))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if results is None else results)
        selection = Selection(
            Preset("test", run_parameters, sizes), tuple(given), folder, Context(find_root(None), text),
            files.files, tuple(files.refused), budgets_of_files(files.files),
        )  # fmt: skip
        session = Session(selection, jobs=jobs)
        outcomes = session.verify()
    wrong = [f"refused: {refusal}" for refusal in session.refused]
    wrong += [str(o) for o in outcomes if (o.verdict, o.twin_verdict) != ("confirmed", "refuted")]
    if wrong:
        raise AssertionError("\n".join(wrong))


def _find_claims(claims: object) -> tuple[list[Claim], ClaimsFiles]:
    if isinstance(claims, str | Path):
        files = ClaimsFiles.read([Path(claims)])
        return files.claims, files
    found = [claims] if isinstance(claims, Claim) else list(claims) if isinstance(claims, Sequence) else []
    if not found:
        raise InputError("claims", claims, "give a Claim, several, or the path of a claims file")
    for claim in found:
        if reason := lack(claim):
            raise InputError("claims", getattr(claim, "id", claim), reason)
    if len({claim.key for claim in found}) < len(found):
        raise InputError("claims", [claim.key for claim in found], "give each claim once")
    return found, ClaimsFiles()


def assert_growth_exponent(
    sizes: Sequence[float],
    values: ArrayLike,
    stderrs: ArrayLike,
    predicted: float,
    margin: float,
    *,
    alpha: float = 0.01,
) -> None:
    """Fail unless a quantity surely grows as size^p with p = predicted ± margin, at every size of the range.

    Arguments: at least five distinct sizes, and a value and its standard error at each, as of
      `residual_theory.statistics.exponents.growth_exponent`; alpha is the chance of a wrong verdict.
    Raises: AssertionError with the exponent, its interval and the prediction; InputError for bad arguments.
    """
    __tracebackhide__ = True
    if not (_is_number(predicted) and math.isfinite(predicted)):
        raise InputError("predicted", predicted, "must be a finite number")
    if not (_is_number(margin) and 0 < margin < math.inf):
        raise InputError("margin", margin, "must be a finite number above 0")
    if not (_is_number(alpha) and 0 < alpha < 1):
        raise InputError("alpha", alpha, "must lie between 0 and 1")
    for name, given in (("values", values), ("stderrs", stderrs)):
        array = np.asarray(given)
        if array.dtype.kind not in "iuf" or not (np.isfinite(array) & (array > 0)).all():
            raise InputError(name, given, "must be finite and above 0, to have logarithms and weights")
    found = growth_exponent("growth exponent", sizes, values, stderrs, predicted=predicted, margin=margin)
    if found.confirm_p <= alpha:
        return
    low, high = found.interval(1 - alpha)
    word = "inconclusive, so draw more samples, take more sizes or widen the margin"
    raise AssertionError(
        f"the {found.label} over {found.samples} sizes is {found.value:.4g} [{low:.4g}, {high:.4g}], "
        f"predicted {predicted:.4g} ± {margin:.2g}: {'refuted' if found.refute_p <= alpha else word}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def assert_scale_applied(
    build: Callable[[float], nn.Module],
    block: nn.Module | str | Sequence[nn.Module | str],
    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    scale: float,
    *,
    curvature: float = 0.0,
    branches: str | Sequence[str] | None = None,
) -> None:
    """Fail unless the branches' contribution to the residual stream is proportional to the residual scale.

    At every visit h ← h + ε f(h) to the blocks, half of ε has to add half as much to the same h. A scale that never
    reaches the branch adds as much as before, one that is applied twice a quarter. A constant factor beside ε, which
    belongs to f, is seen only if `branches` are named; `residual_theory.applied.verify.verify_applied` looks at one
    model and needs no `build`.

    Arguments:
      build: makes the model at a given scale, with the same weights each time (it is called under one random state).
      block: as in `probe`: modules of the model by name, from whose input to whose output the stream goes.
      inputs: what the model is called with, as in `probe`. scale: ε ≠ 0.
      curvature: the departure from proportionality to allow, relative to the contribution, beyond rounding. None for
        one branch. With several in turn, u = h + ε f(h) then u + ε g(u), it is of order ε: take a small scale, and
        0.1 say; a scale that never arrives departs by 1, one that is applied twice by 1/2. Not with `branches`.
      branches: names, within each block, of the modules that put out f and g: the model at this scale has to add each
        times ε, exactly, however many there are.
    Raises: AssertionError naming the first visit; InputError for bad arguments, for a model that differs from call to
      call, and for contributions that are zero or lost in rounding.
    """
    __tracebackhide__ = True
    if branches is None:
        verify_proportional(build, block, inputs, scale, curvature=curvature)
    else:
        verify_applied(build(scale), scale, block=block, inputs=inputs, branches=branches)
