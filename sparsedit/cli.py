"""The command line: parses, calls a command, and turns errors into one sentence and an exit code.

0 done, 1 some cases failed (or a defect of this program), 2 usage or bad input, 3 a threshold not met, 130
interrupted. Importing this imports neither torch nor anything that needs it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sparsedit import __version__
from sparsedit.bench.signals import terminable
from sparsedit.commands import cache as cache_command
from sparsedit.commands import models as models_command
from sparsedit.commands.bench import bench
from sparsedit.commands.compare import compare
from sparsedit.commands.edit import edit
from sparsedit.commands.env import env
from sparsedit.commands.profile import profile
from sparsedit.commands.report import report
from sparsedit.discretion import without_secrets
from sparsedit.errors import SparseditError

INTERRUPTED = 130

app = typer.Typer(name="sparsedit", add_completion=False, pretty_exceptions_enable=False)
app.command()(edit)
app.command()(profile)
app.command()(compare)
app.command()(bench)
app.command()(report)
app.add_typer(models_command.app, name="models")
app.add_typer(cache_command.app, name="cache")
app.command()(env)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsedit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _sparsedit(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sparse image editing with diffusion models: compute only the pixels that change."""
    if context.invoked_subcommand is None:
        context.get_help()  # prints it
        raise typer.Exit(2)


def main() -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - to the end
        # Not every terminal's encoding has an arrow; a table with a question mark is better than none.
        getattr(sys, name).reconfigure(errors="replace")
    try:
        with terminable():
            code = run(sys.argv[1:])
            sys.stdout.flush()
    except KeyboardInterrupt:  # a second one, while the first was being answered
        code = INTERRUPTED
    except OSError as error:
        code = _unread(error)
    # What is left to do is Python's own, which would report an interruption with a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; --debug shows tracebacks too."""
    try:
        return app(arguments, prog_name="sparsedit", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError as error:
        return _unread(error)
    except Exception as error:  # the edge: whatever it is, a user reads one line and an exit code
        if "--debug" in arguments:
            traceback.print_exception(error)
        return _report(error)


def _unread(error: OSError) -> int:
    """The exit code when nobody, or a full disk, takes what is printed; who left, as `head` does, is told nothing."""
    # Or Python would try again at its end, and say so.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"error: the result cannot be printed ({error.strerror})", file=sys.stderr)
    return 1


def _report(error: Exception) -> int:
    """Say on stderr what went wrong, and return the exit code that goes with it."""
    from sparsedit.report.text import printable

    match error:
        case SparseditError():
            sentence, code = str(error), error.exit_code
        case typer.TyperException():
            sentence, code = error.format_message(), error.exit_code
        case OSError(strerror=str() as reason):
            sentence, code = f"{error.filename or 'the output'}: {reason}", 1
        case _:
            defect = "this is a defect of sparsedit; --debug shows where"
            sentence, code = f"{type(error).__name__}: {error} ({defect})", 1
    lines = [printable(line) for line in without_secrets(sentence).splitlines()]
    print("error:", "\n".join(lines), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
