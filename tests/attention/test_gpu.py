"""The same truth on CUDA: whole models under every method, against the float64 reference computed on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.attention.backends.call import Call
from lcbench.attention.backends.dispatch import BackendSelector
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.rope import RopeTables
from lcbench.methods import Lengths, parse_method
from tests.attention import zoo
from tests.attention.oracle import reference_logits
from tests.attention.test_attention_functions import rope_of
from tests.attention.test_exactness import METHODS

DEVICE = "cuda"
N = 130
LENGTHS = Lengths(zoo.PRETRAINING, N)
pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
every_method = pytest.mark.parametrize("spec", METHODS)


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def reference(model: PreTrainedModel, spec: str) -> Tensor:
    """Of a model that is still on the CPU, in float32."""
    return reference_logits(model, zoo.tokens(2, N), parse_method(spec).resolve(LENGTHS), LENGTHS)


@torch.no_grad()
def run(model: PreTrainedModel, spec: str, ends: list[int], pads: tuple[int, int] = (0, 0)) -> Tensor:
    ids, mask = (x.to(DEVICE) for x in zoo.left_padded(zoo.tokens(2, N), list(pads)))
    cache, calls = DynamicCache(config=model.config), []
    with lcbench.extend(model, spec, length=N):
        for a, b in zip([0, *ends], ends):
            call = model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache)
            calls.append(call.logits.double().cpu())
    return torch.cat(calls, dim=1)


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double().cpu() - expected).norm() / expected.norm())


@every_method
@pytest.mark.parametrize("ends", [[N], [37, 38, 90, *range(91, 100), N]], ids=["whole", "chunks"])
def test_float32_equals_the_reference(spec: str, ends: list[int]) -> None:
    model = zoo.llama()
    expected = reference(model, spec)
    actual = run(model.to(DEVICE), spec, ends)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@every_method
def test_left_padding(spec: str) -> None:
    model = zoo.llama()
    expected = reference(model, spec)
    actual = run(model.to(DEVICE), spec, [60, 61, N], pads=(0, 23))
    torch.testing.assert_close(actual[0], expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(actual[1, 23:], expected[1, : N - 23], atol=1e-4, rtol=0)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_as_good_as_native(spec: str, dtype: torch.dtype) -> None:
    model = zoo.llama()
    exact = {name: reference(model, name) for name in ("vanilla", spec)}
    model.to(DEVICE, dtype)
    native = error(model(zoo.tokens(2, N).to(DEVICE)).logits, exact["vanilla"])
    assert error(run(model, spec, [N]), exact[spec]) < 2 * native
    assert error(run(model, spec, [70, 71, N]), exact[spec]) < 2 * native


@pytest.mark.parametrize("arch", ["gemma2", "gemma3", "gpt-oss", "glm", "smollm3", "llama-longrope", "mistral-sliding"])
@torch.no_grad()
def test_architectures(arch: str) -> None:
    """Soft caps, sinks, sliding layers, interleaved channels, layers without positions."""
    model, spec = zoo.build(zoo.ARCHITECTURES[arch]()), "streaming:sinks=3,window=20"
    lengths = Lengths(model.config.max_position_embeddings, N)
    if arch == "mistral-sliding":
        spec = "vanilla"
    expected = reference_logits(model, zoo.tokens(2, N), parse_method(spec).resolve(lengths), lengths)
    torch.testing.assert_close(run(model.to(DEVICE), spec, [80, 81, N]), expected, atol=2e-4, rtol=0)


def test_gradients() -> None:
    """The same on both devices."""
    model, ids = zoo.llama(), zoo.tokens(2, 60)
    gradients = []
    for device in ("cpu", DEVICE):
        model.to(device).zero_grad()
        with lcbench.extend(model, "self_extend:group_size=3,neighbor_window=10"):
            model(ids.to(device), labels=ids.to(device), use_cache=False).loss.backward()
        gradients.append({name: weight.grad.double().cpu() for name, weight in model.named_parameters()})
    for name, expected in gradients[0].items():
        assert error(gradients[1][name], expected) < 1e-4, name


def test_generation_and_restore() -> None:
    model = zoo.llama().to(DEVICE)
    ids = zoo.tokens(2, 70).to(DEVICE)
    with torch.no_grad():
        native = model(ids).logits
        with lcbench.extend(model, "dca+logn", length=80):
            answers = [
                model.generate(ids, max_new_tokens=10, do_sample=False, **options)
                for options in ({}, {"use_cache": False}, {"cache_implementation": "static", "disable_compile": True})
            ]
        assert all(torch.equal(answer, answers[1]) for answer in answers)
        assert torch.equal(model(ids).logits, native)


@pytest.mark.parametrize("more", ["", ",mem_dtype=bfloat16", ",memory=knn,top_k=200", ",mem_attention_grouping=[2,9]"])
@torch.no_grad()
def test_memory_in_ram(more: str) -> None:
    """Keys that left the window wait on the CPU; those of the window stay on the GPU. The same answers either way."""
    windows = "fot:memory_layers=[1],context_length=24,last_context_length=8,variant=streaming"
    model = zoo.llama().to(DEVICE)
    ids, answers = zoo.tokens(2, N).to(DEVICE), []
    for where in ("", ",mem_device=cpu"):
        cache = DynamicCache()
        with lcbench.extend(model, windows + more + where):
            calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in ((0, 60), (60, 61), (61, N))]
        layer = cache.layers[1]
        assert layer.keys.device.type == DEVICE
        assert layer.store.length > 0 and layer.store.keys.device.type == ("cpu" if where else DEVICE)
        answers.append(torch.cat(calls, dim=1))
    torch.testing.assert_close(*answers, atol=1e-4, rtol=0)


@pytest.mark.parametrize("more", ["", ",mem_device=cpu", ",memory=knn,top_k=9", ",memory=knn,top_k=9,mem_device=cpu"])
def test_beams_with_a_memory(more: str) -> None:
    """Windows move to memory while beams are reordered."""
    spec = f"fot:memory_layers=[1],context_length=24,last_context_length=16,variant=streaming{more}"
    model, ids = zoo.llama().to(DEVICE), zoo.tokens(2, 70).to(DEVICE)
    with lcbench.extend(model, spec):
        answers = [
            model.generate(ids, max_new_tokens=12, do_sample=False, num_beams=3, use_cache=use_cache)
            for use_cache in (True, False)
        ]
    assert torch.equal(*answers)


REAL = Lengths(4096, 32_768)
KERNELS = ["flash", "flex", "triton", "matmul"]


def random_heads(n: int, dtype: torch.dtype, heads: tuple[int, int] = (8, 2), width: int = 128) -> list[Tensor]:
    """Queries, keys and values of Llama 3's grouping and width, on the GPU."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, h, n, width, generator=generator).to(DEVICE, dtype) for h in (heads[0], heads[1], heads[1])]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [4096, 32_768])
