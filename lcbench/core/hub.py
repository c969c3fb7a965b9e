"""The Hugging Face hub: quiet retries, and errors in one sentence."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path

from lcbench.core.errors import UserError, gist_of

PATIENCE = 2.0  # seconds for the hub's first answer; its client alone retries for half a minute


def silence_hub() -> None:
    """Keep the hub client from logging each of its retries: the outcome is reported once, by the error."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@cache
def is_reachable() -> bool:
    """Whether the hub, or whatever HF_ENDPOINT names, answers within `PATIENCE`; tried once a process."""
    answered = threading.Event()

    def knock() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except Exception:  # offline mode, names that do not resolve, refused connections, proxies
            return
        answered.set()

    # A thread, since looking up a host's name knows no timeout.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def require_model(name: str, revision: str | None, file: str = "config.json") -> None:
    """Raises: UserError for a Hugging Face id whose file is not in the cache while the hub does not answer."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=revision)
    if not isinstance(cached, str) and not is_reachable():
        why = _unreachable(constants.ENDPOINT)
        advice = ", or unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        raise UserError(f"{name} is not in the cache, and {why}; give a local folder{advice}.")


def require_data_set(name: str, needed_by: str) -> None:
    """Raises: UserError for a data set on the hub that no cache has while the hub does not answer."""
    from huggingface_hub import constants

    folder = f"datasets--{name.replace('/', '--')}"
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets"))
    cached = Path(constants.HF_HUB_CACHE, folder, "snapshots").is_dir() or _has(prepared, name.replace("/", "___"))
    if not cached and (constants.HF_HUB_OFFLINE or not is_reachable()):
        advice = ", or unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        raise UserError(
            f"{needed_by} reads the data set {name}, which is not in the cache, and "
            f"{_unreachable(constants.ENDPOINT)}; leave it out{advice}."
        )


def _has(folder: Path, name: str) -> bool:
    """Whether a folder has an entry of that name, in whatever case: `datasets` writes names in lower case."""
    try:
        return name.lower() in {entry.lower() for entry in os.listdir(folder)}
    except OSError:
        return False


def require_hub(what: str) -> None:
    """Raises: UserError if `what` would have to come from the hub, and that does not answer."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not is_reachable():
        raise UserError(
            f"cannot get {what}: {_unreachable(constants.ENDPOINT)}; set HF_HUB_OFFLINE=1 if it is in the cache."
        )


def work_without_hub() -> None:
    """Where the hub does not answer, let libraries that are imported from here on ask their cache alone, at once: each
    would retry for minutes."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not is_reachable():
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True


def _unreachable(endpoint: str) -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint} does not answer"


def explain(error: Exception) -> str:
    """The first sentence of an error of the hub client or of transformers, followed by a way out if one is known."""
    gist = f"{gist_of(error)}."
    if isinstance(error, KeyError):
        gist = f"its files lack {gist}"
    if _is_unreachable(error):
        from huggingface_hub import constants

        advice = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "set HF_HUB_OFFLINE=1 if it is in the cache"
        return f"{gist.rstrip('.')}; give a local folder, or {advice}."
    return f"{gist} Pass --trust-remote-code if you trust it." if "trust_remote_code" in str(error) else gist


def _is_unreachable(error: Exception) -> bool:
    """Whether files are not cached locally and the hub cannot be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    causes = (error, error.__cause__)  # transformers wraps the errors of the hub client
    return any(isinstance(cause, LocalEntryNotFoundError | ConnectionError) for cause in causes)
