"""Generation: prefill in chunks, then batched decode from the KV cache; greedy, or sampled by the prompt's chooser."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lcbench.attention.content import density, kept_keys
from lcbench.attention.probe import execution_device
from lcbench.core.errors import NotFiniteError, UserError, brief
from lcbench.engine.batched_cache import batches, join_caches, snapshot
from lcbench.engine.finite import not_finite, unusable
from lcbench.engine.prefix_cache import PrefixCache, take_cache

PREFILL_CHUNK = 8192  # tokens per forward call: bounds the activations, changes no result
UNUSABLE = -1  # stands for a token whose logits are NaN, infinite or all equal
SMALLEST_CHUNK = 1024  # in smaller chunks, activations no longer dominate the memory


def never(tokens: list[int]) -> bool:
    """The `watch` that never ends an output."""
    return False


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue by at most `max_new_tokens`; `watch` is called with the output so far after every new token
    and ends it by returning True. `chunk_size`: tokens per forward call of prefill, by default PREFILL_CHUNK.
    `on_prefill` is called with the number of tokens in the KV cache, before the first forward call and after each.
    `choose` gives the next token from its logits [V]; by default it is the most likely one."""

    tokens: Sequence[int]
    max_new_tokens: int
    watch: Callable[[list[int]], bool] = never
    chunk_size: int | None = None
    on_prefill: Callable[[int], None] | None = None
    choose: Callable[[Tensor], int] | None = None


FinishReason = Literal["stop", "stop_string", "length"]


@dataclass(frozen=True)
class Generation:
    """The new tokens, without the end token; how many tokens of the prompt were reused from the cache; the seconds of
    both phases, decode divided evenly among the `together` outputs of one batch; why the output ended: at an end
    token ("stop"), by the prompt's `watch` ("stop_string"), or at its budget ("length"); and how much of the prompt a
    method that selects keys by content left out (`lcbench.engine.base.CallCost`)."""

    tokens: list[int]
    reused: int
    prefill_seconds: float
    decode_seconds: float
    together: int = 1
    finish_reason: FinishReason = "length"
    kept_keys: float | None = None
    density: float | None = None


@dataclass
class _Output:
    """New tokens so far, and the finish reason, None while generation continues."""

    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None


@dataclass
class _Prefilled:
    """A prompt's KV cache, how many of its tokens were reused, the first token of the output, the seconds, and how much
    of the prompt was left out."""

    cache: DynamicCache
    reused: int
    token: int
    seconds: float
    kept_keys: float | None
    density: float | None


def generate(
    model: PreTrainedModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop_tokens: Collection[int] = (),
    prefixes: PrefixCache | None = None,
    watch: Callable[[list[int]], bool] = never,
) -> Generation:
    """The greedy continuation of one prompt; see `generate_together`."""
    return generate_together(model, [Prompt(prompt, max_new_tokens, watch)], stop_tokens, prefixes)[0]


@torch.no_grad()
def generate_together(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    stop_tokens: Collection[int] = (),
    prefixes: PrefixCache | None = None,
) -> list[Generation]:
    """Continuations of prompts, each ended by its budget, its watch or any of `stop_tokens`.

    Prompts are prefilled one after another, with logits for the last position only; a prefix that `prefixes` has in
    its cache is reused. All outputs are decoded as one batch, left-padded, if KV caches of this type can be joined;
    caches that need equal lengths are decoded in one batch per length, others one by one.
    """
    lengths = [len(prompt.tokens) for prompt in prompts]
    begun = {
        0: _prefill(model, prompts[0], prefixes)
    }  # which prompts can be joined depends on the types of the cache layers
    found: dict[int, Generation] = {}
    for rows in batches(begun[0].cache, lengths):
        for n in rows:
            begun[n] = begun.get(n) or _prefill(model, prompts[n], prefixes)
            if len(rows) > 1 and prefixes and prefixes.keep(begun[n].cache, prompts[n].tokens):
                begun[n].cache = snapshot(begun[n].cache)  # the next prompt extends the same cache
        rows = sorted(
            rows, key=lengths.__getitem__
        )  # attention processes neighbouring rows of equal length in one call
        found |= _decode_batch(model, rows, prompts, [begun.pop(n) for n in rows], stop_tokens, prefixes)
    return [found[n] for n in range(len(prompts))]


def _decode_batch(
    model: PreTrainedModel,
    rows: list[int],
    prompts: Sequence[Prompt],
    prefilled: list[_Prefilled],
    stop_tokens: Collection[int],
    prefixes: PrefixCache | None,
) -> dict[int, Generation]:
    """Decode the prompts with the indices `rows` as one batch from their prefilled caches."""
    device = execution_device(model)
    started = _now(device)
    chosen = [prompts[n] for n in rows]
    cache = join_caches([one.cache for one in prefilled], [len(prompt.tokens) for prompt in chosen])
    outputs = _decode(model, cache, chosen, [one.token for one in prefilled], stop_tokens)
    seconds = (_now(device) - started) / len(rows)
    if len(rows) == 1 and prefixes:
        prefixes.keep(cache, chosen[0].tokens)
    return {
        n: Generation(
            output.tokens,
            one.reused,
            one.seconds,
            seconds,
            len(rows),
            output.reason or "length",
            one.kept_keys,
            one.density,
        )
        for n, one, output in zip(rows, prefilled, outputs)
    }


