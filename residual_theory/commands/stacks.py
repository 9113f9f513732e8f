"""Commands about one stack: predict, simulate, recommend."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from residual_theory.commands.fields import options, takes
from residual_theory.commands.options import AsJson, by_observable, whole_numbers
from residual_theory.console import as_document, finite, note_attributes, powers, say, show, simulation_table, some_of
from residual_theory.errors import InputError
from residual_theory.stack import Stack
from residual_theory.store import require_writable, write_atomically


def _sharing(text: str) -> str | tuple[int, ...]:
    """A pattern by name, or the numbers of each visit's weights."""
    if text in ("cyclic", "consecutive"):
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError("sharing", text, "choose 'cyclic' or 'consecutive', or write numbers such as 0,1,0") from None


_takes_stack = takes(options(Stack, sharing={"read": _sharing}), make=Stack)


@_takes_stack
def predict(
    stack: Stack,
    gradients: Annotated[bool, typer.Option(help="Also gradients and the tangent kernel.")] = True,
    as_json: AsJson = False,
) -> None:
    """Predict one stack at infinite width, exactly."""
    from residual_theory.theory.forward import predict as predicted

    result = predicted(stack, with_gradients=gradients)
    if as_json:
        say(as_document(result))
        return
    table = Table(
        *("visit", "R²", "R", *["gradient²"] * gradients),
        title=f"Predicted at infinite width, ε = {stack.epsilon:.6g} (some visits; all with --json)",
    )
    for visit in some_of(result.sizes["visit"]):
        square = float(result.second_moment[visit])
        moments = [f"{float(result.gradient_second_moment[visit]):.6g}"] if gradients else []
        table.add_row(str(visit), f"{square:.9g}", f"{square**0.5:.6g}", *moments)
    show(table)
    if gradients:
        say(f"tangent kernel of the weights: {float(result.tangent_kernel):.6g}")
    note_attributes(result)


def recommend(
    loops: Annotated[int, typer.Option(help="N, the loops.")],
    layers: Annotated[int, typer.Option(help="L, the unique layers.")],
    strength: Annotated[float, typer.Option(help="λ, so that ε = λ/N at the tuned number of layers.")] = 1.0,
    tuned_loops: Annotated[int, typer.Option(help="Loops of the model tuned under this rule.")] = 1,
    tuned_layers: Annotated[
        int | None, typer.Option(help="Its layers, at which ε = λ/N.", show_default="as many")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adam, sign or gradient-descent.")] = "adam",
    as_json: AsJson = False,
) -> None:
    """Choose a residual scale and learning-rate multipliers for a looped model."""
    from dataclasses import asdict

    from residual_theory.theory.learning_rate import RULES
    from residual_theory.theory.recommend import recommend as recommended

    tuned = {"tuned_loops": tuned_loops, "tuned_layers": tuned_layers}
    advice = recommended(loops, layers, strength=strength, optimizer=optimizer, **tuned)  # type: ignore[arg-type]
    if as_json:
        say(json.dumps(finite(asdict(advice)), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    say(str(advice) + "\n")
    table = Table(
        *("rule", "ε ∝", "stream", "rate ∝ Adam", "gradient descent", "Adam, pre-norm"), title="Beside other rules"
    )
    for rule in RULES:
        cells = (powers(-rule.layers, -rule.loops), "bounded" if rule.bounded else "grows")
        rates = (rule.learning_rate("adam"), rule.learning_rate("gradient-descent"))
        raw = [powers(rate.layers, rate.loops) for rate in rates]
        normed = powers(rule.prenorm_learning_rate.layers, rule.prenorm_learning_rate.loops)
        table.add_row(rule.name, *cells, *(raw if rule.bounded else ["no power law"] * 2), normed)
    show(table)


@_takes_stack
def simulate(
    stack: Stack,
    width: Annotated[str, typer.Option(help="d, the width; or several, as 256,512,1024, for the limit d → ∞.")],
    samples: Annotated[int, typer.Option(help="Independent random stacks (at each width).")] = 64,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    method: Annotated[str, typer.Option(help="matrix-free, or dense; both exact in law.")] = "matrix-free",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    gradients: Annotated[bool, typer.Option(help="Also gradients and the tangent kernel.")] = False,
    antithetic: Annotated[bool, typer.Option(help="Draw stacks in pairs with opposite weights.")] = False,
    target_stderr: Annotated[
        list[str] | None,
        typer.Option(help="Draw on to this standard error of R²: 0.01, 1%, or of another: increment_cosine=0.01."),
    ] = None,
    max_samples: Annotated[int, typer.Option(help="But no more random stacks than this.")] = 10**6,
    file: Annotated[
        Path | None, typer.Option(help="Keep the estimate in this netCDF file; what it holds already is extended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw one stack many times at a finite width, beside its prediction."""
    from residual_theory.montecarlo.simulate import simulate as simulated
    from residual_theory.netcdf import read_dataset
    from residual_theory.statistics.comparison import compare
    from residual_theory.theory.forward import predict as predicted

    law = predicted(stack, with_gradients=gradients)
    widths = whole_numbers("width", width)
    earlier = None
    if file is not None and len(widths) > 1:
        raise InputError("file", str(file), "keeps an estimate at one width; give a single --width")
    if file is not None:
        require_writable(file, argument="file")
        earlier = read_dataset(file, argument="file") if file.exists() else None
    try:
        result = simulated(
            stack, width=widths[0] if len(widths) == 1 else widths, samples=samples, seed=seed, method=method,
            device=device, dtype=dtype, with_gradients=gradients, antithetic=antithetic,
            target_stderr=by_observable(target_stderr), max_samples=max_samples, earlier=earlier,
        )  # fmt: skip
    except InputError as error:
        if error.argument != "earlier":
            raise
        raise InputError("file", str(file), f"holds another estimate ({error.value}); name another file") from None
    if file is not None:
        write_atomically(file, bytes(result.to_netcdf(engine="h5netcdf")), argument="file")
    if as_json:
        say(as_document(result))
        return
    show(simulation_table(stack, result, law, widths))
    note_attributes(result)
    if int(result.samples) == 1:
        say("one sample has no standard error, so nothing is compared")
    else:
        say(str(compare(law, result)))
