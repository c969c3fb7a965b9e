"""`lcbench` and `python -m lcbench`: run the command line, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130
RESUMABLE = ("run", "tune", "train", "data prepare")  # verbs

gc.disable()  # until a verb starts: imports make many objects and no garbage

try:
    from lcbench.cli.app import app
    from lcbench.core.errors import UserError, gist_of, printable, shortened
    from lcbench.core.terminal import write_any_character
except KeyboardInterrupt:  # typer, which turns it into an exit code, is not there yet
    print("interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def main() -> None:
    """Exit codes: 0 done, 1 ran and something failed, 2 something for the user to mend, 130 interrupted.

    Any other exception is a fault of lcbench: one sentence, a file with the traceback, and exit code 2. With `--debug`
    all tracebacks are shown.
    """
    write_any_character()
    debug = "--debug" in sys.argv  # before the command or after it
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # Before torch starts its threads: by default they spin while they wait, which costs a busy machine a factor of 3.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        try:
            app(arguments)
        finally:
            sys.stdout.flush()  # not at the exit of Python, where nobody could say why it failed
    except UserError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except SystemExit as stop:  # typer has turned Ctrl-C and a broken pipe into exit codes already
        if stop.code == INTERRUPTED:
            verb = " ".join(argument for argument in arguments if not argument.startswith("-"))
            goes_on = f"{verb} ".startswith(tuple(f"{each} " for each in RESUMABLE))
            kept = "; what is done is kept, and the same command goes on from here" if goes_on else ""
            print(f"interrupted{kept}.", file=sys.stderr)
        if isinstance(stop.__context__, BrokenPipeError):  # `lcbench list methods | head`: nobody reads on
            _discard_output()
            sys.exit(0)
        raise
    except KeyboardInterrupt:  # within the handlers of other libraries
        print("interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _fail(_bad_path(error) or _no_space(error) or _unexpected(error))


def _fail(sentence: str, exit_code: int = 2) -> NoReturn:
    line = printable(sentence).replace("\n", "\\n").replace("\t", "\\t")  # names of files may have line breaks
    print(f"error: {line}", file=sys.stderr)
    sys.exit(exit_code)


def _discard_output() -> None:
    """So that Python, which flushes at its exit, does not fail once more."""
    with contextlib.suppress(OSError):  # a stdout without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bad_path(error: Exception) -> str | None:
    """The sentence for a path that no system call takes, whatever command it was typed for; None for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"cannot use {shortened(str(error.filename))}: {error.strerror}."
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # Path.resolve before Python 3.13
        return f"cannot use a link that leads to itself: {shortened(_typed(str(error)))}."
    return None


def _no_space(error: Exception) -> str | None:
    """The sentence for a disk that is full, which may be where the output goes; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    if error.filename is None:
        _discard_output()  # `> /dev/full`
    return f"cannot write {shortened(str(error.filename or 'the output'))}: {error.strerror}."


def _typed(refusal: str) -> str:
    """The path in the message of a loop, from the current folder, as it may have been typed."""
    path = refusal.partition("from ")[2].strip("'")
    return os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path


def _unexpected(error: Exception) -> str:
    """The sentence for an exception that no command foresaw; its traceback goes to a new file."""
    import tempfile
    import traceback

    where = "pass --debug before the command to see the traceback"
    for folder in (None, "."):  # the system's folder of temporary files, or else this one
        with contextlib.suppress(OSError):
            file, name = tempfile.mkstemp(prefix="lcbench-error-", suffix=".txt", dir=folder)
            with open(file, "w", encoding="utf-8", errors="backslashreplace") as text:
                text.write(f"lcbench {' '.join(sys.argv[1:])}\n\n")
                traceback.print_exception(error, file=text)
            where = f"the traceback is in {name}"
            break
    return f"lcbench failed unexpectedly: {type(error).__name__}: {shortened(gist_of(error))}; {where}."


def run_script(file: str) -> None:
    """Run as a program, a data script is `lcbench data prepare` of its source, with the options of that command."""
    sys.argv[1:1] = ["data", "prepare", Path(file).stem]
    main()


if __name__ == "__main__":
    main()
