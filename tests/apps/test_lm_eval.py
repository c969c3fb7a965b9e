"""As a model of the lm-evaluation-harness: its own results under vanilla, ours under a method, one BOS."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import lcbench
from lcbench.apps.lm_eval import SteeredLM
from lcbench.core.errors import NotFiniteError, UserError
from lcbench.core.hub import work_without_hub
from lcbench.engine.models import ModelSource
from tests.helpers import TINY, cli, model_folder

DOCUMENTS = [
    {"text": "The code of Mara is 4821. The code of Tom is 1234.", "name": "Mara", "codes": ["4821", "1234"]},
    {"text": "The code of Olga is 7390.", "name": "Olga", "codes": ["7390", "1111"]},
    {
        "text": "It rained in the town all day long. " * 12 + "The code of Ben is 5566.",
        "name": "Ben",
        "codes": ["5566", "1"],
    },
]
PROMPT = "{{text}} What is the code of {{name}}? The code of {{name}} is"
TASKS: dict[str, dict[str, Any]] = {
    "codes_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": PROMPT,
        "doc_to_choice": "{{codes}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "codes_generate": {
        "output_type": "generate_until",
        "doc_to_text": PROMPT,
        "doc_to_target": " {{codes[0]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DCA = "dca:chunk_size=48,max_position=63"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "codes.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    for name, config in TASKS.items():
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **source, **config}))
    return folder


@pytest.fixture(scope="module")
def adds_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, its tokenizer putting a BOS before every text, as Llama's does, and the harness expects."""
    folder = model_folder(tmp_path_factory.mktemp("model") / "tiny")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    bos = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    tokenizer["post_processor"]["single"].insert(0, {"SpecialToken": {"id": bos["id"], "type_id": 0}})
    tokenizer["post_processor"]["special_tokens"] = {bos["id"]: bos}
    path.write_text(json.dumps(tokenizer))
    return folder


def samples(tasks: Path, model: Any, **arguments: Any) -> dict[str, list[Any]]:
    """What the model answered to each request, by task."""
    found = simple_evaluate(
        model=model,
        model_args=arguments or None,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None
    return {name: [sample["filtered_resps"] for sample in found["samples"][name]] for name in TASKS}


def requests(kind: str, *texts: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, text, number) for number, text in enumerate(texts)]  # type: ignore[arg-type]


