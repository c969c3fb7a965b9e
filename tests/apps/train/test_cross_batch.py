"""Cross-batch attention against an explicit float64 computation, one document and one window at a time."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

import lcbench
from lcbench.apps.train.cross_batch import as_windows, cross_batch
from lcbench.attention.backends.reference import reference_attention
from lcbench.attention.probe import attention_set_to, probe, unrotated
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method
from tests.attention import zoo
from tests.attention.oracle import _layer_rope

L, DOCUMENTS, MEMORY = 24, 5, [1, 3]
NAME = "lcbench-test-cross-batch"
# Grouped heads, biases, norms of queries and keys, partial and interleaved rotation, layers without any, soft caps,
# sinks, sliding windows, frequencies that follow the length.
MODELS = ["llama", "llama-yarn", "llama-dynamic", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt-neox", "glm"]
MODELS += ["smollm3", "gpt-oss"]


@contextlib.contextmanager
def reference(model: PreTrainedModel, memory_layers: list[int], contexts: int) -> Iterator[PreTrainedModel]:
    """A float64 copy that computes cross-batch attention document by document, from relative positions."""
    model = copy.deepcopy(model).double()
    layers = probe(model)
    i, j = torch.arange(L)[:, None], torch.arange(L)[None]

    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **extra: Any
    ) -> tuple[Tensor, None]:
        layer = layers[module]
        inv_freq, factor = _layer_rope(layer, Method(), Lengths(zoo.PRETRAINING, L))
        local = (j <= i) & (i - j < (layer.window or L))
        out = []
        for row in range(len(q)):
            document, second = divmod(row, 2)
            rel, seen, sources = i - j, local, [row]
            if second and module.layer_idx in memory_layers:
                for step in range(contexts):
                    sources.append(2 * ((document + step) % (len(q) // 2)))
                    rel, seen = torch.cat([rel, i.expand(L, L)], 1), torch.cat([seen, torch.ones_like(local)], 1)
            keys, values = torch.cat([k[s] for s in sources], 1), torch.cat([v[s] for s in sources], 1)
            answer = reference_attention(
                q[row, None],
                keys[None],
                values[None],
                rel,
                seen,
                inv_freq,
                pairing=layer.rope.pairing,
                attention_factor=factor,
                scale=q.shape[-1] ** -0.5 if scaling is None else scaling,
                softcap=extra.get("softcap"),
                sinks_H=extra.get("s_aux"),
            )
            out.append(answer[0].transpose(0, 1))
        return torch.stack(out), None

    AttentionInterface.register(NAME, attend)
    with attention_set_to(model, NAME), unrotated(model):
        yield model


def windows() -> Tensor:
    return as_windows(zoo.tokens(DOCUMENTS, 2 * L), L)


def loss(model: PreTrainedModel, of: slice = slice(None)) -> Tensor:
    """Next-token loss over the windows named; windows of document b are 2b and 2b + 1."""
    logits = model(windows(), use_cache=False).logits[of, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows()[of, 1:].flatten())


@pytest.mark.parametrize(("arch", "contexts"), [(arch, (1, 3, DOCUMENTS)[n % 3]) for n, arch in enumerate(MODELS)])
@torch.no_grad()
def test_logits_equal_the_float64_reference(arch: str, contexts: int) -> None:
    model = zoo.build(zoo.ARCHITECTURES[arch]())
    with reference(model, MEMORY, contexts) as truth:
        expected = truth(windows(), use_cache=False).logits
    with cross_batch(model, MEMORY, L, contexts):
        actual = model(windows(), use_cache=False).logits
    torch.testing.assert_close(actual.double(), expected, atol=5e-5, rtol=0)


def test_reference_itself_tells_contexts_and_layers_apart() -> None:
    model = zoo.build(zoo.ARCHITECTURES["llama"]())
    answers = []
    for layers, contexts in ((MEMORY, 1), (MEMORY, 2), ([1], 1)):
        with reference(model, layers, contexts) as truth, torch.no_grad():
            answers.append(truth(windows(), use_cache=False).logits)
    assert min((answers[0] - other).abs().max() for other in answers[1:]) > 0.01


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2", "gpt-oss"])
def test_gradients_equal_the_float64_reference(arch: str) -> None:
    model = zoo.build(zoo.ARCHITECTURES[arch]())
    with reference(model, MEMORY, 3) as truth:
        loss(truth).backward()
    with cross_batch(model, MEMORY, L, 3):
        loss(model).backward()
    for (name, weight), true in zip(model.named_parameters(), truth.parameters(), strict=True):
        assert true.grad is not None and weight.grad is not None, name
        assert (weight.grad - true.grad).norm() < 1e-4 * true.grad.norm(), name


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_gradients_reach_the_keys_and_values_of_just_the_documents_seen(contexts: int) -> None:
    """The loss of document 1 alone, by the gradient of what the memory layer kept of each document's first window."""
    model = zoo.llama()
    attention = model.model.layers[1].self_attn
    with cross_batch(model, [1], L, contexts):
        kept: list[Tensor] = []
        hooks = [
            part.register_forward_hook(lambda module, args, out: (out.retain_grad(), kept.append(out))[0])
            for part in (attention.k_proj, attention.v_proj)
        ]
        loss(model, slice(3, 4)).backward()
        for hook in hooks:
            hook.remove()
    for projected in kept:
        assert projected.grad is not None
        reached = projected.grad.flatten(1).abs().amax(1) > 0
        expected = {2 * document for document in range(1, 1 + contexts)} | {3}
        assert set(reached.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
@torch.no_grad()
def test_own_past_alone_is_what_inference_computes(arch: str) -> None:
    model = zoo.build(zoo.ARCHITECTURES[arch]())
    with cross_batch(model, MEMORY, L):
        trained = model(windows(), use_cache=False).logits.reshape(DOCUMENTS, 2 * L, -1)
    with lcbench.extend(model, "fot", memory_layers=MEMORY, context_length=L, last_context_length=L):
        inferred = model(zoo.tokens(DOCUMENTS, 2 * L), use_cache=False).logits
    torch.testing.assert_close(trained, inferred, atol=5e-5, rtol=0)


def test_contexts_may_change_from_step_to_step() -> None:
    model = zoo.llama()
    with torch.no_grad(), cross_batch(model, [1], L) as block:
        answers = []
        for contexts in (1, 4, 1):
            block.contexts = contexts
            answers.append(model(windows(), use_cache=False).logits)
    assert torch.equal(answers[0], answers[2])
    first, second = (answers[0] - answers[1]).abs().amax((1, 2)).view(-1, 2).unbind(1)
    assert (first == 0).all()  # first windows never look at memory
    assert (second > 0.01).all()


def test_bfloat16_autocast_is_as_good_as_native() -> None:
    model = zoo.build(zoo.ARCHITECTURES["llama"]())
    with reference(model, MEMORY, 3) as truth, torch.no_grad():
        expected = truth(windows(), use_cache=False).logits
        native = copy.deepcopy(model).double()(windows(), use_cache=False).logits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        native_error = (model(windows(), use_cache=False).logits.double() - native).norm() / native.norm()
        with cross_batch(model, MEMORY, L, 3):
            error = (model(windows(), use_cache=False).logits.double() - expected).norm() / expected.norm()
    assert 0 < error < 1.5 * native_error


@pytest.mark.slow
def test_compiled_model() -> None:
    """Graph capture is what a block could break; which backend runs the graphs makes no difference."""
    model = zoo.llama()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), cross_batch(model, [1], L, 2) as block:
        for contexts in (2, 4):
            block.contexts = contexts
            expected = model(windows(), use_cache=False).logits
            torch.testing.assert_close(compiled(windows(), use_cache=False).logits, expected, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = zoo.llama().train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with cross_batch(model, [1], L, 3):
            loss(model).backward()
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
        model.zero_grad()
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_the_model_is_left_as_it_was() -> None:
    model = zoo.llama()
    before = model(windows(), use_cache=False).logits
    with pytest.raises(ZeroDivisionError), cross_batch(model, [1], L):
        _ = 1 / 0
    assert torch.equal(model(windows(), use_cache=False).logits, before)
    assert model.config._attn_implementation == "eager"


class TestRefusals:
    def test_layers_that_cannot_hold_memory(self) -> None:
        with pytest.raises(UserError, match="no attention layer 7"), cross_batch(zoo.llama(), [0, 7], L):
            pass
        with pytest.raises(UserError, match="at least one"), cross_batch(zoo.llama(), [], L):
            pass
        sliding = zoo.build(zoo.ARCHITECTURES["gemma2"]())
        with pytest.raises(UserError, match="within 8 tokens"), cross_batch(sliding, [0], L):
            pass

    @torch.no_grad()
    def test_batches_of_another_shape(self) -> None:
        with pytest.raises(UserError, match="two windows, 48 tokens, not 40"):
            as_windows(zoo.tokens(2, 40), L)
        model = zoo.llama()
        with cross_batch(model, [1], L, 3):
            for ids in (zoo.tokens(4, 2 * L), zoo.tokens(3, L)):
                with pytest.raises(UserError, match="windows of 24 tokens, two a document"):
                    model(ids, use_cache=False)
            with pytest.raises(UserError, match="batch of 2 documents"):
                model(zoo.tokens(4, L), use_cache=False)
            padded, mask = zoo.left_padded(zoo.tokens(6, L), [0, 3, 0, 0, 0, 0])
            with pytest.raises(UserError, match="without padding"):
                model(padded, attention_mask=mask, use_cache=False)

    def test_a_block_within_a_block(self) -> None:
        model = zoo.llama()
        again = pytest.raises(UserError, match="steered already")
        with lcbench.extend(model, "rerope:window=9"), again, cross_batch(model, [1], L):
            pass
        with cross_batch(model, [1], L), again, cross_batch(model, [1], L):
            pass
