"""Documents of cross-batch training, the growth of d, and short runs: the loss falls, the result loads again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import lcbench
from lcbench.apps.train.documents import Library
from lcbench.apps.train.fot import contexts_at, facts_apart, generated, generated_batch, train_fot
from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks.text.books import Book
from tests.helpers import cli

L = 256
TOKENIZER = ModelSource().tokenizer()


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(TOKENIZER, sentences=120)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A random Llama of a few thousand parameters that knows the embedded model's tokens; trained for 64 tokens."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1344,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return ModelSource(str(folder), dtype="float32", device="cpu")


class TestContexts:
    def test_every_value_but_the_last_for_equal_stretches(self) -> None:
        grown = [contexts_at(step, 900, (1, 2, 4, 8, 16)) for step in range(900)]
        assert [grown.count(d) for d in (1, 2, 4, 8, 16)] == [100, 100, 100, 100, 500]
        assert grown == sorted(grown)

    def test_one_value_for_the_whole_run(self) -> None:
        assert {contexts_at(step, 7, (4,)) for step in range(7)} == {4}

    def test_more_values_than_steps(self) -> None:
        assert [contexts_at(step, 2, (1, 2, 4)) for step in range(2)] == [1, 4]


class TestDocuments:
    def test_facts_stand_in_the_first_window_and_are_asked_for_in_the_second(self, library: Library) -> None:
        rng, taken = random.Random(0), set[str]()
        for _ in range(30):
            ids, weights = facts_apart(rng, L, library, taken)
            first, second = TOKENIZER.decode(ids[:L]), TOKENIZER.decode(ids[L:])
            answers = [position for position, weight in enumerate(weights) if weight == 1.0]
            assert len(ids) == len(weights) == 2 * L + 1
            assert answers and min(answers) >= L
            assert "What is the" not in first and "What is the" in second
            for question in second.split("What is the ")[1:]:
                lead = question.split("?")[1]
                key = lead.split(" is ")[0]
                answer = lead[len(key) :].split(".")[0]
                assert f"{key}{answer}" in first

    def test_no_two_facts_of_a_batch_have_the_same_key(self, library: Library) -> None:
        taken: set[str] = set()
        leads: list[str] = []
        for _ in range(40):
            ids, _ = facts_apart(random.Random(len(leads)), L, library, taken)
            first = TOKENIZER.decode(ids[:L])
            leads += [part.split(" is ")[0] for word in ("The code of", "The best thing to do in", "The pass key")
                      for part in first.split(word)[1:]]  # fmt: skip
        assert len(leads) > 80
        assert len(set(leads)) == len(leads)

    def test_a_batch_mixes_facts_books_and_copying(self, library: Library) -> None:
        documents = generated_batch(random.Random(3), 60, L, library)
        assert {len(document.ids) for document in documents} == {2 * L + 1}
        asked = sum("What is the" in TOKENIZER.decode(document.ids) for document in documents)
        books = sum(set(document.weights) == {0.5} for document in documents)
        assert 0.4 < asked / 60 < 0.8
        assert 0.1 < books / 60 < 0.5
        assert asked + books < 60

    def test_steps_and_processes_see_different_documents_always_the_same(self) -> None:
        draws = [generated(TOKENIZER, 4, L, seed) for seed in (0, 0, 1)]
        first = [[part(step) for step in (0, 1)] for part in draws]
        assert torch.equal(first[0][0][0], first[1][0][0])
        assert torch.equal(first[0][1][1], first[1][1][1])
        assert not torch.equal(first[0][0][0], first[0][1][0])
        assert not torch.equal(first[0][0][0], first[2][0][0])

    def test_windows_too_short_for_facts(self, library: Library) -> None:
        with pytest.raises(UserError, match="do not fit into windows of 32 tokens"):
            facts_apart(random.Random(0), 32, library, set())


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def books(folder: Path) -> str:
    for seed in range(6):
        (folder / f"{seed}.txt").write_text(Book(seed).text(80), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def tuned(small_model: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = books(tmp_path_factory.mktemp("books"))
    out = tmp_path_factory.mktemp("tuned") / "model"
    return train_fot(
        small_model,
        out,
        [1],
        contexts=(1, 2, 4),
        text=text,
        steps=40,
        learning_rate=0.02,
        batch=4,
        compile_decoder=False,
        last_context_length=16,
    )


class TestTraining:
    def test_the_loss_falls(self, tuned: Path) -> None:
        found = losses(tuned)
        assert len(found) == 40
        assert sum(found[-5:]) < 0.85 * sum(found[:5])

    def test_the_result_loads_and_its_config_says_what_inference_needs(self, tuned: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(tuned)
        assert (model.config.model_type, model.config.max_position_embeddings) == ("llama", 64)
        assert (model.config.mem_layers, model.config.last_context_length) == ([1], 16)
        ids = torch.arange(3, 203)[None]
        with torch.no_grad(), lcbench.extend(model, "fot") as extended:
            remembered = extended(ids).logits
        with torch.no_grad(), lcbench.extend(model, "fot", memory_layers=[0]) as extended:
            elsewhere = extended(ids).logits
        assert (remembered - elsewhere).abs().max() > 1e-3

    def test_memory_is_used(self, small_model: ModelSource, tuned: Path, tmp_path: Path) -> None:
        """With other distractors the same text and seed give another model."""
        text = books(tmp_path)
        alone = train_fot(
            small_model,
            tmp_path / "out",
            [1],
            contexts=(1,),
            text=text,
            steps=40,
            learning_rate=0.02,
            batch=4,
            compile_decoder=False,
        )
        assert losses(alone)[:8] == losses(tuned)[:8]  # d = 1 in both
        assert losses(alone)[-1] != losses(tuned)[-1]

    def test_the_embedded_model_on_generated_documents(self, tmp_path: Path) -> None:
        out = tmp_path / "model"
        short = ("--steps", "2", "--batch", "2", "--no-compile")
        done = cli("train", "fot", "--out", out, "--memory-layers", "1", "--d", "1,2", *short)
        assert done.code == 0, done.err
        assert done.out.strip() == f"model: {out}"
        recipe = json.loads((out / "recipe.json").read_text())["options"]
        assert (recipe["kind"], recipe["memory_layers"], recipe["contexts"]) == ("fot", [1], [1, 2])
        assert recipe["model"]["name"] == "lcbench-tiny"
        assert max(losses(out)) < 3  # the model knows such documents; an untrained one is at 7
        assert ModelSource(str(out)).model().config.last_context_length == 128


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ("--memory-layers", "1", "--d", "1,32"),
                "d goes from 1 to the documents of a batch, 16; [1, 32] does not",
            ),
            (("--memory-layers", "1", "--d", "0"), "d goes from 1"),
            (("--memory-layers", "1", "--d", "x"), "--d: 'x' is not a list of whole numbers"),
            (("--memory-layers", "9"), "there is no attention layer 9"),
            (("--memory-layers", "1", "--last-context-length", "300"), "not within a window of 256"),
            (("--memory-layers", "1", "--text", "/nowhere.txt"), "cannot read /nowhere.txt"),
            (("--memory-layers", "1", "--model", "lcbench-tin"), "did you mean 'lcbench-tiny'"),
        ],
    )
    def test_options_that_make_no_sense(self, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
        failed = cli("train", "fot", "--out", tmp_path / "out", *options)
        assert failed.code == 2
        assert message in failed.error

    def test_text_shorter_than_two_windows(self, small_model: ModelSource, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text(Book(0).text(3), encoding="utf-8")
        with pytest.raises(UserError, match="none of the texts has 129 tokens"):
            train_fot(small_model, tmp_path / "out", [1], text=str(tmp_path / "short.txt"), steps=1, batch=16)
