"""The most likely label, by a plain forward pass of prompt and label in float64."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import lcbench
from lcbench.engine import continuations
from lcbench.engine.models import ModelSource
from lcbench.run import runner
from lcbench.run.plan import make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Cell, load_task
from tests.attention import zoo
from tests.engine.test_prefix_reuse import Silent
from tests.helpers import Fields, fields_of

WIDE = ModelSource(dtype="float64")
LABELS = ("the code", "the sky", "the sky is blue", "sun", "It was late.")
METHODS = ("vanilla", "dca", "self_extend:group_size=4", "streaming", "dynamic_ntk")
YAML = """
family: in_context
data: asked.csv
demonstrations: shown.csv
columns: {question: text, references: kind}
prompt: "Text: {{ text }}\\nKind: {{ label }}\\n\\n"
draws: 2
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("shown", 60), ("asked", 4)):
        with Path(f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "kind"])
            writer.writerows((f"The code of Mara is {name} {n}.", LABELS[n % len(LABELS)]) for n in range(count))
    Path("mine.yaml").write_text(YAML)


def run(methods: tuple[str, ...], *seq_lens: int, source: ModelSource = WIDE) -> list[Fields]:
    outcome = runner.run(make_plan(source, [Request("mine.yaml", methods, seq_lens)]), Path("run"), Silent())
    assert not outcome.failed
    return fields_of(Path("run"))


def truth(model: PreTrainedModel, record: Fields) -> dict[str, float]:
    """ln p of every label behind the prompt, each in a pass of its own without cache."""
    example = load_task("mine.yaml").example(Cell(record["seq_len"]), record["sample"], WIDE.tokenizer(), 0)
    logs = {}
    with lcbench.extend(model, record["method"], length=record["seq_len"]) as steered, torch.no_grad():
        for label, tokens in example.choices.items():
            lines = steered(torch.tensor([example.prompt + tokens])).logits[0].log_softmax(-1)
            places = range(len(example.prompt) - 1, len(example.prompt) + len(tokens) - 1)
            logs[label] = sum(float(lines[place, token]) for place, token in zip(places, tokens, strict=True))
    return logs


@pytest.mark.parametrize(
    "method",
    [method if method in ("vanilla", "dca") else pytest.param(method, marks=pytest.mark.slow) for method in METHODS],
)
def test_as_a_plain_forward_pass(method: str) -> None:
    records = run((method,), 300, 500)
    assert len(records) == 16
    model = WIDE.model()
    for record in {record["seq_len"]: record for record in records}.values():
        expected = truth(model, record)
        assert set(expected) == set(LABELS)
        best = max(expected, key=expected.__getitem__)
        assert record["prediction"] == best
        for label, log in record["choices"].items():
            assert log == pytest.approx(expected[label], abs=1e-4)
        assert all(expected[label] < expected[best] for label in set(LABELS) - set(record["choices"]))
        assert record["scores"] == {"score": 100.0 * (best in record["references"])}
        assert record["output_tokens"] == 0 and record["prompt_tokens"] + record["max_new_tokens"] <= record["seq_len"]


def test_a_draw_is_computed_once() -> None:
    records = run(("dca",), 300, 500)
    computed = sum(record["prompt_tokens"] - record["cost"]["reused_tokens"] for record in records)
    drawn = {(r["seq_len"], r["details"]["draw"]): r["prompt_tokens"] for r in records}
    longest = sum(tokens for (length, _), tokens in drawn.items() if length == 500)
    assert computed < 1.6 * longest, "the questions and the longer length, not the demonstrations again"


@pytest.mark.parametrize("of", ["llama", "mistral", "gemma3"])
@torch.no_grad()
def test_any_cache_is_left_as_it_was(of: str) -> None:
    """Also one whose layers have a sliding window, which cannot go back."""
    sliding = {
        "mistral": lambda: zoo.config("MistralConfig", num_hidden_layers=2, sliding_window=16),
        "gemma3": lambda: zoo.config(
            "Gemma3TextConfig", num_hidden_layers=2, sliding_window=16, head_dim=16, sliding_window_pattern=2
        ),
    }
    model = (zoo.build(sliding[of]()) if of in sliding else zoo.llama()).double()
    prompt = zoo.tokens(1, 40)[0].tolist()
    choices = {str(n): zoo.tokens(1, 1 + n % 4, seed=n)[0].tolist() for n in range(9)}
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    first = continuations.log_probabilities(model, prompt, cache, keep=1)
    scores = continuations.likely(model, choices, first, cache)
    plain = {}
    for name, tokens in choices.items():
        logs = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        plain[name] = float(logs[range(39, 39 + len(tokens)), tokens].sum())
    assert cache.get_seq_length() == 40
    assert max(scores, key=scores.__getitem__) == max(plain, key=plain.__getitem__)
    assert scores == {name: pytest.approx(plain[name], abs=1e-9) for name in scores}


@torch.no_grad()
def test_what_cannot_win_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single token that is likelier than any other first token ends it without a pass; none is cut short wrongly."""
    first = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    passes: list[int] = []  # how many tokens each pass has after the prompt

    def uneven(model: Any, tokens: Any, cache: Any, keep: int) -> torch.Tensor:
        passes.append(len(tokens))
        return torch.tensor([[0.3, 1 / 3, 1.1 / 3]], dtype=torch.float64).log().expand(keep, 3)

    monkeypatch.setattr(continuations, "log_probabilities", uneven)

    class Cache:
        layers = ()

        def crop(self, tokens: int) -> None: ...

    def score(choices: dict[str, list[int]]) -> dict[str, float]:
        return continuations.likely(None, choices, first, Cache())  # type: ignore[arg-type]

    assert list(score({"a": [1, 0], "b": [0]})) == ["b"] and passes == []
    # 0.6 / 3 = 0.2 does not rule out a first token of 0.3, whose whole is likelier; 0.1 is ruled out.
    found = score({"long": [0, 1], "single": [1], "late": [2]})
    assert list(found) == ["long", "single"] and passes == [1]
    assert found == {"long": pytest.approx(torch.tensor(0.2).log().item()), "single": pytest.approx(first[0, 1].item())}


def test_what_is_no_number_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = continuations.log_probabilities
    monkeypatch.setattr(continuations, "log_probabilities", lambda *args, **how: logs(*args, **how) * torch.nan)
    outcome = runner.run(make_plan(WIDE, [Request("mine.yaml", ("vanilla",), (300,))]), Path("run"), Silent())
    assert len(outcome.failed) == 1 and "NotFiniteError: the logits are NaN or infinite" in outcome.failed[0][1]


@pytest.mark.parametrize(("factor", "what"), [(0, "are all equal"), (torch.nan, "are NaN or infinite")])
def test_a_later_token_of_a_choice(factor: float, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is answered for, and a token behind the first of a choice is not."""
    load = ModelSource.model

    def broken(source: ModelSource) -> PreTrainedModel:
        model = load(source)

        def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if "input_ids" in kwargs and kwargs["input_ids"].shape[1] < 8:
                output.logits *= factor

        model.register_forward_hook(hook, with_kwargs=True)
        return model

    monkeypatch.setattr(ModelSource, "model", broken)
    outcome = runner.run(make_plan(WIDE, [Request("mine.yaml", ("vanilla",), (300,))]), Path("run"), Silent())
    assert len(outcome.failed) == 1 and f"NotFiniteError: the logits {what}" in outcome.failed[0][1]
