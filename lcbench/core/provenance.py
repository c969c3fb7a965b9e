"""How a run was made: versions, machine, and the state of the code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def session() -> dict[str, Any]:
    """The entry of this process in run.json: command, versions, hardware, git state."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus},
        "platform": platform.platform(),
        "git": _git_state(),
    }


def command() -> list[str]:
    """What was typed."""
    return ["lcbench", *map(without_credentials, sys.argv[1:])]


def without_credentials(argument: str) -> str:
    """A word of the command line; of a URL in it neither user and password nor what follows a question mark."""
    return re.sub(r"(https?://)(?:[^/?#\s]*@)?([^?#\s]*)\S*", r"\1\2", argument, flags=re.IGNORECASE)


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ("lcbench", "torch", "transformers", "tokenizers", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout that lcbench runs from, and whether it was changed since; None for an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
