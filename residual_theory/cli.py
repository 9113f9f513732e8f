"""The command residual-theory."""

import ast
import functools
import importlib
import io
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from residual_theory.errors import InputError, ResidualTheoryError

_INTERRUPTED = 130
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_COMMANDS = {  # where each is, in residual_theory.commands; in the order of the help
    "list": "claims.list_",
    "derive": "claims.derive",
    "predict": "stacks.predict",
    "recommend": "stacks.recommend",
    "simulate": "stacks.simulate",
    "train": "training.train",
    "sweep": "sweeping.sweep",
    "plan": "sweeping.plan",
    "probe": "probing.probe",
    "coordinate-check": "coordinate.coordinate_check",
    "verify": "claims.verify",
    "calibrate": "calibration.calibrate",
    "operating-curve": "operating.operating_curve",
    "best-rates": "rates.best_rates",
    "rate-coverage": "rates.rate_coverage",
    "figures": "claims.figures",
    "reproduce": "claims.reproduce",
}


class _Commands(TyperGroup):
    """The commands, of which the one that is called is imported, and only then."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        module, function = _COMMANDS[str(name)].split(".")
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(importlib.import_module(f"residual_theory.commands.{module}"), function))
        return name, typer.main.get_command(alone), rest


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False
)


@functools.cache
def _summaries(module: str) -> dict[str, str]:
    """The first line of the docstring of each function in a module of commands, which is read and not imported."""
    source = Path(__file__).with_name("commands").joinpath(f"{module}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: (ast.get_docstring(node) or "").partition("\n")[0] for node in functions}


for _name, _path in _COMMANDS.items():
    _module, _function = _path.split(".")
    app.command(_name, help=_summaries(_module)[_function])(lambda: None)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        from residual_theory.console import say

        say(f"residual-theory {metadata.version('residual-theory')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def _name_option(error: InputError, words: Sequence[str]) -> InputError:
    """The error with the option in place of the field that it sets, if the option was given."""
    from residual_theory.commands.fields import OPTION_NAMES

    name = "--" + OPTION_NAMES.get(error.argument, error.argument).replace("_", "-")
    given = {word.partition("=")[0] for word in words}
    return InputError(name, error.value, error.mend) if name in given else error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every foreseeable error is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # letters that the terminal lacks are shown as ?
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C, and end the processes started
    try:
        status = int(app(args=arguments, standalone_mode=False, prog_name="residual-theory") or 0)
    except _ClickException as error:
        if message := " ".join(error.format_message().split()):
            given = shlex.join(sys.argv[1:] if arguments is None else arguments)
            sys.stderr.write(f"error: {message} (in: residual-theory {given})\n")
        return 2
    except InputError as error:
        sys.stderr.write(f"error: {_name_option(error, sys.argv[1:] if arguments is None else arguments)}\n")
        return 2
    except (ResidualTheoryError, OSError, MemoryError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        sys.stderr.write("interrupted; results that were finished are kept, and the same command goes on from them\n")
    return status
