"""Data sets on the Hugging Face hub: the commit that a revision stands for, its files, and their download.

No loading script of anybody runs, here or in `datasets` from 4.0 on: files are read as they are. `hf_hub_download`
throws away what it has when its process ends (huggingface_hub 2.4), so the part of a file that has arrived is kept
here, and the next call asks for the rest.
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
from lcbench.data.raw import sha256
from lcbench.data.source import Hub

SHA256_DIGITS = 64


@dataclass(frozen=True)
class Snapshot:
    """What a revision stood for when it was asked."""

    commit: str
    files: tuple[str, ...]


def snapshot(hub: Hub) -> Snapshot:
    """Raises: UserError if the hub cannot be reached, or has no such data set or revision."""
    from huggingface_hub import HfApi

    silence_hub()
    with _one_sentence(f"{hub.repo} at {hub.revision}"):
        info = HfApi().dataset_info(hub.repo, revision=hub.revision)
        return Snapshot(str(info.sha), tuple(file.rfilename for file in info.siblings or ()))


def download(repo: str, file: str, commit: str, folder: Path) -> Path:
    """A file of a data set, kept in a folder under the hash that the hub gives for it; from there if it is there.

    Raises: UserError if it cannot be had, or arrives with another hash.
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
                    headers={**build_hf_headers(), "Accept-Encoding": "identity"},  # so that a range is one of the file
                    expected_size=metadata.size,
                    displayed_filename=file,
                )
            if file_hash(part, metadata.etag) != metadata.etag:
                part.unlink()
                raise OSError("it arrived damaged, and was removed")
            return part.replace(path)


def file_hash(path: Path, like: str) -> str:
    """The hash that the hub names a file by: sha256 of a large file, git's of a small one."""
    if len(like) == SHA256_DIGITS:
        return sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hub_rows(source: str, split: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a split of a data set that needs no preparing: `owner/name`, or `owner/name:configuration`.

    Raises: UserError for one that is not there, or cannot be loaded.
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
    except Exception as error:  # the hub, the network and broken files fail in as many ways as there are
        raise UserError(
            f"there is no file {source}, and no data set of that name with a split {split} can be loaded: "
            f"{gist_of(error)}."
        ) from error
    return rows


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block."""
    lock = locked(path, wait=True)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub, the network and the disk fail in as many ways as there are
        raise UserError(
            f"cannot get {what} from the Hugging Face hub: {gist_of(error)}; what has arrived is kept and the same "
            "command goes on from there, or pass --from with a copy of the source's files."
        ) from error
