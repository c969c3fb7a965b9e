"""lcbench as a model of EleutherAI's lm-evaluation-harness: all of its tasks, under any method.

    lcbench lm-eval --model lcbench --model_args pretrained=ID,method=dca --tasks hellaswag,arc_easy

The harness (0.4.13) has no entry points for models: its registry has what was imported. So `lcbench lm-eval` imports
this module and hands over to the command line of the harness, which the command `lm_eval` alone cannot. In Python,
importing this module is enough: `lm_eval.simple_evaluate(model="lcbench", model_args={...})`.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessorList

from lcbench.attention.options import AttentionOptions
from lcbench.attention.steering import extend
from lcbench.core.errors import UserError, gist_of, unknown
from lcbench.core.specs import parse_seq_len
from lcbench.core.tokens import encode_plain, encode_start
from lcbench.engine.finite import not_finite, require_usable
from lcbench.engine.generate import PREFILL_CHUNK
from lcbench.engine.models import DEFAULT_MODEL, ModelSource
from lcbench.methods import Composition, Method, parse_method
from lcbench.methods.trained_length import trained_length
from lcbench.tasks.chat import Message, render_messages

ARGUMENTS = (
    "pretrained",
    "method",
    "max_length",
    "dtype",
    "device",
    "revision",
    "trust_remote_code",
    "adapter",
    "quantization",
    "batch_size",
    "max_batch_size",
    "think_end_token",
    "enable_thinking",
    "chat_template_args",
)
ANY_DEVICE = "cuda:0"  # what the harness's command line passes if nobody names a device
PROBE_LENGTHS = (16, 32)  # two lengths of a prompt, to see whether a method tells them apart
logger = logging.getLogger("lcbench")


def main(arguments: Sequence[str]) -> None:
    """The command line of the harness, with the model `lcbench` added to its own."""
    sys.argv = ["lcbench lm-eval", *arguments]
    try:
        cli_evaluate()
    except UserError:
        raise
    except (ValueError, OSError) as error:  # the harness's way to refuse tasks, arguments and files
        raise UserError(f"the lm-evaluation-harness refused it: {gist_of(error)}.") from error


@register_model("lcbench")
class SteeredLM(HFLM):  # type: ignore[misc]
    """The harness's Hugging Face model, loaded as lcbench loads models and steered by a method while the object lives.

    `method` is a name as on the command line; its options follow it, as in `method=dca:chunk_size=192,mscale=0.1`: the
    harness cuts at commas, and what it calls further arguments are options of the method. (After the first part of a
    composition, quotes keep them together: `method="dca:mscale=0.1+yarn:factor=4"`.) `max_length` is the length of the
    run in tokens, prompt and generation, `8192` or `8k`; default: the trained length.

    A text begins with what the tokenizer puts there, a BOS or nothing, and once; the harness has two BOS for
    perplexity, and cuts it off with the start of a prompt that is too long.

    `think_end_token`, `enable_thinking` and `chat_template_args` are the harness's own.

    Raises: UserError for arguments, methods and models that cannot be used.
    """

    def __init__(
        self,
        pretrained: str = DEFAULT_MODEL,
        method: str | Method = "vanilla",
        max_length: int | str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        adapter: str | None = None,
        quantization: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int = 64,
        think_end_token: str | int | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        chosen = _method(method, options)
        device = "auto" if device == ANY_DEVICE and not torch.cuda.is_available() else device
        self._source = ModelSource(
            pretrained, revision, dtype, device, trust_remote_code, adapter=adapter, quantization=quantization
        )
        length = trained_length(self._source.config()) if max_length is None else parse_seq_len(str(max_length).strip())
        super().__init__(
            pretrained,
            backend="causal",
            revision=revision or "main",
            device=str(self._source.placement.torch_device()),
            dtype=dtype,
            max_length=length,
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            think_end_token=think_end_token,
            enable_thinking=enable_thinking,
            chat_template_args=chat_template_args,
        )
        self._start = encode_start(self.tokenizer, "")
        self._starts_texts = True
        self.steering = extend(self.model, chosen, length=length)
        _check_batches(self.steering.method, batch_size)
        self.steering.__enter__()
        # The table of steered layers references the model: without this it would outlive an object that is deleted.
        self.close = weakref.finalize(self, self.steering.__exit__, None, None, None)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness records of the model, with the method as it was resolved."""
        return {
            **super().get_model_info(),
            "method": str(self.steering.method),
            "method_options": self.steering.method.options(),
            "layers_steered": self.steering.layers_steered,
            **self._source.identity(self._source.inspect(self.tokenizer, AttentionOptions())),
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat in the tokenizer's template, or the beginning of an answer in it: with the date that lcbench's own
        chats have, and no message left out. Raises: UserError for a template that allows neither."""
        return render_messages(
            str(self._source.name),
            self.tokenizer,
            [Message(one["role"], one["content"]) for one in chat_history],
            begun=not add_generation_prompt,
            variables=self.chat_template_args,
            instead="leave --apply_chat_template out",
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, after the tokenizer's start tokens unless the text begins with them, as chat templates
        do."""
        ids = encode_plain(self.tokenizer, string)
        starts = self._starts_texts if add_special_tokens is None else add_special_tokens
        if starts and ids[:1] != self._start[:1]:
            ids = self._start + ids
        return ids if left_truncate_len is None else self._shortened(ids, left_truncate_len)

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [B, T] of the prompts of one batch."""
        ids = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        batch = self.tokenizer.pad({"input_ids": ids}, padding=True, padding_side=padding_side, return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The harness puts a BOS before a text whose perplexity it measures: no other is added."""
        with self._texts_without_start():
            rolled: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        return rolled

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """A context that is too long loses its oldest tokens, not its start."""
        fitted = [
            (key, self._shortened(context, self.max_length + 1 - len(continuation)), continuation)
            for key, context, continuation in requests
        ]
        scored: list[tuple[float, bool]] = super()._loglikelihood_tokens(fitted, *args, **kwargs)
        return scored

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits [B, T, V] of texts. Raises: NotFiniteError for logits that cannot be an answer."""
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        for ids, of_one in zip(inps, logits, strict=True):
            require_usable(self.model, of_one, ids.tolist(), PREFILL_CHUNK)
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Token ids [B, T] of prompts and answers. Raises: NotFiniteError where the next token would be arbitrary."""
        checks = LogitsProcessorList([self._require_usable])
        answered: torch.Tensor = super()._model_generate(context, *args, **kwargs, logits_processor=checks)
        return answered

    def _require_usable(self, ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """The scores as they are; -inf is a token that the generation config forbids."""
        low, high = scores_BV.aminmax(dim=-1)
        wrong = ~(high.isfinite() & (low < high))
        if wrong.any():
            raise not_finite(self.model, ids_BT[wrong][0].tolist(), PREFILL_CHUNK)
        return scores_BV

    def _shortened(self, ids: list[int], most: int) -> list[int]:
        """At most `most` tokens: the start tokens, and the last of the others."""
        if len(ids) <= most:
            return ids
        logger.warning("a prompt of %d tokens is cut to its last %d: it exceeds max_length", len(ids), most)
        start = self._start[:most] if ids[: len(self._start)] == self._start else []
        return start + ids[len(ids) - (most - len(start)) :]

    @contextmanager
    def _texts_without_start(self) -> Iterator[None]:
        self._starts_texts = False
        try:
            yield
        finally:
            self._starts_texts = True

    def _get_config(self, *_: Any, **__: Any) -> None:
        self._config = self._source.config()

    def _create_tokenizer(self, *_: Any, **__: Any) -> None:
        self.tokenizer = self._source.tokenizer()

    def _create_model(self, *_: Any, **__: Any) -> None:
        self._model = replace(self._source, device=str(self.device)).model()


def _method(method: str | Method, options: dict[str, Any]) -> Method:
    """The method with the options that the harness took for arguments. Raises: UserError."""
    chosen = parse_method(method)
    parts = chosen.parts if isinstance(chosen, Composition) else (chosen,)
    known = {*ARGUMENTS, *(name for part in parts for name in part.options())}
    for name in options:
        if name not in known:
            raise unknown("model argument", name, known)
    return parse_method(chosen, **options)


def _check_batches(method: Method, batch_size: int | str) -> None:
    """Raises: UserError for batches with a method that counts from the end of a prompt: the harness pads the shorter
    texts of a batch at their end, without saying where they end."""
    short, long = (method.for_prompt(length) for length in PROBE_LENGTHS)
    if short != long and str(batch_size) != "1":
        raise UserError(f"{method.label} counts from the end of a prompt, so that it needs batch_size=1 here.")
