"""Start a training run again and again and kill each at a random moment, then let it end; a process of its own, since
it forks.

    python -m tests.apps.train.killed_fit OUT KILLS

Prints a line a kill: the log lines there were.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401  (imported once, so that each fork starts at work)
import torch

from tests.apps.train.tiny import train


def main() -> None:
    out, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    rng = random.Random(0)
    for kill in range(kills + 1):
        pid = os.fork()
        if pid == 0:
            train(out)
            os._exit(0)
        if kill < kills:
            enough = lines(out) + rng.randint(1, 8)
            while lines(out) < enough and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(lines(out), flush=True)


def lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


if __name__ == "__main__":
    main()
