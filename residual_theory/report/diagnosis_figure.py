"""The figure of a diagnosis: the stream's norm with its law and forecasts, and the cosines of its changes."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residual_theory.diagnosis.diagnose import Diagnosis, diagnose
from residual_theory.diagnosis.trajectory import Trajectory
from residual_theory.report.drawing import RULE_COLOURS, STYLE

_SEEN, _SAME, _RECOMMENDED = "black", RULE_COLOURS[0], RULE_COLOURS[2]


def draw(probed: xr.Dataset, diagnosis: Diagnosis | None = None) -> Figure:
    """R against visits, seen, fitted and extrapolated, beside the cosines between the stream's changes.

    Arguments:
      probed: the Dataset diagnosed. diagnosis: the result of `diagnose` for it; computed unless given.
    Returns: a Figure, to be saved as its caller likes.
    Raises: InputError as `diagnose`.
    """
    diagnosis = diagnose(probed) if diagnosis is None else diagnosis
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.1))
        left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
        _norms(left, diagnosis)
        covariance = probed.covariance.mean([dim for dim in probed.covariance.dims if "visit" not in str(dim)])
        stride = (probed.sizes["visit"] - 1) // diagnosis.steps
        with np.errstate(divide="ignore", invalid="ignore"):  # a change of zero has no direction
            cosine = Trajectory.of(covariance.values[::stride, ::stride]).cosines
        image = right.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower", interpolation="nearest")
        right.set(
            xlabel=f"{diagnosis.unit} (0 = first)",
            ylabel=f"{diagnosis.unit} (0 = first)",
            title="do changes point the same way?",
        )
        right.grid(visible=False)
        right.locator_params(integer=True, nbins=8)
        figure.colorbar(image, ax=right, label=f"cosine between the changes of two {diagnosis.unit}s", shrink=0.85)
    return figure


def _norms(axes: Axes, diagnosis: Diagnosis) -> None:
    per_step = diagnosis.loops * diagnosis.unique_layers / diagnosis.steps
    visits = per_step * np.arange(diagnosis.steps + 1)
    last = visits[-1]
    axes.plot(visits, diagnosis.norms, "o", ms=3.5, color=_SEEN, label="seen")
    if diagnosis.growth is not None:
        steps = np.linspace(0, diagnosis.steps, 200)
        fitted = diagnosis.growth.norm(diagnosis.growth.displaced(steps))
        axes.plot(
            per_step * steps,
            fitted,
            color=_SAME,
            label="a fit between the laws" if diagnosis.law == "undecided" else f"the law: {diagnosis.law}",
        )
    if diagnosis.forecasts:
        seen = diagnosis.norms[-1]
        ahead = [last, *(each.visits for each in diagnosis.forecasts)]
        low, value, high = (
            [seen, *(getattr(each.same, part) for each in diagnosis.forecasts)] for part in ("low", "value", "high")
        )
        axes.plot(ahead, value, "--", color=_SAME, label="same ε, extrapolated")
        axes.fill_between(ahead, low, high, color=_SAME, alpha=0.15, lw=0, label="its interval")
        if diagnosis.residual_scale > 0:
            _recommended(axes, diagnosis)
        axes.axvline(last, color="0.6", lw=0.8, ls=":")
        axes.set_xscale("symlog", linthresh=max(2.0, last))
        axes.set_xticks([0, last / 2, *ahead], [f"{tick:g}" for tick in (0, last / 2, *ahead)], minor=False)
        axes.minorticks_off()
        axes.set_xlim(-0.02 * last, 1.1 * ahead[-1])
    finite = [norm for norm in diagnosis.norms if norm > 0]
    top = max([*finite, *(each.same.value for each in diagnosis.forecasts)])
    if finite and top > 8 * min(finite):
        axes.set_yscale("log")
    if finite and top < 1.1 * min(finite):
        axes.set_ylim(0, 2 * top)
    axes.set(xlabel="visits to the block", ylabel="R = ‖h‖/√d (entries' root mean square)")
    axes.set_title(f"{diagnosis.law}: κ = {diagnosis.alignment.value:.3g} of {diagnosis.steps} {diagnosis.unit}s")
    axes.legend(fontsize=8)


def _recommended(axes: Axes, diagnosis: Diagnosis) -> None:
    """R at the scales recommended, where there are any."""
    scales = [each.scale for each in diagnosis.forecasts]
    values = np.array([each.recommended.value for each in diagnosis.forecasts])
    reach = np.abs(np.array([[each.recommended.low, each.recommended.high] for each in diagnosis.forecasts]).T - values)
    label = f"ε × {scales[0]:.2g}, {scales[1]:.2g}, {scales[2]:.2g}, extrapolated"
    visits = [each.visits for each in diagnosis.forecasts]
    axes.errorbar(visits, values, reach, fmt="s", ms=4, capsize=3, color=_RECOMMENDED, label=label)
