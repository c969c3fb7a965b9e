"""`lcbench` and `python -m lcbench`: run the command line, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

INTERRUPTED = 130
RESUMABLE = {"run", "train", "prepare"}  # verbs

try:
    from lcbench.cli.app import app
    from lcbench.core.errors import UserError
except KeyboardInterrupt:  # typer, which turns it into an exit code, is not there yet
    print("interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def main() -> None:
    """Exit codes: 0 done, 1 ran and something failed, 2 something for the user to mend, 130 interrupted."""
    debug = "--debug" in sys.argv  # before the command or after it
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # Before torch starts its threads: by default they spin while they wait, which costs a busy machine a factor of 3.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(arguments)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:  # typer has turned Ctrl-C and a broken pipe into exit codes already
        if stop.code == INTERRUPTED:
            kept = "; what is done is kept, and the same command goes on from here" if RESUMABLE & {*sys.argv} else ""
            print(f"interrupted{kept}.", file=sys.stderr)
        if isinstance(stop.__context__, BrokenPipeError):  # `lcbench list methods | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        raise


def run_script(file: str) -> None:
    """Run as a program, a data script is `lcbench data prepare` of its source, with the options of that command."""
    sys.argv[1:1] = ["data", "prepare", Path(file).stem]
    main()


if __name__ == "__main__":
    main()