@pytest.mark.parametrize("spec", ["vanilla", "self_extend", "dca", "dca:chunk_size=3000", "rerope", "streaming"])
@torch.no_grad()
def test_real_lengths_by_random_rows(spec: str, n: int, dtype: torch.dtype, kernel: str) -> None:
    """64 queries of the last chunk of a prefill against the float64 reference, which costs what they see only."""
    if kernel in ("flex", "triton"):
        pytest.importorskip("triton")
    chunk = 4096
    method = parse_method(spec).resolve(REAL)
    q, k, v = random_heads(n, dtype)
    q, tables = q[:, :, -chunk:], RopeTables(method, REAL)
    pieces = method.pieces(torch.arange(n - chunk, n), torch.arange(n), 0)
    rope, scale = rope_of(128), 128**-0.5
    out, lse = BackendSelector(kernel)(Call(q, k, v, pieces, rope, tables, 0, scale))
    rows = torch.randperm(chunk, generator=torch.Generator().manual_seed(1))[:64].sort().values
    seen = [replace(p, q_pos=p.q_pos[rows], start=p.start[rows], stop=p.stop[rows]) for p in pieces]
    expected, expected_lse = dense_attention(Call(q[:, :, rows], k, v, seen, rope, tables, 0, scale))
    assert error(out[:, :, rows], expected.cpu()) < 4 * torch.finfo(dtype).eps
    assert (lse[:, :, rows] - expected_lse).abs().max() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_flex_knows_soft_caps_and_values_of_another_width(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    method = parse_method("self_extend").resolve(REAL)
    q, k, v = random_heads(3000, dtype, width=96)
    pieces = method.pieces(torch.arange(3000), torch.arange(3000), 0)
    call = Call(q, k, v[..., :64], pieces, rope_of(96), RopeTables(method, REAL), 0, 0.1, softcap=2.0)
    (out, lse), (expected, expected_lse) = BackendSelector("flex")(call), dense_attention(call)
    assert error(out, expected.cpu()) < 8 * torch.finfo(dtype).eps
    assert (lse - expected_lse).abs().max() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kernel", ["flash", "flex", "triton"])
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_decode_by_a_kernel_that_is_named(kernel: str, rows: int) -> None:
    """One query a row of the batch: FlashAttention-2 packs the heads of a group in another way there."""
    if kernel in ("flex", "triton"):
        pytest.importorskip("triton")
    method = parse_method("dca").resolve(REAL)
    q, k, v = (x.expand(rows, -1, -1, -1).clone() for x in random_heads(9000, torch.bfloat16))
    q = torch.randn_like(q[:, :, -1:])
    pieces = method.pieces(torch.arange(8999, 9000), torch.arange(9000), 0)
    call = Call(q, k, v, pieces, rope_of(128), RopeTables(method, REAL), 0, 128**-0.5)
    (out, lse), (expected, expected_lse) = BackendSelector(kernel)(call), BackendSelector("reference")(call)
    assert error(out, expected.cpu()) < 4 * torch.finfo(torch.bfloat16).eps
    assert (lse - expected_lse).abs().max() < 8 * torch.finfo(torch.bfloat16).eps


@torch.no_grad()
def test_auto_takes_the_kernel_for_prefill_and_matmul_for_decode() -> None:
    model = zoo.llama().to(DEVICE, torch.bfloat16)
    steering = lcbench.extend(model, "dca")
    with steering:
        model.generate(zoo.tokens(1, 70).to(DEVICE), max_new_tokens=3, do_sample=False)
    assert len(steering.backends) == 2 and steering.backends[0].startswith("flash (FA")
    assert steering.backends[1] == "matmul"