def assert_same(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    assert one["codes_generate"] == other["codes_generate"]
    for first, second in zip(one["codes_choice"], other["codes_choice"], strict=True):
        for (value, greedy), (other_value, other_greedy) in zip(first, second, strict=True):
            assert value == pytest.approx(other_value, abs=1e-3) and greedy == other_greedy


def test_vanilla_is_the_harness_itself(tasks: Path, adds_bos: Path) -> None:
    own = samples(tasks, "hf", pretrained=str(adds_bos), add_bos_token=True, dtype="float32", device="cpu")
    ours = samples(tasks, "lcbench", pretrained=str(adds_bos), dtype="float32", max_length=256, batch_size=3)
    assert_same(ours, own)
    assert len(own["codes_choice"]) == len(DOCUMENTS)


def test_a_method_is_that_of_extend() -> None:
    """The loglikelihoods worked out again, from logits of the steered model."""
    lm = SteeredLM("lcbench-tiny", method="dca:chunk_size=48", max_position=63, max_length="512", dtype="float32")
    pairs = [
        (f"{one['text']} What is the code of {one['name']}? The code is", f" {one['codes'][0]}") for one in DOCUMENTS
    ]
    found = lm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    generated = lm.generate_until(
        requests("generate_until", *((context, {"until": ["."], "max_gen_toks": 6}) for context, _ in pairs)),
        disable_tqdm=True,
    )
    lm.close()
    source = ModelSource(dtype="float32")
    tokenizer, model = source.tokenizer(), source.model()
    with lcbench.extend(model, DCA, length=512), torch.no_grad():
        for (context, answer), (value, _), text in zip(pairs, found, generated, strict=True):
            start = tokenizer(context).input_ids
            ids = torch.tensor([start + tokenizer(answer, add_special_tokens=False).input_ids])
            log = model(ids).logits.log_softmax(-1)[0, len(start) - 1 : -1]
            assert value == pytest.approx(float(log.gather(1, ids[0, len(start) :, None]).sum()), abs=1e-3)
            new = model.generate(torch.tensor([start]), max_new_tokens=6, do_sample=False, eos_token_id=None)
            assert tokenizer.decode(new[0, len(start) :]).partition(".")[0] == text


def test_batches_change_nothing(tasks: Path) -> None:
    """Prompts of three lengths: padded at the left to generate, at the right to score. Vanilla's are above."""
    arguments = {"pretrained": "lcbench-tiny", "method": DCA, "max_length": 512, "dtype": "float32"}
    assert_same(samples(tasks, "lcbench", **arguments, batch_size=3), samples(tasks, "lcbench", **arguments))


@pytest.mark.parametrize("folder", ["embedded", "adds_bos"])
def test_exactly_one_bos(folder: str, adds_bos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the tokenizer adds one, the text spells it out, is scored as a whole, or is too long."""
    lm = SteeredLM(str(adds_bos) if folder == "adds_bos" else "lcbench-tiny", max_length=32)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(lm, "_model_call", lambda ids, **_: seen.append(ids) or lm.model(ids).logits.detach())
    long = "It rained in the town all day long. " * 12
    pairs = [("The code is", " 4821"), ("<|endoftext|>It is", " 4821"), ("", " The code"), (long, " 4821")]
    lm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("The code of Mara is 4821.",)), disable_tqdm=True)
    assert len(seen) == 5
    assert all(ids[0, 0] == 0 and (ids == 0).sum() == 1 for ids in seen)
    assert max(ids.shape[1] for ids in seen) == 32
    ids, mask = lm.tok_batch_encode(["The code is", "<|endoftext|>It", long], left_truncate_len=20)
    assert [row[keep.bool()][0] for row, keep in zip(ids, mask)] == [0, 0, 0] and ids.shape == (3, 20)
    assert [int((row[keep.bool()] == 0).sum()) for row, keep in zip(ids, mask)] == [1, 1, 1]
    assert mask[0, 0] == 0 and mask[:, -1].all()
    lm.close()


@pytest.mark.parametrize(("factor", "what"), [(float("nan"), "are NaN or infinite"), (0, "are all equal")])
def test_logits_that_are_no_answer(factor: float, what: str) -> None:
    lm = SteeredLM("lcbench-tiny", max_length=64, dtype="float32")
    lm.model.lm_head.weight.data.mul_(factor)
    with pytest.raises(NotFiniteError, match=what):
        lm.loglikelihood(requests("loglikelihood", ("The code is", " 4821")), disable_tqdm=True)
    with pytest.raises(NotFiniteError, match=what):
        lm.generate_until(requests("generate_until", ("The code is", {"max_gen_toks": 4})), disable_tqdm=True)
    lm.close()


def test_the_model_is_free_again() -> None:
    lm = SteeredLM("lcbench-tiny", method=DCA, max_length=300)
    assert lm.get_model_info()["method_options"]["chunk_size"] == 48
    model = lm.model
    with pytest.raises(UserError, match="steered already"), lcbench.extend(model, "vanilla"):
        pass
    del lm
    with lcbench.extend(model, "vanilla"):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dca", "chunksize": 48}, "chunk_size"),
        ({"method": "dcaa"}, "did you mean 'dca'"),
        ({"prertained": "x"}, "pretrained"),
        ({"pretrained": "no-such-model"}, "no-such-model"),
        ({"pretrained": "lcbench-tiny-fot", "method": "fot", "batch_size": 4}, "batch_size=1"),
        ({"method": "dca", "max_length": "long"}, "length"),
    ],
)
def test_what_the_user_can_mend(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SteeredLM(**arguments)


@pytest.mark.slow
def test_the_command(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tasks)
    model = f"pretrained={TINY},method=dca:chunk_size=192,mscale=0.1,max_length=512"
    task = ("--tasks", "codes_choice", "--include_path", tasks)
    outcome = cli("lm-eval", "--model", "lcbench", "--model_args", model, *task)
    assert outcome.code == 0, outcome.err
    (row,) = (line.split("|") for line in outcome.out.splitlines() if line.startswith("|codes_choice"))
    assert float(row[7]) == 1


def test_thoughts_are_cut_out_as_the_harness_does() -> None:
    """Its own arguments reach it: what stands before the end of a thought is not an answer."""
    lm = SteeredLM("lcbench-tiny", method="dca", think_end_token=" near", chat_template_args={"enable_thinking": False})
    plain = SteeredLM("lcbench-tiny", method="dca")
    asked = requests("generate_until", ("Mara keeps bees near Oslo. Mara", {"until": ["zzz"], "max_gen_toks": 24}))
    (cut,), (whole,) = (one.generate_until(asked, disable_tqdm=True) for one in (lm, plain))
    assert cut == whole.split(" near")[-1].lstrip() != whole
    assert lm.chat_template_args == {"enable_thinking": False}
    lm.close()
    plain.close()


def test_chats_are_those_of_lcbench() -> None:
    """The date stands still, parts are given where the template wants them, and nothing is left out."""
    lm = SteeredLM("lcbench-tiny", dtype="float32")
    asked, system = {"role": "user", "content": "What is it?"}, {"role": "system", "content": "Use digits."}
    lm.tokenizer.chat_template = (
        "{{ strftime_now('%Y') }}{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert lm.apply_chat_template([asked]) == "2024[user]What is it?[assistant]"
    assert lm.apply_chat_template([system, asked]) == "2024[user]Use digits.\n\nWhat is it?[assistant]"
    begun = [asked, {"role": "assistant", "content": "It is"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "2024[user]What is it?[assistant]It is"
    lm.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match="leaves out a part of the prompt; use another model, or leave --apply_chat_te"):
        lm.apply_chat_template([asked, asked | {"content": "And that?"}])
    lm.tokenizer.chat_template = None
    with pytest.raises(UserError, match="lcbench-tiny: the tokenizer has no chat template"):
        lm.apply_chat_template([asked])
    lm.close()


@pytest.mark.parametrize("given", ["pretrained=./nowhere/x,dtype=float32", '{"pretrained": "./nowhere/x"}'])
def test_a_missing_model_is_refused_before_the_harness_starts(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.apps.lm_eval.main", lambda arguments: pytest.fail("started"))
    done = cli("lm-eval", "--model", "lcbench", "--model_args", given, "--tasks", "x")
    assert done.code == 2 and done.error.startswith("error: there is no model folder ./nowhere/x;")


@pytest.mark.parametrize("answers", [True, False])
def test_without_the_hub_libraries_do_not_wait_for_it(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.core.hub.is_reachable", lambda: answers)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    work_without_hub()
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_DATASETS_OFFLINE"]) == (("0", "0") if answers else ("1", "1"))
