"""A served model, as given on the command line, and what its server reports about it before a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, unknown
from lcbench.core.hub import explain
from lcbench.engine.base import ModelFacts, Source
from lcbench.engine.endpoint.address import Address
from lcbench.engine.endpoint.client import Client
from lcbench.engine.endpoint.errors import BusyError, EndpointError, RefusedError, UnreachableError
from lcbench.engine.endpoint.probe import MISSING, SECONDS, Found, dialect_of, in_a_sentence, scores_of
from lcbench.engine.models import ModelSource
from lcbench.engine.served import served_methods
from lcbench.engine.stored_tokenizer import as_stored
from lcbench.methods.trained_length import trained_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.attention.options import AttentionOptions
    from lcbench.engine.endpoint.host import EndpointHost
    from lcbench.methods import Method

APIS = ("completions", "chat")
# The most tokens of prompt and answer, in an entry of the list of models: vLLM and SGLang; OpenRouter and Together;
# Groq; Mistral.
LIMITS = ("max_model_len", "context_length", "context_window", "max_context_length")
LISTING_SECONDS = 20.0  # for the list of models, which a server has at hand


@dataclass(frozen=True)
class EndpointSource(Source):
    """The model `name` behind an endpoint. Prompts are built and counted with the tokenizer of `tokenizer_source`;
    `served_as` names the method that the server applies; `timeout` is in seconds per request."""

    name: str
    address: Address
    tokenizer_source: ModelSource
    api: str = "completions"
    served_as: str | None = None
    concurrency: int = 4
    timeout: float = 600.0
    strict: bool = False
    display_name: str | None = None
    _found: list[Found] = field(default_factory=list, init=False, repr=False, compare=False)  # the result of the probe

    @property
    def own_template(self) -> bool:  # type: ignore[override]
        return self.api == "chat"

    def check(self) -> None:
        """Raises: UserError for a server that does not answer, or does not have the model."""
        if self.api not in APIS:
            raise unknown("--endpoint-api", self.api, APIS)
        served_methods(self.served_as, None)
        names = [str(entry.get("id")) for entry in self._models]
        if not self.name:
            known = f"; it serves: {', '.join(names)}" if names else ""
            raise UserError(f"--endpoint needs --model, the name of a served model{known}.")
        if names and self.name not in names and not self._answers_to_its_name():
            raise unknown(f"model of {self.address.base}:", self.name, names)

    def methods(self, typed: Sequence[str] | None) -> list[Method]:
        return served_methods(self.served_as, typed)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        checkpoint = self.tokenizer_source.checkpoint
        folder = Path(checkpoint.location)
        if not checkpoint.gguf and folder.is_dir() and not (folder / "config.json").exists():
            return _tokenizer_alone(folder)
        try:
            return self.tokenizer_source.tokenizer()
        except UserError as error:
            if self.tokenizer_source.name != self.name:
                raise
            raise UserError(
                f"prompts are counted with the tokenizer of {self.name}, which cannot be loaded here; name one with "
                f"--tokenizer ID, FOLDER or FILE.gguf ({str(error).rstrip('.')})."
            ) from error

    def inspect(self, tokenizer: PreTrainedTokenizerBase, attention: AttentionOptions) -> ModelFacts:
        """Raises: UserError for a server that does not answer a prompt."""
        with in_a_sentence(self._client):
            self._found[:] = [dialect_of(self._client, self.api, self.name, tokenizer)]
        entry = next((entry for entry in self._models if entry.get("id") == self.name), {})
        meta = entry["meta"] if isinstance(entry.get("meta"), dict) else {}  # llama.cpp's
        limit = next((found for name in LIMITS if (found := _length(entry.get(name)))), None)
        trained = _length(meta.get("n_ctx_train"))
        return ModelFacts(self._trained_length() or trained or limit, limit=limit or _length(meta.get("n_ctx")))

    def require(self, measures: Collection[str]) -> None:
        """Raises: UserError if tasks need likelihoods that the server does not provide."""
        wanted = sorted(
            {"choice": "multiple choice", "likelihood": "perplexity"}[one] for one in measures if one != "answer"
        )
        if not wanted:
            return
        (found,) = self._found
        with in_a_sentence(self._client):
            way = scores_of(found)
        if way is None:
            need = f"{' and '.join(wanted)} need{'s' * (len(wanted) == 1)}"
            raise UserError(
                f"{need} log-likelihoods of the prompt, which {self.address.base} does not give "
                f"({'chat completions have none' if self.own_template else 'neither prompt_logprobs nor echo'}); leave "
                "these tasks out, or serve the model with vLLM or SGLang and --endpoint-api completions."
            )
        found.way = way

    def identity(self, facts: ModelFacts) -> dict[str, Any]:
        return {
            "model": self.name,
            **({"pretraining_length": facts.trained} if facts.trained else {}),
            "engine": "endpoint",
            "endpoint": self.address.base,
            "endpoint_api": self.api,
            **({"tokenizer": self.tokenizer_source.name} if self.tokenizer_source.name != self.name else {}),
        }

    def open_host(
        self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts, attention: AttentionOptions
    ) -> EndpointHost:
        from lcbench.engine.endpoint.host import EndpointHost

        (found,) = self._found
        return EndpointHost(found, self.concurrency, strict=self.strict)

    @cached_property
    def _client(self) -> Client:
        return Client(self.address, self.timeout, self.concurrency)

    @cached_property
    def _models(self) -> list[dict[str, Any]]:
        """The entries of `/v1/models`; none if the server has no such list, or fails to produce it (`transformers
        serve` without a download cache): the probe then decides."""
        with in_a_sentence(self._client):
            try:
                listed = self._client.get("models", tries=1, within=LISTING_SECONDS).get("data")
            except (UnreachableError, BusyError):
                raise
            except EndpointError as error:
                if isinstance(error, RefusedError) and error.status not in MISSING:
                    raise
                return []
        return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []

    def _answers_to_its_name(self) -> bool:
        """Whether the server has the model though it does not list it: `transformers serve` lists its download cache,
        and answers as `name@revision`. (Other servers repeat any name in their answer.)"""
        prompt = {"messages": [{"role": "user", "content": "a"}]} if self.own_template else {"prompt": "a"}
        path = "chat/completions" if self.own_template else "completions"
        try:
            reply = self._client.post(path, {"model": self.name, "max_tokens": 1, **prompt}, tries=1, within=SECONDS)
        except EndpointError:
            return False
        return str(reply.events[0].get("model")).startswith(f"{self.name}@")

    def _trained_length(self) -> int | None:
        try:
            return trained_length(self.tokenizer_source.config())
        except UserError:  # a folder with nothing but a tokenizer
            return None


def _tokenizer_alone(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder that has nothing else."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder))
        file = folder / "tokenizer.json"
        return as_stored(
            str(folder), tokenizer, file if file.is_file() else None, lambda kind: kind.from_pretrained(str(folder))
        )
    except Exception as error:  # a broken folder fails in many ways
        raise UserError(f"there is no tokenizer in {folder}: {explain(error)}") from error


def _length(value: Any) -> int | None:
    return value if type(value) is int and value > 1 else None
