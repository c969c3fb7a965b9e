"""Thoughts before answers: their budget is part of the length, they are ended in it, and none is scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.core.thinking import HARMONY, markers_of
from lcbench.engine.base import CallCost, Engine, Output, PromptRequest
from lcbench.engine.models import ModelSource
from lcbench.engine.sampling import Sampling
from lcbench.results.records import read_records
from lcbench.run import assemble
from lcbench.run.measures import Measured, SampleRequest
from lcbench.run.measures.answer import Answer
from lcbench.run.measures.thought import Thinking, split_answer
from lcbench.run.plan import Plan, make_plan
from lcbench.run.requests import Request
from tests.families import DEEPSEEK_R1, HYBRID
from tests.helpers import cli, fields_of, model_folder, records_of
from tests.tasks.test_format import SHOTS, YAML
from tests.tokenizers import build

BUDGET, LENGTH = 40, 400
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Scripted(Engine):
    """An engine that says what it is told to, as far as its budget and stop strings go."""

    def __init__(self, tokenizer: Any, *said: str | Callable[[PromptRequest], str]) -> None:
        self.tokenizer, self.said, self.asked = tokenizer, list(said), []

    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        self.asked.append(list(requests))
        said = self.said.pop(0)
        outputs = []
        for request in requests:
            ids = self.tokenizer(said if isinstance(said, str) else said(request), add_special_tokens=False).input_ids
            reason = "length" if len(ids) > request.max_new_tokens else "stop"
            ids = ids[: request.max_new_tokens]
            cost = CallCost(1.0, 2.0, 10, reused_tokens=3, decoded_together=len(requests))
            outputs.append(Output(str(self.tokenizer.decode(ids)), len(ids), reason, cost))
        return outputs

    def continuations(self, request: PromptRequest, choices: Any) -> Any:
        raise NotImplementedError

    def read(self, tokens: list[int], first: int, seq_len: int) -> Any:
        raise NotImplementedError

    def text(self, call: int, n: int = 0) -> str:
        """The prompt of a request."""
        return str(self.tokenizer.decode(self.asked[call][n].tokens))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"Here is {n}.", "ask": "Which?", "gold": "even", "kind": "even"} for n in range(30)]
    for name in ("rows", "shown", "asked"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(YAML)
    Path("shots.yaml").write_text(SHOTS + "scoring: generate\nstop: ['.']\n")


def model(template: str) -> Path:
    folder = model_folder(Path("thinker"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return folder


def plan_of(template: str, spec: str = "passkey", samples: int = 2, **given: Any) -> Plan:
    asked = {"think_budget": BUDGET, **given}
    return make_plan(
        ModelSource(str(model(template))), [Request(spec, None, (LENGTH,), None, samples, tuple(asked.items()))]
    )


def answered(plan: Plan, *said: Any) -> tuple[Scripted, list[SampleRequest], list[Measured]]:
    engine, (job,) = Scripted(plan.tokenizer, *said), plan.jobs
    asked = [SampleRequest(job, n, job.example(n, plan.tokenizer, 0)) for n in range(job.samples)]
    return engine, asked, Answer(plan, engine, Path())(asked)


def test_a_thought_and_then_the_answer() -> None:
    plan = plan_of(PLAIN)
    engine, asked, found = answered(plan, "<think>Is it 7? It is.\nWhat next.</think> 12", " 4821")
    for n, (one, measured) in enumerate(zip(asked, found)):
        first, second = (engine.asked[call][n] for call in (0, 1))
        assert engine.text(0, n).endswith("What is the pass key?</user>\n<assistant>")
        assert (first.stop, first.end_tokens) == (("</think>",), frozenset())
        assert engine.text(1, n) == (
            engine.text(0, n) + "<think>Is it 7? It is.\nWhat next.</think>\n\nThe pass key is"
        )
        assert len(one.example.prompt) + BUDGET + one.example.max_new_tokens == LENGTH == first.seq_len
        assert len(second.tokens) + second.max_new_tokens < LENGTH
        assert second.max_new_tokens == one.example.max_new_tokens and second.stop == one.example.stop
        assert (measured.prediction, measured.reasoning) == (" 4821", "Is it 7? It is.\nWhat next.")
        assert measured.reasoning_cut is False and measured.output_tokens == len(plan.tokenizer(" 4821").input_ids) - 1
        assert (measured.cost.prefill_seconds, measured.cost.decode_seconds) == (1.0, 5.0)
        assert measured.cost.reused_tokens == 3


def test_a_thought_without_end_is_ended() -> None:
    engine, asked, found = answered(plan_of(PLAIN), "<think>" + "on and on " * 99, " 4821")
    for n, one in enumerate(asked):
        second = engine.asked[1][n]
        assert len(second.tokens) + second.max_new_tokens == LENGTH, "to the token"
        assert engine.text(1, n).endswith("</think>\n\nThe pass key is")
        assert found[n].reasoning_cut is True and str(found[n].reasoning).startswith("on and on")
        assert found[n].prediction == " 4821" and one.example.references


def test_an_answer_without_a_thought() -> None:
    engine, asked, found = answered(plan_of(PLAIN), "The pass key is 12, I think.", " 4821")
    for n, one in enumerate(asked):
        assert engine.asked[1][n].tokens == one.example.prompt
        assert found[n].reasoning is found[n].reasoning_cut is None and found[n].prediction == " 4821"


def test_a_template_that_begins_the_thought() -> None:
    engine, _, found = answered(plan_of(DEEPSEEK_R1), "Is it 7? It is.</think>", " 4821")
    assert engine.text(0).endswith("<|Assistant|><think>\n")
    assert engine.text(1).endswith("<|Assistant|><think>\nIs it 7? It is.</think>\n\nThe pass key is")
    assert found[0].reasoning == "Is it 7? It is."


def test_a_template_that_was_told_not_to_think() -> None:
    engine, asked, found = answered(plan_of(HYBRID, chat_options=("enable_thinking=false",)), " 4821")
    assert len(engine.asked) == 1 and engine.asked[0][0].tokens == asked[0].example.prompt
    assert found[0].reasoning is None


def test_a_marker_of_ones_own() -> None:
    engine, _, found = answered(plan_of(PLAIN, think_end="So:"), "One and one. So: 2", " 4821")
    assert engine.text(1).endswith("<assistant>One and one. So:The pass key is")
    assert found[0].reasoning == "One and one."


def test_control_tokens_in_a_thought_are_text() -> None:
    plan = plan_of(PLAIN)
    engine, _, _ = answered(plan, "<think>It says <|endoftext|> here.</think>", " 4821")
    assert engine.asked[1][0].tokens.count(plan.tokenizer.eos_token_id) == 1  # the BOS, which is the same token
    assert "It says <|endoftext|> here." in engine.text(1)


@pytest.mark.parametrize(("spec", "behind"), [("mine.yaml", "</think>\n\n"), ("shots.yaml", "</think>\n\nKind:")])
def test_other_families(spec: str, behind: str) -> None:
    engine, asked, found = answered(plan_of(PLAIN, spec), "<think>Even. Or odd.</think>", " even. Yes.")
    assert engine.text(1).endswith(behind)
    assert found[0].prediction.strip() == ("even" if asked[0].example.stop else "even. Yes.")


def test_sampling_is_seeded_by_sample_part_and_repeat() -> None:
    plan = plan_of(PLAIN, sampling="temperature=0.6,top_p=0.95", repeats=2)
    engine, asked, _ = answered(plan, "<think>Hm.</think>", " 4821")
    assert asked[0].example == asked[1].example != asked[2].example
    requests = [one for call in engine.asked for one in call]
    assert {one.sampling for one in requests} == {Sampling(0.6, 0.95)}
    assert len({one.seed for one in requests}) == len(requests) == 8


def test_without_a_budget_thoughts_are_cut_out_all_the_same() -> None:
    plan = plan_of(PLAIN, think_budget=0)
    _, asked, found = answered(plan, lambda request: "<think>a</think>b")
    assert markers_of(plan.tokenizer) and asked[0].example.begun == 0
    if found[0].reasoning is not None:  # the budget of a key is short
        assert found[0].prediction in "b"
    _, _, found = answered(plan_of_documents(), "<think>a. b.</think>\n\neven")
    assert (found[0].reasoning, found[0].prediction, found[0].reasoning_cut) == ("a. b.", "even", False)
    _, _, found = answered(plan_of_documents(), lambda request: "<think>even, or")
    assert (found[0].reasoning, found[0].prediction, found[0].reasoning_cut) == ("even, or", "", True)


def test_a_thought_that_the_tokenizer_does_not_tell_of() -> None:
    tokenizer = build("llama-3")
    assert split_answer(tokenizer, "", [], "<think>7?</think>\n\n12") == ("7?", "12", False)
    assert split_answer(tokenizer, "", [], "<think>7") == ("7", "", True)
    assert split_answer(tokenizer, "", [], " 7") == (None, " 7", None)


def test_an_answer_that_begins_in_its_channel_at_once() -> None:
    tokenizer = build("llama-3")
    thought = Thinking(tokenizer, HARMONY, 99).thought([], Output(f"{HARMONY.end}12", 9, "stop", CallCost(1.0, 2.0)))
    assert thought is not None and tokenizer.decode(thought.behind) == HARMONY.end


def plan_of_documents() -> Plan:
    Path("long.yaml").write_text(YAML.replace("max_new_tokens: 8", "max_new_tokens: 64"))
    request = Request("long.yaml", None, (LENGTH,), None, 1)
    return make_plan(ModelSource("thinker"), [request])


class Templated(ModelSource):
    """A model behind a server that puts its own template around every prompt."""

    own_template = True


class Splitting(Scripted):
    """Splits the thought from the answer, as servers with a reasoning parser do."""

    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        halves = [(output, output.text.split("|")) for output in super().generate(requests)]
        return [replace(output, thought=thought, text="".join(text)) for output, (thought, *text) in halves]


@pytest.mark.parametrize(
    ("kind", "said", "found"),
    [
        (Splitting, "Is it\n7? ... |4821\nIt", ("Is it\n7? ...", "4821", False)),
        (Splitting, "Is it\n7? " * 50, ("Is it\n7? Is it", "", True)),  # the budget ended, and `content` is null
        (Splitting, "Is it|\n", ("Is it", "", False)),
        (Scripted, "Is it\n7?</think>4821\nIt", ("Is it\n7?", "4821", False)),  # a template that begins the thought
        (Scripted, "<think>Is it\n7?", ("Is it\n7?", "", True)),
        (Scripted, "4821\nIt", (None, "4821", None)),
    ],
)
def test_behind_a_template_of_the_servers_own_thought_and_answer_come_at_once(
    kind: type[Scripted], said: str, found: tuple[str | None, str, bool | None]
) -> None:
    """Both budgets in one call, and stop strings are for the answer alone."""
    model(PLAIN)
    request = Request("passkey", None, (LENGTH,), None, 1, (("think_budget", BUDGET),))
    plan = make_plan(Templated("thinker"), [request])
    (job,) = plan.jobs
    one = SampleRequest(job, 0, replace(job.example(0, plan.tokenizer, 0), stop=("\n",)))
    engine = kind(plan.tokenizer, said)
    (measured,) = Answer(plan, engine, Path())([one])
    ((asked,),) = engine.asked
    assert asked.max_new_tokens == BUDGET + one.example.max_new_tokens and asked.stop == ()
    assert len(asked.tokens) + asked.max_new_tokens == LENGTH
    thought, answer, was_cut = found
    assert str(measured.reasoning).startswith(str(thought)) and measured.prediction == answer
    assert measured.reasoning_cut is was_cut


def test_records_and_tables_tell(tmp_path: Path) -> None:
    arguments = ("run", "passkey", "--seq-len", "300", "--samples", "2", "--model", model(PLAIN), "--output", "run")
    options = ("--think-budget", "24", "--think-end", "So:", "--sampling", "temperature=2", "--repeats", "3")
    done = cli(*arguments, *options)
    assert done.code == 0, done.err
    records = fields_of(Path("run"))
    assert [
        record["id"].rpartition("/")[2] for record in sorted(records, key=lambda r: (r["sample"], r["repeat"]))
    ] == [
        *("0", "0.1", "0.2"),
        *("1", "1.1", "1.2"),
    ]
    for record in records:
        assert record["prompt_tokens"] + record["think_budget"] + record["max_new_tokens"] == 300
        assert record["reasoning"] and record["reasoning_cut"] and 0 < record["reasoning_tokens"] <= 24
    assert len({record["reasoning"] for record in records}) == 6
    said = " ".join(done.out.split())
    assert "thoughts that did not end: 6 of 6 with vanilla at 300" in said
    assert "standard deviation over 3 repeats" in said
    before = records_of(Path("run"))
    kept = Path("run/records.jsonl").read_text().splitlines(keepends=True)
    Path("run/records.jsonl").write_text("".join(kept[:2]))
    assert cli(*arguments, *options).code == 0
    assert records_of(Path("run")) == before
    more = cli(*arguments, *options[:-1], "4")
    assert more.code == 0 and len(read_records(Path("run"))) == 8, "repeats can be added, as samples can"
    assert {id: record for id, record in records_of(Path("run")).items() if id in before} == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--think-budget", "64"), "tells how a thought ends; name it, as in --think-end '</think>'"),
        (("--think-budget", "300", "--think-end", "So:"), "300 tokens leave no space besides the 300 tokens of"),
        (("--think-budget", "260", "--think-end", "So:"), "or more, besides the 260 tokens of --think-budget"),
        (("--repeats", "2"), "would be the same answer; pass --sampling, too"),
        (("--sampling", "temperature=0"), "temperature must be above 0"),
    ],
)
def test_refusals(options: tuple[str, ...], sentence: str) -> None:
    refused = cli("run", "passkey", "--seq-len", "300", *options)
    assert refused.code == 2 and sentence in refused.error


def test_a_refusal_that_has_nothing_to_do_with_the_budget_does_not_name_it() -> None:
    options = ("--think-budget", "64", "--chat-option", "effort=low")
    refused = cli("run", "passkey", "--seq-len", "300", "--model", model(PLAIN), *options)
    assert refused.error.endswith("has no option 'effort'; leave --chat-option out.")


def test_no_room_for_thoughts_about_a_text() -> None:
    refused = cli("run", "pg19", "--seq-len", "300", "--think-budget", "64")
    assert refused.code == 2 and "--think-budget is for tasks whose answers are generated" in refused.error


def test_a_thought_begun_and_no_budget() -> None:
    plan = make_plan(ModelSource(str(model(DEEPSEEK_R1))), [Request("passkey", None, (LENGTH,), None, 1)])
    assert any("the chat template begins a thought" in note for note in plan.notes)
    with pytest.raises(UserError, match="sampling"):
        plan_of_bad_sampling()


def plan_of_bad_sampling() -> Plan:
    request = Request("passkey", None, (LENGTH,), None, 1, (("sampling", "heat=1"),))
    return make_plan(ModelSource("thinker"), [request])


def test_assembled_records_name_the_budget() -> None:
    plan = plan_of(PLAIN, samples=1)
    (job,) = plan.jobs
    unusable = assemble.unbuilt(plan, job, 0, "no such row")
    assert unusable.row_failed and unusable.identity.repeat is None