def _prefill(model: PreTrainedModel, prompt: Prompt, prefixes: PrefixCache | None) -> _Prefilled:
    device = execution_device(model)
    started = _now(device)
    cache, reused = take_cache(model.config, prefixes, prompt.tokens, prompt.max_new_tokens)
    rest = torch.tensor([prompt.tokens[reused:]], device=device)
    filled = reused
    for chunk in torch.split(rest, prompt.chunk_size or PREFILL_CHUNK, dim=1):
        if prompt.on_prefill:
            _now(device)  # waits for the GPU, which runs asynchronously
            prompt.on_prefill(filled)
        logits = model(chunk, past_key_values=cache, logits_to_keep=1).logits
        filled += chunk.shape[1]
    (token,) = _next_tokens(logits, [prompt])
    if token == UNUSABLE:
        raise not_finite(model, prompt.tokens, prompt.chunk_size or PREFILL_CHUNK)
    if prompt.on_prefill:
        prompt.on_prefill(filled)
    return _Prefilled(cache, reused, token, _now(device) - started, kept_keys(cache), density(cache))


def _decode(
    model: PreTrainedModel,
    cache: DynamicCache,
    prompts: Sequence[Prompt],
    tokens: list[int],
    stop_tokens: Collection[int],
) -> list[_Output]:
    """The outputs [B][n] that begin with `tokens`, after the prompts in this cache.

    A finished row stays in the batch until half of the rows are finished, since removing rows copies the cache; but
    never beyond its own budget, which bounds the length of the run.
    """
    device, longest = execution_device(model), max(len(prompt.tokens) for prompt in prompts)
    mask_BS, outputs = _mask(prompts, device), [_Output() for _ in prompts]
    rows = list(range(len(prompts)))  # the prompt of each row of the batch
    for step in count(1):
        for row, token in zip(rows, tokens):
            if outputs[row].reason is not None:
                continue
            if token == UNUSABLE:
                raise _failed(model, prompts[row], outputs[row])
            outputs[row].reason = _take(prompts[row], outputs[row].tokens, token, stop_tokens)
        going = [n for n, row in enumerate(rows) if outputs[row].reason is None]
        if not going:
            break
        if 2 * len(going) <= len(rows) or any(step >= prompts[row].max_new_tokens for row in rows):
            kept = torch.tensor(going)  # on the CPU: layers may lie on several devices
            cache.batch_select_indices(kept)
            mask_BS = None if mask_BS is None else mask_BS[kept]
            rows, tokens = [rows[n] for n in going], [tokens[n] for n in going]
        mask = {} if mask_BS is None else _masked(mask_BS[:, : longest + step])
        ids = torch.tensor(tokens, device=device)[:, None].clamp(min=0)  # of a finished row, any token
        logits = model(ids, past_key_values=cache, logits_to_keep=1, **mask).logits
        tokens = _next_tokens(logits, [prompts[row] for row in rows])
    return outputs


def _next_tokens(logits_BTV: Tensor, prompts: Sequence[Prompt]) -> list[int]:
    """The token of each row after its last position, as its prompt chooses, or UNUSABLE; greedy, in one transfer from
    the device."""
    last_BV = logits_BTV[:, -1]
    tokens: list[int] = last_BV.argmax(-1).masked_fill(unusable(last_BV), UNUSABLE).tolist()
    return [
        prompt.choose(last_V) if prompt.choose and token != UNUSABLE else token
        for prompt, last_V, token in zip(prompts, last_BV, tokens, strict=True)
    ]


def _failed(model: PreTrainedModel, prompt: Prompt, output: _Output) -> NotFiniteError:
    return not_finite(model, [*prompt.tokens, *output.tokens], prompt.chunk_size or PREFILL_CHUNK)


def _take(prompt: Prompt, output: list[int], token: int, stop_tokens: Collection[int]) -> FinishReason | None:
    """Append the next token to an output, unless it is a stop token; returns why the output ends there, or None."""
    if token in stop_tokens:
        return "stop"
    output.append(token)
    if prompt.watch(output):
        return "stop_string"
    return "length" if len(output) >= prompt.max_new_tokens else None


def _mask(prompts: Sequence[Prompt], device: torch.device) -> Tensor | None:
    """The attention mask [B, total] of left-padded prompts and their outputs; None without padding."""
    lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=device)
    longest, budget = int(lengths.max()), max(prompt.max_new_tokens for prompt in prompts)
    pads = longest - lengths
    return (torch.arange(longest + budget, device=device) >= pads[:, None]).long() if pads.any() else None


def _masked(mask_BS: Tensor) -> dict[str, Tensor]:
    """Arguments of the forward call for one new token per row: the mask and the position without padding."""
    return {"attention_mask": mask_BS, "position_ids": mask_BS.sum(-1, keepdim=True) - 1}


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The end tokens of the model's generation config and config, and the tokenizer's EOS: checkpoints often name
    different ones, and each of them ends an answer. Raises: UserError for what is not a token id."""
    given = [getattr(config, "eos_token_id", None) for config in (model.generation_config, model.config, tokenizer)]
    tokens = [token for eos in given for token in (eos if isinstance(eos, list) else [eos]) if token is not None]
    if strange := [token for token in tokens if type(token) is not int]:
        raise UserError(
            "eos_token_id in the model's config.json or generation_config.json must be a token id, or a list of them, "
            f"not {brief(strange[0])}; correct the file."
        )
    return frozenset(tokens)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
