"""A run's folder as a data set on the Hugging Face hub, private by default.

The token comes only from the environment (HF_TOKEN or HUGGING_FACE_HUB_TOKEN), never from a file or an option.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, gist_of
from lcbench.results.export import load_run
from lcbench.results.records import CLAIMS, LOCK, RECORDS, read_manifest, read_records

KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LEFT_OUT = [LOCK, CLAIMS, f"{CLAIMS}/*", "*.tmp", "slurm/*", ".*"]
CARD = """---
tags:
- lcbench
- evaluation
---
# {name}

A run of lcbench: {tasks} with {model}, {methods}; {samples} samples. `records.jsonl` has one sample per line,
`run.json` says how the run was made. Download the folder to read it with `lcbench table`, `report` and `compare`.
"""


def push(folder: Path, repository: str, *, public: bool = False, incomplete: bool = False, api: Any = None) -> str:
    """Upload a run's folder to the data set `repository` (owner/name), created if needed; returns its address.

    With `incomplete`, runs with failed or missing samples are uploaded, too. `api` replaces `huggingface_hub.HfApi`.

    Raises: UserError for a folder whose records are damaged or incomplete, a missing token, or a refusal of the hub.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"--to {repository!r} must be OWNER/NAME on the hub.")
    card = _checked(folder, incomplete=incomplete)
    token = next((key for name in KEYS if (key := os.environ.get(name, "").strip())), None)
    if token is None:
        raise UserError(f"pushing needs a token with write access: set {KEYS[0]}.")
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    try:
        api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        if not (folder / "README.md").exists() and not api.file_exists(repository, "README.md", repo_type="dataset"):
            api.upload_file(
                path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repository, repo_type="dataset"
            )
        done = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=str(folder),
            ignore_patterns=LEFT_OUT,
            commit_message=f"lcbench push {folder.resolve().name}",
        )
    except Exception as error:  # the hub, the network and the disk raise all kinds of errors
        gist = gist_of(error).replace(token, "...")
        raise UserError(f"cannot push {folder} to {repository}: {gist}.") from error
    return str(getattr(done, "commit_url", None) or f"https://huggingface.co/datasets/{repository}")


def _checked(folder: Path, *, incomplete: bool) -> str:
    """The card of a run that may be pushed. Raises: UserError."""
    manifest, records = read_manifest(folder), read_records(folder)
    with (folder / RECORDS).open("rb") as file:
        file.seek(-1, os.SEEK_END)
        torn = file.read(1) != b"\n"
    wrong = {
        "that failed": sum(record.failed for record in records),
        "that are missing": manifest.missing(records),
        "that is half written": int(torn),
    }
    told = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    if told and not incomplete:
        raise UserError(f"{folder} has samples {told}; run it to its end, or pass --incomplete.")
    load_run(folder)  # checks that it can be read

    def listed(names: list[str]) -> str:
        return ", ".join(f"`{name}`" for name in dict.fromkeys(names))

    return CARD.format(
        name=folder.resolve().name,
        tasks=listed([record.identity.task for record in records]),
        methods=listed([record.identity.method for record in records]),
        model=manifest.model_name,
        samples=len(records),
    )
