"""Options of `lcbench run` that choose the engine, and the source that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from lcbench.cli.common import loaded, served
from lcbench.core.errors import UserError, unknown
from lcbench.engine.base import Source
from lcbench.engine.models import ModelSource

ENGINES = ("lcbench", "vllm")
EngineOption = Annotated[
    str,
    loaded("--engine", help="What runs the model in this process: lcbench, vllm."),
]
EngineOptionsOption = Annotated[
    list[str] | None,
    loaded("--engine-option", help="Argument of vLLM's LLM(...), e.g. `tensor_parallel_size=4`; repeatable."),
]
EndpointOption = Annotated[
    str | None,
    served("--endpoint", help="URL, up to /v1, of a server that runs --model.", show_default=False),
]
ApiOption = Annotated[
    str,
    served("--endpoint-api", help="completions, or chat (the server applies its own template)."),
]
TokenizerOption = Annotated[
    str | None,
    served("--tokenizer", help="Tokenizer of the served model: an id, folder or GGUF file; default: --model's."),
]
ServedAsOption = Annotated[
    str | None,
    served("--served-as", help="The method the server applies, shown in tables: `yarn:factor=4`."),
]
ConcurrencyOption = Annotated[
    int,
    served("--concurrency", min=1, max=1024, help="Concurrent requests to the server."),
]
TimeoutOption = Annotated[
    float,
    served("--request-timeout", min=0.1, max=10**6, help="Timeout of a request, in seconds."),
]
StrictOption = Annotated[
    bool,
    served("--strict", help="Fail if the server truncates a prompt or counts other tokens."),
]
OF_LCBENCH = "is for a model that lcbench runs itself"


@dataclass(frozen=True)
class EngineChoice:
    """The engine options as typed."""

    engine: str
    options: Sequence[str]
    endpoint: str | None
    api: str
    tokenizer: str | None
    served_as: str | None
    concurrency: int
    timeout: float
    strict: bool

    def source(self, local: ModelSource, typed_model: str | None, typed: dict[str, bool]) -> Source:
        """The source for these options; `local` is the one without them. `typed` maps each option that only applies to
        a model in this process to whether it was given. Raises: UserError for options that contradict each other."""
        if self.engine not in ENGINES:
            raise unknown("--engine", self.engine, ENGINES)
        if self.endpoint is None and self.engine == "lcbench":
            self._refuse_for_lcbench()
            return local
        if self.endpoint is not None and self.engine != "lcbench":
            raise UserError("--endpoint asks a server, and --engine runs the model here; pass only one of them.")
        other = "--endpoint" if self.endpoint is not None else "--engine vllm"
        for option, given in typed.items():
            if given:
                hint = "; name the method that it applies with --served-as" if option == "--method" else ""
                raise UserError(f"{option} {OF_LCBENCH}; leave it out with {other}{hint}.")
        if self.endpoint is None:
            return self._vllm(local)
        return self._served(local, typed_model)

    def _served(self, local: ModelSource, typed_model: str | None) -> Source:
        from lcbench.engine.endpoint.address import Address
        from lcbench.engine.endpoint.source import EndpointSource

        assert self.endpoint is not None
        if self.options:
            raise UserError("--engine-option is for --engine vllm; a server takes its options when it is started.")
        name = typed_model or ""
        tokenizer = ModelSource(self.tokenizer or name, local.revision, trust_remote_code=local.trust_remote_code)
        return EndpointSource(
            name,
            Address.parse(self.endpoint),
            tokenizer,
            self.api,
            self.served_as,
            self.concurrency,
            self.timeout,
            self.strict,
            local.display_name,
        )

    def _vllm(self, local: ModelSource) -> Source:
        from lcbench.engine.vllm import VllmSource, parse_engine_options

        if self.tokenizer is not None:
            raise UserError("--tokenizer is for a served model; for vLLM, pass --engine-option tokenizer=ID.")
        return VllmSource(local, parse_engine_options(self.options), self.served_as)

    def _refuse_for_lcbench(self) -> None:
        for option, given in {
            "--tokenizer": self.tokenizer,
            "--served-as": self.served_as,
            "--strict": self.strict,
        }.items():
            if given:
                raise UserError(f"{option} is for a served model; pass --endpoint URL too, or leave it out.")
        if self.options:
            raise UserError("--engine-option is for --engine vllm; pass that too, or leave it out.")
