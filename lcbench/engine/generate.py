"""Greedy generation: prefill in chunks, then token by token from the KV cache, several answers at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.engine.joined import batches, joined, snapshot
from lcbench.engine.prefix import PrefixCache

PREFILL_CHUNK = 8192  # tokens a forward call: bounds the activations, changes no result
SMALLEST_CHUNK = 1024  # below it, activations are not what fills the memory


def never(tokens: list[int]) -> bool:
    """A watch that only the budget and the stop tokens end."""
    return False


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue by at most `max_new_tokens`; `watch` is told those so far after each new one, and ends the
    answer by True."""

    tokens: Sequence[int]
    max_new_tokens: int
    watch: Callable[[list[int]], bool] = never


@dataclass(frozen=True)
class Generation:
    """New tokens, an end-of-text token left out; how many tokens of the prompt were in the cache already; the seconds
    that both phases took, an equal share where `together` answers were decoded in one batch."""

    tokens: list[int]
    reused: int
    prefill_seconds: float
    decode_seconds: float
    together: int = 1


def generate(
    model: PreTrainedModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop_tokens: Collection[int] = (),
    prefixes: PrefixCache | None = None,
    watch: Callable[[list[int]], bool] = never,
    chunk_size: int | None = None,
) -> Generation:
    """The greedy continuation of one prompt; see `generate_together`."""
    return generate_together(model, [Prompt(prompt, max_new_tokens, watch)], stop_tokens, prefixes, chunk_size)[0]


@torch.no_grad()
def generate_together(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    stop_tokens: Collection[int] = (),
    prefixes: PrefixCache | None = None,
    chunk_size: int | None = None,
) -> list[Generation]:
    """Greedy continuations of prompts, each ended by its budget, its watch or any of `stop_tokens`.

    Prompts are prefilled one after another, with logits for the last position only; what `prefixes` holds of one is
    not computed again. `chunk_size` is how many tokens of it one forward call takes, by default PREFILL_CHUNK. Then
    all answers are decoded as one batch, padded at the left, if their KV caches can be joined, else one after another.
    """
    device = execution_device(model)
    caches: dict[int, DynamicCache] = {}
    firsts, reused, prefill_seconds = [], [], []
    for n, prompt in enumerate(prompts):
        started = _now(device)
        cache, shared = prefixes.take(prompt.tokens) if prefixes else (DynamicCache(config=model.config), 0)
        cache.prompt_length = len(prompt.tokens)  # for methods that count from its end: a chunk does not tell
        cache.expected_length = len(prompt.tokens) + prompt.max_new_tokens
        rest = torch.tensor([prompt.tokens[shared:]], device=device)
        for chunk in torch.split(rest, chunk_size or PREFILL_CHUNK, dim=1):
            logits = model(chunk, past_key_values=cache, logits_to_keep=1).logits
        firsts.append(int(logits[0, -1].argmax()))
        if prefixes and len(prompts) > 1:  # the next prompt takes this cache over
            prefixes.keep(cache, prompt.tokens)
            cache = snapshot(cache)
        caches[n] = cache
        reused.append(shared)
        prefill_seconds.append(_now(device) - started)
    lengths = [len(prompt.tokens) for prompt in prompts]
    found: dict[int, Generation] = {}
    for rows in batches(list(caches.values()), lengths):
        started = _now(device)
        cache = joined([caches.pop(n) for n in rows], [lengths[n] for n in rows])  # what is joined can go
        answers = _decode(model, cache, [prompts[n] for n in rows], [firsts[n] for n in rows], stop_tokens)
        seconds = (_now(device) - started) / len(rows)
        for n, tokens in zip(rows, answers):
            found[n] = Generation(tokens, reused[n], prefill_seconds[n], seconds, len(rows))
    if prefixes and len(prompts) == 1:
        prefixes.keep(cache, prompts[0].tokens)
    return [found[n] for n in range(len(prompts))]


def _decode(
    model: PreTrainedModel,
    cache: DynamicCache,
    prompts: Sequence[Prompt],
    tokens: list[int],
    stop_tokens: Collection[int],
) -> list[list[int]]:
    """The answers that begin with these tokens, behind the prompts in this cache. A row whose answer has ended goes
    along until half of them have, or until one has spent its budget: beyond it a run may not be as long as was said."""
    device, length = execution_device(model), max(len(prompt.tokens) for prompt in prompts)
    mask_BS, answers = _mask(prompts, device), [list[int]() for _ in prompts]
    rows = list(range(len(prompts)))
    ended: set[int] = set()
    while True:
        spent = False
        for row, token in zip(rows, tokens):
            if row in ended:
                continue
            if token not in stop_tokens:
                answers[row].append(token)
                spent |= len(answers[row]) == prompts[row].max_new_tokens
                if len(answers[row]) < prompts[row].max_new_tokens and not prompts[row].watch(answers[row]):
                    continue
            ended.add(row)
        going = [n for n, row in enumerate(rows) if row not in ended]
        if not going:
            return answers
        if spent or 2 * len(going) <= len(rows):
            kept = torch.tensor(going)  # on the CPU: layers may lie on several devices
            cache.batch_select_indices(kept)
            mask_BS = None if mask_BS is None else mask_BS[kept]
            rows, tokens = [rows[n] for n in going], [tokens[n] for n in going]
        length += 1
        mask = {} if mask_BS is None else _masked(mask_BS[:, :length])
        step = torch.tensor(tokens, device=device)[:, None]
        logits = model(step, past_key_values=cache, logits_to_keep=1, **mask).logits
        tokens = logits[:, -1].argmax(-1).tolist()


def _mask(prompts: Sequence[Prompt], device: torch.device) -> Tensor | None:
    """What is no padding of prompts that end together, and of their answers [B, total]; None if nothing is."""
    lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=device)
    longest, budget = int(lengths.max()), max(prompt.max_new_tokens for prompt in prompts)
    pads = longest - lengths
    return (torch.arange(longest + budget, device=device) >= pads[:, None]).long() if pads.any() else None


def _masked(mask_BS: Tensor) -> dict[str, Tensor]:
    """What a model wants to know of padding, before a token that is none."""
    return {"attention_mask": mask_BS, "position_ids": mask_BS.sum(-1, keepdim=True) - 1}


def stop_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The model's own end-of-text tokens."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    return frozenset([] if eos is None else eos if isinstance(eos, list) else [eos])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
