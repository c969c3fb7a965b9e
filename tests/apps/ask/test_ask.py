"""`lcbench ask` as a user has it: answers, pages, a pipe, Ctrl-C."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lcbench.apps.ask.conversation import Conversation, Prompts
from lcbench.apps.ask.pages import Pages
from lcbench.attention.steering import Steering
from lcbench.engine.generate import generate
from lcbench.engine.models import ModelSource
from lcbench.methods import parse_method
from lcbench.tasks.text.books import Book
from tests.apps.ask.pdfs import pdf
from tests.helpers import TINY, cli, command

QUESTION = "What is the code of Mara? The code of Mara is"
SHORT = ("--model", "lcbench-tiny", "--method", "dca:mscale=0.1", "--max-new-tokens", "6")
CHAT = "{% for m in messages %}<|endoftext|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def pages() -> Pages:
    """Some 2,000 tokens; the fact is on page 3."""
    book = Book(5)
    fact = " The code of Mara is 4821."
    return Pages(tuple(book.text(24).strip() + fact * (number == 3) + book.text(24) for number in range(1, 7)), True)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Path:
    path = tmp_path_factory.mktemp("documents") / "book.txt"
    path.write_text("\f".join(pages.texts), encoding="utf-8")
    return path


def test_it_answers_and_shows_the_page(document: Path) -> None:
    outcome = cli("ask", document, QUESTION, *SHORT)
    assert outcome.code == 0, outcome.err
    answer, passage, *_ = outcome.out.splitlines()
    assert answer.startswith("4821") and passage == "  page 3: The code of Mara is 4821."
    assert "no chat template" in outcome.err


def test_it_reads_pdf(tmp_path: Path, pages: Pages) -> None:
    pytest.importorskip("pypdf")
    path = tmp_path / "book.pdf"
    path.write_bytes(pdf([textwrap.wrap(text, 90) for text in pages.texts]))
    outcome = cli("ask", path, QUESTION, *SHORT)
    assert outcome.out.startswith("4821") and "\n  page 3: The code of Mara" in outcome.out


def test_questions_of_a_pipe(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each; empty ones are none; what is too long is told, and the next one answered."""
    too_long = "Why? " * 1000
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\n{too_long}\n{QUESTION}"))
    outcome = cli("ask", document, *SHORT)
    assert outcome.code == 0
    assert [line[:4] for line in outcome.out.splitlines() if not line.startswith(" ")] == ["4821", "4821"]
    assert outcome.err.count("error:") == 1 and "a shorter one" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such.pdf", "x"), "No such file"),
        (("-",), "must be given on the command line"),
        (("{document}", " "), "question is empty"),
        (("{document}", "x", "--seq-len", "1k"), "more than --seq-len 1k"),
        (("{document}", "x", "--method", "dcaa"), "did you mean 'dca'"),
    ],
)
def test_what_the_user_can_mend(document: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("ask", "-m", "lcbench-tiny", *(argument.format(document=document) for argument in arguments))
    assert outcome.code == 2 and message in outcome.error and not outcome.out


def test_it_asks_for_a_model(document: Path) -> None:
    outcome = cli("ask", document, QUESTION)
    assert outcome.code == 2 and not outcome.out and "--model lcbench-tiny" in outcome.error


def test_vanilla_beyond_its_length_is_told(document: Path) -> None:
    assert "trained for" in cli("ask", document, QUESTION, "-m", "lcbench-tiny", "--max-new-tokens", "1").err


def test_a_passage_without_spaces_is_shown_cut(tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_text("4821" + "ACGT" * 50 + " code", encoding="utf-8")
    shown = cli("ask", path, "The code of Mara is", *SHORT).out
    assert f"line 1: 4821{'ACGT' * 23} ...\n" in shown


def test_control_characters_of_a_document_stay_in_it(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The code \x1b[2J of Mara is 4821.")
    assert "\x1b" not in cli("ask", path, QUESTION, "-m", "lcbench-tiny", "--max-new-tokens", "2").out


@pytest.mark.parametrize("method", ["vanilla", "dca:mscale=0.1", "dca+yarn"])
def test_the_document_is_read_once_and_answers_are_the_same(pages: Pages, method: str) -> None:
    """A second question gets what it gets when it is the first, in pieces that make up the answer."""
    source = ModelSource(dtype="float32")
    prompts = Prompts("tiny", source.tokenizer(), Pages(pages.texts[2:4], numbered=True))
    steering = Steering(source.model(), parse_method(method), 1200)
    with steering as model:
        fresh = Conversation(model, steering.method, prompts, 1200, 12).ask(QUESTION, lambda _: False)
        used = Conversation(model, steering.method, prompts, 1200, 12)
        used.ask("What is the pass key? The pass key is", lambda _: False)
        pieces: list[str] = []
        again = used.ask(QUESTION, lambda piece: bool(pieces.append(piece)))
        assert again == fresh == "".join(pieces)
        assert len(prompts(QUESTION)) - 30 < used.reused < len(prompts(QUESTION)) and len(pieces) > 1
        tokens = generate(model, prompts(QUESTION), 12).tokens
        assert prompts.tokenizer.decode(tokens).strip().startswith(fresh)
        assert used.ask(QUESTION, lambda piece: True) == fresh[: len(pieces[0])], "an answer can be ended"


def test_fot_reads_the_document_for_every_question(document: Path) -> None:
    outcome = cli("ask", document, QUESTION, "--model", "lcbench-tiny-fot", "--method", "fot", "--max-new-tokens", "6")
    assert outcome.out.startswith("4821"), outcome.err


def test_a_chat_template_is_used(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(CHAT)
    prompts = Prompts("chat", ModelSource(str(tmp_path / "chat")).tokenizer(), Pages(("A {text}.",), numbered=False))
    assert prompts.chat
    text = prompts.tokenizer.decode(prompts("Why {so}?"))
    assert text == "<|endoftext|>user: Document is as follows. A {text}.\n\nWhy {so}?\nassistant:"


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_and_then_the_conversation(document: Path) -> None:
    process = subprocess.Popen(
        command("ask", document, "-m", "lcbench-tiny", "--method", "dca:mscale=0.1", "--max-new-tokens", "4000"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs in the background ignores it
    )
    assert process.stdin and process.stdout
    process.stdin.write(QUESTION.encode() + b"\n")
    shown = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    while chunk := process.stdout.read(1):
        shown += chunk
        if shown.count(b"\n") == 4:  # the answer and three passages: the next question is awaited
            break
    assert shown.startswith(b"4") and len(shown.splitlines()[0]) < 1000
    time.sleep(0.5)  # from the last passage to the next question
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
