"""Start a run again and again and kill each at a random moment; a process of its own, since it forks.

    python -m tests.killed_runs SEED KILLS run passkey --output FOLDER ...

Prints one JSON line a kill: how many records there were before and after, whether the run was still at work, and
whether the kill was to come after a first new record.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import lcbench.run.runner  # noqa: F401  (imported once, so that each fork starts at work)
from lcbench.results.records import RECORDS
from tests.helpers import cli


def main() -> None:
    seed, kills, *arguments = sys.argv[1:]
    records = Path(arguments[arguments.index("--output") + 1]) / RECORDS
    torch.set_num_threads(1)
    rng = random.Random(int(seed))
    for kill in range(int(kills)):
        before = lines(records)
        pid = os.fork()
        if pid == 0:
            outcome = cli(*arguments)
            os._exit(outcome.code)
        at_work = kill % 3 != 0
        enough, until = before + rng.randint(1, 4), time.monotonic() + (1e9 if at_work else rng.uniform(0, 0.3))
        while lines(records) < enough and time.monotonic() < until and not ended(pid):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        alive = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"before": before, "after": lines(records), "alive": alive, "at_work": at_work}), flush=True)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    main()
