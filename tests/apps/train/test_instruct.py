"""LongLLaMA's formats token by token, cutting and padding, the mix of sources, and short runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

import lcbench
from lcbench.apps.train.instruct import (
    ChatFormat,
    Formatter,
    InstructionFormat,
    Limits,
    Mix,
    Sample,
    pad,
    read_formats,
    train_instruct,
)
from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_plain, encode_start
from lcbench.engine.models import ModelSource
from tests.apps.train.test_fot import losses, small_model
from tests.attention import zoo
from tests.helpers import cli
from tests.tokenizers import STYLES, build

__all__ = ["small_model"]
WIDE = Limits(200, 200, 200)
QUESTION = {"question": "Who was sad?", "response": "Mara."}
CHAT = {
    "conversations": [
        {"from": "human", "value": "Who was sad?"},
        {"from": "gpt", "value": "Mara."},
        {"from": "human", "value": "And happy?"},
        {"from": "gpt", "value": "Tobin."},
    ]
}


def with_end() -> PreTrainedTokenizerBase:
    """The embedded tokenizer, with an end of text of its own."""
    tokenizer = ModelSource().tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    return tokenizer


TOKENIZER = with_end()


def parts(sample: Sample) -> tuple[str, list[str]]:
    """The whole text of a sample, and the stretches of it that the loss counts."""
    counted: list[list[int]] = [[]]
    for id_, counts in zip(sample.ids, sample.counted, strict=True):
        if counts:
            counted[-1].append(id_)
        elif counted[-1]:
            counted.append([])
    return TOKENIZER.decode(sample.ids), [TOKENIZER.decode(ids) for ids in counted if ids]


@pytest.mark.parametrize("style", STYLES)
def test_a_sample_begins_as_a_prompt_of_a_run_does(style: str) -> None:
    """Such as nothing, where the tokenizer knows a BOS and puts none before a text (GPT-2, Qwen, SmolLM2)."""
    tokenizer = build(style)
    asked, said = encode_plain(tokenizer, "Who was sad?\n"), encode_plain(tokenizer, "Mara.")
    start = encode_start(tokenizer, "", "auto")
    sample = Formatter(tokenizer, WIDE).sample(QUESTION)
    assert sample.ids[: len(start) + len(asked)] == [*start, *asked] and sample.ids.count(said[-1]) >= 1
    assert len(start) == (0 if "not-added" in style else len(start)) and sample.counted.index(True) == len(
        [*start, *asked]
    )


class TestFormats:
    def test_question_and_response(self) -> None:
        text, counted = parts(Formatter(TOKENIZER, WIDE).sample(QUESTION))
        assert text == "<|endoftext|>Who was sad?\nMara.<|end|>"
        assert counted == ["Mara.<|end|>"]

    def test_every_text_around_prompt_question_and_response(self) -> None:
        names = ("pre_prompt", "post_prompt", "pre_question", "post_question", "pre_response", "post_response")
        around = {name: f"[{name}]" for name in names}
        formatter = Formatter(TOKENIZER, WIDE, InstructionFormat("p", "q", "r", **around))
        text, counted = parts(formatter.sample({"p": "one", "q": "two", "r": "three"}))
        question = "[pre_prompt]one[post_prompt][pre_question]two[post_question]"
        assert text == f"<|endoftext|>{question}[pre_response]three[post_response]<|end|>"
        assert counted == ["[pre_response]three[post_response]<|end|>"]
        text, _ = parts(formatter.sample({"q": "two", "r": "three"}))
        assert text.startswith("<|endoftext|>[pre_question]")

    def test_chat_counts_what_the_model_says(self) -> None:
        text, counted = parts(Formatter(TOKENIZER, WIDE).sample(CHAT))
        assert text == (
            "<|endoftext|>You are a helpful ASSISTANT.\n\n\nUSER: Who was sad?\nASSISTANT: Mara.<|end|>"
            "\nUSER: And happy?\nASSISTANT: Tobin.<|end|>"
        )
        assert counted == ["Mara.<|end|>", "Tobin.<|end|>"]

    def test_input_output_and_whole_are_cut_at_their_ends(self) -> None:
        whole = Formatter(TOKENIZER, WIDE).sample(QUESTION)
        asked = whole.counted.index(True)
        cut = Formatter(TOKENIZER, Limits(3, 2, 200)).sample(QUESTION)
        assert cut.ids == whole.ids[:3] + whole.ids[asked : asked + 2]
        assert cut.counted == [False] * 3 + [True] * 2
        short = Formatter(TOKENIZER, Limits(200, 200, asked + 1)).sample(QUESTION)
        assert (short.ids, short.counted) == (whole.ids[: asked + 1], whole.counted[: asked + 1])
        chat = Formatter(TOKENIZER, Limits(3, 2, 30)).sample(CHAT)
        assert chat.ids == Formatter(TOKENIZER, WIDE).sample(CHAT).ids[:30]

    def test_rows_without_their_columns(self) -> None:
        with pytest.raises(UserError, match="no 'response' with a text in it, only question"):
            Formatter(TOKENIZER, WIDE).sample({"question": "a"})
        with pytest.raises(UserError, match="not a list of turns"):
            Formatter(TOKENIZER, WIDE).sample({"conversations": "a"})

    def test_options_by_name(self) -> None:
        instructions, chat = read_formats({"instructions": {"prompt_field": "system"}, "chat": {"model_source": "bot"}})
        assert (instructions, chat) == (InstructionFormat("system"), ChatFormat(model_source="bot"))
        with pytest.raises(UserError, match="did you mean 'pre_prompt'"):
            read_formats({"instructions": {"preprompt": ""}})
        with pytest.raises(UserError, match="unknown format 'chats'"):
            read_formats({"chats": {}})


class TestPadding:
    SAMPLES = [Sample([5, 6, 7], [False, True, True]), Sample([8] * 10, [True] * 10)] * 200

    def test_samples_lie_anywhere_between_left_and_right_padding(self) -> None:
        batch = pad(random.Random(0), self.SAMPLES, 10, padding=9)
        places = set()
        for sample, ids, mask, weights in zip(self.SAMPLES, *batch, strict=True):
            left = int((mask == 0).sum())
            end = left + len(sample.ids)
            places.add((len(sample.ids), left))
            assert ids.tolist() == [9] * left + sample.ids + [9] * (10 - end)
            assert mask.tolist() == [0] * left + [1] * (10 - left)
            assert weights.nonzero().flatten().tolist() == [
                left + n for n, counts in enumerate(sample.counted) if counts
            ]
        assert places == {(3, left) for left in range(8)} | {(10, 0)}

    @pytest.mark.parametrize("method", [None, "dca", "fot:memory_layers=[1],last_context_length=20"])
    @torch.no_grad()
    def test_padding_to_the_right_changes_nothing_before_it(self, method: str | None) -> None:
        """Plain models and position plans: not even padding to the left does. With fot, the end of the row decides
        where memory ends."""
        model = zoo.llama()
        ids = zoo.tokens(1, 40)
        kinds = {"none": (0, 0), "left": (15, 0), "right": (0, 15), "both": (6, 9)}
        answers = {}
        for name, (left, right) in kinds.items():
            row = torch.nn.functional.pad(ids, (left, right), value=0)
            mask = torch.ones_like(row)
            mask[:, :left] = 0
            if method is None:
                logits = model(row, attention_mask=mask).logits
            else:
                with lcbench.extend(model, method, length=64):
                    logits = model(row, attention_mask=mask, use_cache=False).logits
            answers[name] = logits[:, left : left + 40]
        torch.testing.assert_close(answers["left"], answers["none"], atol=1e-4, rtol=0)
        apart = [(answers[name] - answers["none"]).abs().max().item() for name in ("right", "both")]
        assert all(difference > 0.01 if method and "fot" in method else difference < 1e-4 for difference in apart)


class TestMix:
    def test_sources_come_in_proportion(self) -> None:
        sources = [[{"of": name, "n": n} for n in range(50)] for name in "ab"]
        drawn = Mix(sources, [0.9, 0.1]).draw(random.Random(0), 5000)
        assert sum(row["of"] == "a" for row in drawn) / 5000 == pytest.approx(0.9, abs=0.02)
        assert {row["n"] for row in drawn} == set(range(50))

    @pytest.mark.parametrize("proportions", [[1.0], [1.0, 0.0], [0.5, -0.5]])
    def test_proportions_that_do_not_fit(self, proportions: list[float]) -> None:
        with pytest.raises(UserError, match="one proportion above 0 for each of the 2 sources"):
            Mix([[{}], [{}]], proportions)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": "The sky is blue.", "question": f"Say {n}", "response": f"It is {n}."} for n in range(5)]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "chats.jsonl").write_text(json.dumps(CHAT), encoding="utf-8")
    return [str(folder / "tasks.jsonl"), str(folder / "chats.jsonl")]


@pytest.mark.parametrize("method", [None, "fot:memory_layers=[1],last_context_length=24"])
def test_training(small_model: ModelSource, data: list[str], tmp_path: Path, method: str | None) -> None:
    out = train_instruct(
        small_model,
        tmp_path / "out",
        data,
        proportions=[0.9, 0.1],
        method=method,
        max_total_length=96,
        steps=30,
        learning_rate=0.1,  # the warmup of 200 steps goes no further than a seventh of it
        batch=4,
    )
    found = losses(out)
    assert sum(found[-5:]) < 0.85 * sum(found[:5])
    config = AutoModelForCausalLM.from_pretrained(out).config
    if method:
        assert (list(config.mem_layers), config.last_context_length) == ([1], 24)
    assert json.loads((out / "recipe.json").read_text())["options"]["limits"]["total"] == 96


def test_command(data: list[str], tmp_path: Path) -> None:
    (tmp_path / "formats.yaml").write_text("instructions: {pre_response: 'Answer: '}\n", encoding="utf-8")
    options = ("train", "instruct", "--data", data[0], "--data", data[1], "--proportions", "0.9,0.1")
    short = ("--max-total-length", "128", "--steps", "1", "--batch", "2")
    done = cli(*options, "--formats", tmp_path / "formats.yaml", *short, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())["options"]
    assert recipe["formats"] == {"instructions": {"pre_response": "Answer: "}}
    assert recipe["proportions"] == [0.9, 0.1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--proportions", "0.9"), "one proportion above 0 for each of the 2 sources"),
        (("--proportions", "a,b"), "not a list of numbers"),
        (("--formats", "/nowhere.yaml"), "cannot read /nowhere.yaml"),
        (("--max-total-length", "8", "--steps", "1"), "nothing is left to learn"),
        (("--method", "fot"), "memory_layers"),
    ],
)
def test_options_that_make_no_sense(data: list[str], tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    given = () if "--steps" in options else ("--steps", "1")
    failed = cli("train", "instruct", "--data", data[0], "--data", data[1], "--out", tmp_path / "out", *options, *given)
    assert failed.code == 2
    assert message in failed.error
