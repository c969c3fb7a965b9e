"""The Hugging Face hub: quiet retries, and errors in one sentence."""

from __future__ import annotations

from lcbench.core.errors import gist_of


def silence_hub() -> None:
    """Keep the hub client from logging each of its retries: the outcome is reported once, by the error."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


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
