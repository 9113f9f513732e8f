"""The command residual-theory."""

import io
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from residual_theory.commands import calibration, claims, coordinate, probing, stacks, sweeping, training
from residual_theory.commands.fields import OPTION_NAMES
from residual_theory.errors import InputError, ResidualTheoryError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
_INTERRUPTED = 130
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app.command("list")(claims.list_)
for command in (
    claims.derive,
    stacks.predict,
    stacks.recommend,
    stacks.simulate,
    training.train,
    sweeping.sweep,
    sweeping.plan,
    probing.probe,
    coordinate.coordinate_check,
    claims.verify,
    calibration.calibrate,
    claims.figures,
    claims.reproduce,
):
    app.command()(command)


def _as_given(error: InputError, words: Sequence[str]) -> InputError:
    """The error with the option in place of the field that it sets, if the option was given."""
    name = "--" + OPTION_NAMES.get(error.argument, error.argument).replace("_", "-")
    given = {word.partition("=")[0] for word in words}
    return InputError(name, error.value, error.mend) if name in given else error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every foreseeable error is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter gets a question mark
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as Ctrl-C does, with the processes started
    try:
        status = int(app(args=arguments, standalone_mode=False, prog_name="residual-theory") or 0)
    except _ClickException as error:
        if message := " ".join(error.format_message().split()):
            given = shlex.join(sys.argv[1:] if arguments is None else arguments)
            sys.stderr.write(f"error: {message} (in: residual-theory {given})\n")
        return 2
    except InputError as error:
        sys.stderr.write(f"error: {_as_given(error, sys.argv[1:] if arguments is None else arguments)}\n")
        return 2
    except (ResidualTheoryError, OSError, MemoryError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        sys.stderr.write("interrupted; results that were finished are kept, and the same command goes on from them\n")
    return status
