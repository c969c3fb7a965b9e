"""Where a model looks, on the embedded one, where the answer is known: layer 1's first head finds the needle."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lcbench.apps.explain.draw import draw
from lcbench.apps.explain.explain import explain
from lcbench.apps.explain.page import page_of
from lcbench.apps.explain.question import GROUPS, question
from lcbench.apps.explain.result import Explanation, Head, Look, Standing, shade, told
from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.run.plan import make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Cell, load_task
from tests.helpers import cli, fields_of, model_folder
from tests.pages import Tags
from tests.tokenizers import build

MATCHING = Head(1, 0)


def explained(seq_len: int, *methods: str, task: str = "passkey", depth: float | None = 0.3) -> Explanation:
    source = ModelSource()
    plan = make_plan(source, [Request(task, methods, (seq_len,), None if depth is None else (depth,))])
    example = plan.jobs[0].example(0, plan.tokenizer, 0)
    return explain(source, plan, plan.jobs, 0, example, lambda text: None)


@pytest.fixture(scope="module")
def at_4x() -> Explanation:
    return explained(1024, "vanilla", "yarn", "dca:mscale=0.1")


def test_the_matching_head_finds_the_needle_within_the_trained_length() -> None:
    (look,) = explained(256, "vanilla").looks
    assert look.best(1) == look.retrieving == [MATCHING] and look.needle(MATCHING) > 0.95
    np.testing.assert_allclose(look.shares.sum(-1), 1.0, atol=1e-12)
    np.testing.assert_allclose(look.strip.sum(-1), 1.0, atol=1e-12)
    assert [one.rank for one in look.lens][1:] == [1, 1, 1] < [look.lens[0].rank] and look.score == 1.0


def test_at_4x_vanilla_has_lost_it_and_a_method_has_not(at_4x: Explanation) -> None:
    vanilla, yarn, dca = at_4x.looks
    assert vanilla.needle(MATCHING) < 0.05 and not vanilla.retrieving and at_4x.beyond(vanilla)
    assert dca.needle(MATCHING) > 0.95 and dca.retrieving == [MATCHING] and not at_4x.beyond(dca)
    assert 0.1 < yarn.needle(MATCHING) < dca.needle(MATCHING) and not at_4x.beyond(yarn)
    assert (vanilla.score, dca.score) == (0.0, 1.0) and dca.answer.strip() == at_4x.reference
    assert at_4x.shown_heads[0] == MATCHING


def test_the_needle_stands_where_the_methods_say(at_4x: Explanation) -> None:
    last, needle = at_4x.tokens - 1, at_4x.needle
    vanilla, yarn, dca = (look.standing for look in at_4x.looks)
    assert vanilla == (Standing(16, last - needle.stop + 1, last - needle.start),)
    (turned,) = [one.turned for one in yarn]
    assert turned is not None and turned[0] == pytest.approx((last - needle.stop + 1) / 4) and turned[1] < 256
    chunk = 192  # DCA's three quarters of the trained length; the needle is two chunks away or more
    places = [255 - place % chunk for place in needle]
    assert dca == (Standing(16, min(places), max(places)),)
    assert told(vanilla) == [f"{last - needle.stop + 1:,} to {last - needle.start:,}"]


def test_attention_dilutes_past_4_times_and_a_log_length_scale_holds_it() -> None:
    (within,) = explained(1024, "self_extend:group_size=6").looks
    plain, scaled = explained(4096, "self_extend:group_size=22", "self_extend:group_size=22,log_scale_base=256").looks
    assert within.needle(MATCHING) > 0.9 > 0.7 > plain.needle(MATCHING)
    assert scaled.needle(MATCHING) > 0.95 and scaled.retrieving == [MATCHING]


def test_heads_that_do_not_see_the_needle_are_told_apart() -> None:
    found = explained(512, "duo_attention:full_heads=[1:0],sinks=2,window=30")
    (look,) = found.looks
    unseen, seen = look.standing
    assert (unseen.heads, unseen.near, seen.heads) == (15, None, 1) and look.retrieving == [MATCHING]
    assert told(look.standing)[0] == "not seen (15 of 16 KV heads)"
    assert look.shares[0, 0, GROUPS.index("needle")] == 0.0


@pytest.mark.parametrize("style", ["lcbench-tiny", "llama-2", "llama-3"])
def test_the_right_token_is_what_an_answer_goes_on_with(style: str) -> None:
    """Spaces that are tokens of their own are given; the rest is what the key begins with."""
    task, tokenizer = load_task("passkey"), build(style)
    example = task.example(Cell(400), 0, tokenizer, 0)
    asked = question(task, example, tokenizer)
    said = tokenizer.decode([*asked.prompt, asked.right])[len(tokenizer.decode(example.prompt)) :].strip()
    assert said and example.references[0].startswith(said)
    assert not tokenizer.decode(asked.prompt[asked.asked :]).strip()
    places = asked.answer_in_needle()
    assert len(places) >= 2 and set(places) <= set(asked.needle)
    groups = asked.groups()
    assert (groups == GROUPS.index("needle")).sum() == len(asked.needle)
    assert list(groups[:4]) == [GROUPS.index("sinks")] * 4 and groups[-1] == GROUPS.index("last window")


def test_the_page_holds_every_number_and_no_code(at_4x: Explanation) -> None:
    page = Tags(page_of(at_4x))
    assert "script" not in page.tags and page.tags.count("svg") == 3 * 4
    cells = re.findall(r'title="layer (\d+), head (\d+): ([\d.]+)%"', page_of(at_4x))
    assert len(cells) == 3 * 16 * len(GROUPS)
    shown = {(int(layer), int(head)): float(share) for layer, head, share in cells[:16]}
    (vanilla, *_) = at_4x.looks
    assert shown == pytest.approx({h: 100 * vanilla.needle(h) for h in vanilla.best(16)}, abs=0.005)
    for said in ("beyond every distance of training", repr(at_4x.needle_text), at_4x.reference, "after layer"):
        assert said in page.text, said


def test_what_a_model_writes_is_text(at_4x: Explanation) -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    look = replace(at_4x.looks[0], answer=evil, method=evil)
    page = Tags(page_of(replace(at_4x, looks=[look], reference=evil, needle_text=evil)))
    assert "script" not in page.tags and "\x1b" not in page.text and "alert(1)" in page.text


def test_a_model_without_a_plain_stack_of_layers_has_all_but_the_lens(at_4x: Explanation) -> None:
    why = "the decoder of FooForCausalLM is not a plain stack of layers"
    without = replace(at_4x, looks=[replace(look, lens=(), no_lens=why) for look in at_4x.looks])
    assert why in Tags(page_of(without)).text and "unknown" in Tags(page_of(without)).text
    assert len(draw(without).axes) == 2 * 3 and len(draw(at_4x).axes) == 2 * 3 + 1


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0.0), (1e-5, 0.0), (1e-4, 0.0), (1e-2, 0.5), (1.0, 1.0)])
def test_shades_go_by_the_logarithm(share: float, wanted: float) -> None:
    assert shade(share) == pytest.approx(wanted)


def test_a_sample_of_a_run_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under all methods that its run has it with, or others; the answers are those that were recorded."""
    monkeypatch.chdir(tmp_path)
    assert cli("run", "passkey", "--method", "vanilla,dca", "--seq-len", "300", "--samples", "2", "-o", "run").code == 0
    ids = {record["id"]: record for record in fields_of(Path("run"))}
    done = cli("explain", "run", "--sample", "passkey/dca/300/uniform/1")
    assert done.code == 0, done.err
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.strip().startswith(("vanilla", "dca"))}
    for method, row in rows.items():
        assert repr(ids[f"passkey/{method}/300/uniform/1"]["prediction"].strip()) in row
    assert set(rows) == {"vanilla", "dca"} and Path("run/explain.html").stat().st_size > 10_000
    assert Path("run/explain.png").read_bytes().startswith(b"\x89PNG")
    other = cli("explain", "run", "--sample", "passkey/dca/300/uniform/1", "--method", "yarn", "--out", "other.html")
    assert other.code == 0 and "\n  yarn " in other.out and "dca" not in other.out and Path("other.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pg19"], "pg19 has no needle that a model could look at"),
        (["longbench_v2"], "longbench_v2"),
        (["pasky"], "unknown run or task 'pasky'; did you mean 'passkey'?"),
        (["passkey", "--method", "self_extnd"], "did you mean 'self_extend'?"),
        (["passkey", "--sample", "passkey/dca/300/uniform/0"], "--sample of a task is a number from 0"),
        (["passkey", "--out", "missing/page.html"], "there is no folder missing"),
        (
            ["passkey", "--out", "page.png"],
            "--out page.png would be overwritten by the figure; name a page, such as page.html.",
        ),
        (["passkey", "--model", "lcbench-tyni"], "lcbench-tiny"),
        (["passkey", "--seq-len", "20"], "passkey does not fit into 20 tokens"),
        (["ruler/cwe", "--seq-len", "8k"], "ruler/cwe does not tell where its needle is"),
        (["needle:protocol=niah", "--seq-len", "300"], "has needles at several depths; choose one of"),
    ],
)
def test_refused(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli("explain", *arguments)
    assert refused.code == 2 and said in refused.error, refused.error
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_be_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_folder(tmp_path / "model")
    cli("run", "passkey", "--model", str(model), "--seq-len", "200", "--samples", "1", "-o", "run")
    assert "say which sample of run to explain, as --sample passkey/" in cli("explain", "run").error
    wrong = cli("explain", "run", "--sample", "passkey/vanila/200/uniform/0").error
    assert "did you mean 'passkey/vanilla/200/uniform/0'?" in wrong
    named = ("explain", "run", "--sample", "passkey/vanilla/200/uniform/0")
    assert "--depth is fixed by the sample of run" in cli(*named, "--depth", "0.5").error
    path = tmp_path / "run" / "records.jsonl"
    whole = path.read_text()
    path.write_text(re.sub(r'"prompt_sha256": "\w', '"prompt_sha256": "x', whole))
    assert "cannot be made again" in cli(*named).error
    path.write_text(whole)
    model.rename(tmp_path / "moved")
    assert str(model) in cli(*named).error
    moved = cli(*named, "--model", "moved", "--out", "page.html")
    assert moved.code == 0 and Path("page.html").exists()
    (tmp_path / "empty").mkdir()
    assert "empty" in cli("explain", "empty", "--sample", "x").error


def test_a_search_is_not_explained_by_its_positions() -> None:
    pytest.importorskip("faiss")
    with pytest.raises(UserError, match=r"fot attends otherwise in layer 1 than its positions say"):
        explained(1024, "fot:memory_layers=[1],memory=knn,top_k=1")


def test_a_look_of_layers_that_skip_some() -> None:
    """Layers are named by their numbers, also where not every layer attends."""
    shares = np.zeros((2, 2, 4))
    shares[1, 1, 0] = 0.5
    look = Look("m", "m", None, "", 0.0, (1, 5), shares, np.zeros((2, 2)), np.ones((2, 2, 3)) / 3, ())
    assert look.best(1) == [Head(5, 1)] and look.needle(Head(5, 1)) == 0.5 and not look.retrieving
