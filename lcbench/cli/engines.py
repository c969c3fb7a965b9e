"""Options of `lcbench run` that say what runs the model, and the source that they make."""

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
    loaded("--engine-option", help="Option of vLLM's LLM(...), as `tensor_parallel_size=4`; repeatable."),
]
EndpointOption = Annotated[
    str | None,
    served("--endpoint", help="Ask a served --model at a URL up to its /v1.", show_default=False),
]
ApiOption = Annotated[
    str,
    served("--endpoint-api", help="completions, or chat: the user's turn, in the server's template."),
]
TokenizerOption = Annotated[
    str | None,
    served("--tokenizer", help="Tokenizer of a served model, an id or a folder; default: --model's."),
]
ServedAsOption = Annotated[
    str | None,
    served("--served-as", help="What the server does to attention, for tables: `yarn:factor=4`."),
]
ConcurrencyOption = Annotated[
    int,
    served("--concurrency", min=1, max=1024, help="Requests to the server at the same time."),
]
TimeoutOption = Annotated[
    float,
    served("--request-timeout", min=0.1, max=10**6, help="Most seconds of a request."),
]
StrictOption = Annotated[
    bool,
    served("--strict", help="A prompt that the server cut or counts otherwise is an error."),
]
OF_LCBENCH = "is for a model that lcbench runs itself"


@dataclass(frozen=True)
class EngineChoice:
    """What was typed of engines."""

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
        """The source for these options; `local` is the one without them. `typed` tells of each option that only a model
        in this process has, by its name, whether it was given. Raises: UserError for options that contradict each
        other."""
        if self.engine not in ENGINES:
            raise unknown("--engine", self.engine, ENGINES)
        if self.endpoint is None and self.engine == "lcbench":
            self._refuse_for_lcbench()
            return local
        if self.endpoint is not None and self.engine != "lcbench":
            raise UserError("--endpoint asks a server, and --engine runs the model here; pass one of them.")
        other = "--endpoint" if self.endpoint is not None else "--engine vllm"
        for option, given in typed.items():
            if given:
                hint = "; name what the other program does with --served-as" if option == "--method" else ""
                raise UserError(f"{option} {OF_LCBENCH}; leave it out with {other}{hint}.")
        if self.endpoint is None:
            return self._vllm(local)
        return self._served(local, typed_model)

    def _served(self, local: ModelSource, typed_model: str | None) -> Source:
        from lcbench.engine.endpoint.address import Address
        from lcbench.engine.endpoint.source import EndpointSource

        assert self.endpoint is not None
        if self.options:
            raise UserError("--engine-option is for --engine vllm; options of a server are given where it is started.")
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
            raise UserError("--tokenizer is for a served model; give vLLM another one by --engine-option tokenizer=ID.")
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
