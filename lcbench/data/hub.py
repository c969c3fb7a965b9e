"""Data sets on the Hugging Face hub: the commit of a revision, its files, and resumable downloads.

No loading script is run, here or in `datasets` from 4.0 on: files are read as data. `hf_hub_download` discards a
partial download when its process ends (huggingface_hub 2.4), so the received part of a file is kept here, and the next
call requests the rest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, gist_of
from lcbench.core.hub import require_hub, silence_hub
from lcbench.core.locks import locked
from lcbench.data.raw_file import sha256
from lcbench.data.source import Hub

SHA256_DIGITS = 64


@dataclass(frozen=True)
class Snapshot:
    """The commit of a revision at the time of the request, and the names of its files."""

    commit: str
    files: tuple[str, ...]


def snapshot(hub: Hub) -> Snapshot:
    """Resolve a revision. Raises: UserError if the hub cannot be reached, or has no such data set or revision."""
    from huggingface_hub import HfApi

    silence_hub()
    with _one_sentence(f"{hub.repo} at {hub.revision}"):
        info = HfApi().dataset_info(hub.repo, revision=hub.revision)
        return Snapshot(str(info.sha), tuple(file.rfilename for file in info.siblings or ()))


def download(repo: str, file: str, commit: str, folder: Path) -> Path:
    """Download a file of a data set into `folder`, named by the hub's hash of it; a file that exists is not downloaded.

    Raises: UserError if it cannot be downloaded, or has another hash.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with _one_sentence(f"{file} of {repo}"):
        url = hf_hub_url(repo, file, repo_type="dataset", revision=commit)
        metadata = get_hf_file_metadata(url)
        if metadata.etag is None:
            raise OSError("the hub gives no hash for it")
        folder.mkdir(parents=True, exist_ok=True)
        path, part = folder / metadata.etag, folder / f"{metadata.etag}.part"
        with _one_at_a_time(folder / f".{metadata.etag}.lock"):
            if path.exists():
                return path
            with part.open("ab") as arriving:
                http_get(
                    url,
                    arriving,
                    resume_size=arriving.tell(),
                    headers={
                        **build_hf_headers(),
                        "Accept-Encoding": "identity",
                    },  # so that byte ranges refer to the file itself
                    expected_size=metadata.size,
                    displayed_filename=file,
                )
            if file_hash(part, metadata.etag) != metadata.etag:
                part.unlink()
                raise OSError("it arrived damaged, and was removed")
            return part.replace(path)


def file_hash(path: Path, like: str) -> str:
    """The hub's hash of a file: sha256 for large files, git's blob hash for small ones; the length of `like`
    decides."""
    if len(like) == SHA256_DIGITS:
        return sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hub_rows(source: str, split: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a split of a data set by its hub id: `owner/name`, or `owner/name:configuration`.

    Raises: UserError for a data set that does not exist or cannot be loaded.
    """
    from datasets import load_dataset

    name, _, configuration = source.partition(":")
    silence_hub()
    try:
        require_hub("it")
    except UserError as error:
        raise UserError(f"there is no file {source}, and no data set of that name can be loaded: {error}") from error
    try:
        rows: Sequence[Mapping[str, Any]] = load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the hub, the network and broken files raise all kinds of errors
        raise UserError(
            f"there is no file {source}, and no data set of that name with a split {split} can be loaded: "
            f"{gist_of(error)}."
        ) from error
    return rows


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """A lock between processes; waits for it."""
    lock = locked(path, wait=True)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub, the network and the disk raise all kinds of errors
        raise UserError(
            f"cannot get {what} from the Hugging Face hub: {gist_of(error)}; what has arrived is kept and the same "
            "command goes on from there, or pass --from with a copy of the source's files."
        ) from error
