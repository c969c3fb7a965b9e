"""A served model is measured as one in this process, and what a server does wrong is told, not taken for an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcbench.engine.endpoint import client as client_module
from lcbench.results.records import RECORDS
from tests.engine.endpoint.fake import NAME, Body, BrokenError, Server, serving
from tests.helpers import TINY, Outcome, cli, command, fields_of, lines_of, model_folder

KEY = "sk-very-secret"
PLAIN = frozenset({"model", "prompt", "max_tokens", "temperature", "frequency_penalty", "stream", "stop"})
PASSKEY = ("passkey", "--seq-len", "160,256", "--samples", "3")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.01)
    for name in ("OPENAI_API_KEY", "LCBENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as served:
        yield served


def run(server: Server, *arguments: str | Path, output: str = "served", model: str = NAME) -> Outcome:
    return cli(
        "run", *(arguments or PASSKEY), "--endpoint", server.url, "--model", model, "--tokenizer", TINY, "-o", output
    )


def answers(folder: str) -> dict[str, Any]:
    """What was asked and answered, by task, cell and sample: the method has another name at a server."""
    return {
        "/".join(record["id"].split("/")[:1] + record["id"].split("/")[2:]): (
            record["prompt_sha256"],
            record["prediction"],
            record["scores"],
        )
        for record in fields_of(Path(folder))
    }


def test_the_same_answers_as_in_this_process(server: Server) -> None:
    assert run(server).code == 0
    assert cli("run", *PASSKEY, "--dtype", "float64", "-o", "local").code == 0
    assert answers("served") == answers("local")
    record = fields_of(Path("served"))[0]
    assert record["method"] == "served" and record["model"] == NAME and "layers_steered" not in record
    cost = record["cost"]
    assert cost["sent_as"] == "token_ids" and cost["prompt_difference"] == 0 and cost["retries"] == 0
    assert 0 < cost["first_token_seconds"] == cost["prefill_seconds"] and cost["peak_memory_bytes"] is None
    assert all(isinstance(body["prompt"], list) for body in server.asked)
    identity = json.loads(Path("served/run.json").read_text())["identity"]
    assert identity["engine"] == "endpoint" and identity["endpoint"] == server.url
    assert identity["pretraining_length"] == 256 and identity["tokenizer"] == str(TINY)


@pytest.mark.parametrize(
    ("how", "sent_as"),
    [
        pytest.param({"token_ids": False}, "text", marks=pytest.mark.slow),
        pytest.param({"stream": False}, "token_ids", marks=pytest.mark.slow),
        ({"token_ids": False, "only": PLAIN}, "text"),
    ],
)  # fmt: skip
def test_servers_that_understand_less(how: dict[str, Any], sent_as: str) -> None:
    """The probe finds out what a server takes; the answers are the same."""
    with serving(Server(**how)) as served:
        assert run(served).code == 0
    assert cli("run", *PASSKEY, "--dtype", "float64", "-o", "local").code == 0
    assert answers("served") == answers("local")
    assert {record["cost"]["sent_as"] for record in fields_of(Path("served"))} == {sent_as}


def test_chat(server: Server) -> None:
    """The user's turn, in the server's own template, whose tokens are recorded as a difference, and said."""
    done = run(server, *PASSKEY, "--endpoint-api", "chat")
    assert done.code == 0
    for record in fields_of(Path("served")):
        assert record["cost"]["sent_as"] == "chat" and record["cost"]["prompt_difference"] > 0
    turns = [body["messages"] for body in server.asked]
    assert all(len(turn) == 1 and turn[0]["role"] == "user" for turn in turns)
    assert not any("<s>" in turn[0]["content"] or "<bos>" in turn[0]["content"] for turn in turns)
    assert "the server counted" in done.out.replace("\n", " ")


@pytest.mark.parametrize("way", ["prompt_logprobs", pytest.param("echo", marks=pytest.mark.slow)])
def test_likelihoods(way: str) -> None:
    Path("mine.yaml").write_text(CHOICES)
    Path("asked.csv").write_text(
        "text,kind\n" + "".join(f"The code of Mara is {n}.,{LABELS[n % 3]}\n" for n in range(3))
    )
    Path("shown.csv").write_text("text,kind\n" + "".join(f"The sky is {n}.,{LABELS[n % 3]}\n" for n in range(40)))
    with serving(Server(scores=(way,))) as served:
        for task in ("pg19", "mine.yaml"):
            done = run(served, task, "--seq-len", "200", "--samples", "2", output=f"served-{Path(task).stem}")
            assert done.code == 0, done.err
            local = (
                "run",
                task,
                "--seq-len",
                "200",
                "--samples",
                "2",
                "--dtype",
                "float64",
                "-o",
                f"local-{Path(task).stem}",
            )
            assert cli(*local).code == 0
    for one, other in zip(fields_of(Path("served-pg19")), fields_of(Path("local-pg19")), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], rel=1e-5) and one["cost"]["pass"] == way
        np.testing.assert_allclose(one["nll"]["buckets"], other["nll"]["buckets"], rtol=1e-5)
    for one, other in zip(fields_of(Path("served-mine")), fields_of(Path("local-mine")), strict=True):
        assert one["prediction"] == other["prediction"] and set(one["choices"]) == set(LABELS)
        for label, log in other["choices"].items():
            assert one["choices"][label] == pytest.approx(log, abs=1e-3)


LABELS = ("the code", "the sky", "sun")
CHOICES = """
family: in_context
data: asked.csv
demonstrations: shown.csv
columns: {question: text, references: kind}
prompt: "Text: {{ text }}\\nKind: {{ label }}\\n\\n"
"""


def test_likelihoods_that_a_server_does_not_give_are_refused_before_anything_runs(server: Server) -> None:
    server.scores = ()
    refused = run(server, "pg19", "--seq-len", "200")
    assert refused.code == 2 and "perplexity need log-likelihoods of the prompt" in refused.error
    chat = run(server, "pg19", "--seq-len", "200", "--endpoint-api", "chat")
    assert chat.code == 2 and "chat completions have none" in chat.error
    assert not Path("served").exists()


def failing(*faults: BrokenError | Body) -> Any:
    """These faults, one a request after the probe, then none."""
    left = list(faults)

    def fault(number: int, body: Body) -> Body | None:
        if body["max_tokens"] == 1 or not left:
            return None
        one = left.pop(0)
        if isinstance(one, BrokenError):
            raise one
        return one

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        BrokenError(429, json.dumps({"error": {"message": "slow down"}}), **{"retry-after": "0"}),
        BrokenError(500, "oops", "text/plain"),
        BrokenError(503, json.dumps({"detail": "loading"})),
        BrokenError(200, '{"choices": [{"te'),
        BrokenError(200, "<html><body>Welcome</body></html>", "text/html"),
        BrokenError(200, "[]"),
        BrokenError(200, "{}"),
        BrokenError(200, 'data: {"error": {"message": "out of blocks"}}\n\n', "text/event-stream"),
        {"cut": True},
    ],
    ids=["429", "500", "503", "half JSON", "HTML", "a list", "nothing", "error in a stream", "cut stream"],
)
def test_faults_that_pass(fault: BrokenError | Body, server: Server) -> None:
    server.fault = failing(fault, fault)
    done = run(server, "passkey", "--seq-len", "160", "--samples", "2", "--concurrency", "1")
    assert done.code == 0, done.err
    assert [record["cost"]["retries"] for record in fields_of(Path("served"))] in ([2, 0], [1, 1])
    assert "2 requests were repeated" in done.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(BrokenError(500, "oops", "text/plain"), "HTTP 500 from", marks=pytest.mark.slow),
        (BrokenError(400, json.dumps({"error": {"message": f"too long {KEY}"}})), "too long ..."),
        pytest.param(BrokenError(200, "<html>", "text/html"), "answered with a web page", marks=pytest.mark.slow),
        ({"model": "another"}, "answered by the model 'another', where 'tiny' answered before"),
        pytest.param({"cut": True}, "the server broke off its answer", marks=pytest.mark.slow),
        ({"text": ["4821"]}, "the server answered with something that is no text"),
    ],
)
def test_faults_that_stay(
    fault: BrokenError | Body, reason: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell fails by name, others go on; the same command finishes it."""
    monkeypatch.setenv("LCBENCH_API_KEY", KEY)
    monkeypatch.setattr(client_module, "TRIES", 2)

    def of_the_short_cell(number: int, body: Body) -> Body | None:
        if body["max_tokens"] == 1 or len(body["prompt"]) > 200:
            return None
        if isinstance(fault, BrokenError):
            raise fault
        return fault

    server.fault = of_the_short_cell
    failed = run(server)
    assert failed.code == 1 and "failed: served at 160" in failed.out
    bad = {line["error"] for line in lines_of(Path("served")) if line["error"]}
    assert len(bad) == 1 and reason in bad.pop()
    assert sum(line["seq_len"] == 256 and not line["error"] for line in lines_of(Path("served"))) == 3
    server.fault = lambda number, body: None
    assert run(server).code == 0 and len(fields_of(Path("served"))) == 6
    everything = (
        "".join(path.read_text() for path in Path("served").iterdir() if path.is_file()) + failed.out + failed.err
    )
    assert KEY not in everything and server.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("change", "said", "strict"),
    [
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 4}}, "the server counted", "counted 20 tokens of"),
        ({"finish_reason": "abort"}, "ended by the server (abort)", "ended its answer with 'abort'"),
        (
            {"finish_reason": "length", "usage": {"prompt_tokens": None, "completion_tokens": 1}},
            "ended by the server before their budget",
            "ended its answer after 1 of",
        ),
    ],
)
def test_what_a_server_cuts_is_recorded_and_said_and_an_error_by_choice(
    change: Body, said: str, strict: str, server: Server
) -> None:
    server.fault = lambda number, body: None if body["max_tokens"] == 1 else change
    done = run(server, "passkey", "--seq-len", "160", "--samples", "2")
    assert done.code == 0 and said in done.out.replace("\n", " ")
    for record in fields_of(Path("served")):
        counted = change.get("usage", {}).get("prompt_tokens")
        assert counted is None or record["cost"]["prompt_difference"] == counted - record["prompt_tokens"] < 0
        assert record["finish_reason"] == change.get("finish_reason", record["finish_reason"])
    failed = run(server, "passkey", "--seq-len", "160", "--samples", "2", "--strict", output="strict")
    assert failed.code == 1 and strict in failed.out.replace("\n", " ")


def test_requests_at_the_same_time_and_prefixes_one_after_another(server: Server) -> None:
    server.slow = 0.03
    assert run(server, "passkey", "--seq-len", "160", "--samples", "12", "--concurrency", "5").code == 0
    assert 2 <= server.most_busy <= 5
    server.most_busy = 0
    server.asked.clear()
    arguments = ("needle", "--seq-len", "400", "--depths", "0.8,0.9,1", "--samples", "1", "--concurrency", "5")
    assert run(server, *arguments, output="prefixes").code == 0
    prompts = [body["prompt"] for body in server.asked if body["max_tokens"] > 1]
    assert len(prompts) == 3
    assert server.most_busy == 1, "prompts of one haystack begin alike"
    assert prompts == sorted(prompts, reverse=True)


def test_a_server_that_dies_keeps_what_it_answered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.port
    died = threading.Event()

    def dies(number: int, body: Body) -> Body | None:
        if number > 5:
            died.set()
        if died.is_set():
            raise ConnectionResetError("gone")
        return None

    server.fault = dies
    failed = run(server, *PASSKEY, "--concurrency", "1")
    assert failed.code == 1 and "failed: " in failed.out and "no connection to" in failed.out.replace("\n", " ")
    kept = [line for line in lines_of(Path("served")) if not line["error"]]
    assert 1 <= len(kept) < 6
    server.fault = lambda number, body: None
    again = run(server)
    assert again.code == 0 and f"{len(kept)} of them recorded already" in again.err
    assert len(fields_of(Path("served"))) == 6 and server.port == port


def test_bad_input_is_one_sentence(server: Server, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        done = cli("run", "passkey", "--seq-len", "160", *arguments)
        assert done.code == 2 and "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1, done.err
        return done.error

    served = ("--endpoint", server.url)
    named = (*served, "--model", NAME, "--tokenizer", TINY)
    with serving(Server()) as gone:
        nobody = gone.url
    assert "no connection to" in refused("--endpoint", nobody, "--model", NAME) and "is the server running" in refused(
        "--endpoint", nobody, "--model", NAME
    )
    assert "must be a URL such as" in refused("--endpoint", "localhost:8000", "--model", NAME)
    assert "did you mean 'tiny'?" in refused(*served, "--model", "tinny", "--tokenizer", TINY)
    assert "it serves: tiny" in refused(*served)
    assert "--tokenizer ID or FOLDER" in refused(*served, "--model", NAME)
    assert "usually ends in /v1" in refused("--endpoint", server.url.removesuffix("/v1"), *named[2:])
    assert "--method is for a model that lcbench runs itself" in refused(*named, "--method", "dca")
    assert "--dtype is for" in refused(*named, "--dtype", "float64")
    assert "--adapter is for" in refused(*named, "--adapter", "lora")
    assert "at most 4,096 tokens" in refused(*named, "--seq-len", "8k")
    assert "did you mean 'chat'?" in refused(*named, "--endpoint-api", "chatt")
    assert "must be a short name" in refused(*named, "--served-as", "a/b")
    assert "--served-as is for a served model" in refused("--served-as", "yarn")
    assert "--engine vllm needs vLLM" in refused("--engine", "vllm")
    assert "did you mean 'vllm'?" in refused("--engine", "vlm")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("facts", [{"meta": "x"}, {"meta": [1]}, {"max_model_len": "4096"}, {"max_model_len": -3}])
def test_facts_that_are_none_are_left_alone(facts: Body) -> None:
    with serving(Server(models=[{"id": NAME, **facts}])) as server:
        assert run(server, "passkey", "--seq-len", "160", "--samples", "1").code == 0


@pytest.mark.parametrize("path", ["\x01", "v1\x7f", "x" * 70_000])
def test_an_address_that_is_no_url_is_one_sentence(path: str) -> None:
    done = cli("run", *PASSKEY, "--endpoint", f"http://localhost:1/{path}", "--model", "x", "--tokenizer", TINY)
    assert done.code == 2 and "is no URL" in done.error and len(done.error) < 600


def test_a_server_without_completions_and_one_that_wants_a_key(server: Server) -> None:
    server.apis = ("chat/completions",)
    refused = run(server)
    assert refused.code == 2 and "needs --endpoint-api chat" in refused.error

    def locked(number: int, body: Body) -> Body | None:
        raise BrokenError(401, json.dumps({"error": {"message": "no key"}}))

    server.fault, server.apis = locked, ("completions",)
    refused = run(server)
    assert refused.code == 2 and "set LCBENCH_API_KEY" in refused.error


def test_no_answer_in_time_is_not_asked_again(server: Server) -> None:
    server.fault = lambda number, body: None if body["max_tokens"] == 1 else sleeping()
    late = run(server, "passkey", "--seq-len", "160", "--samples", "1", "--request-timeout", "0.4")
    assert late.code == 1 and "within 0.4 s" in late.out.replace("\n", " ")
    assert sum(body["max_tokens"] > 1 for body in server.asked) == 1


def sleeping() -> None:
    time.sleep(0.8)


def test_credentials_stay_out_of_records_and_commands(server: Server) -> None:
    url = f"http://anna:hunter2@127.0.0.1:{server.port}/v1?token={KEY}"
    done = cli("run", "passkey", "--seq-len", "160", "--samples", "1", "--endpoint", url, "--model", NAME,
               "--tokenizer", TINY, "-o", "served")  # fmt: skip
    assert done.code == 0 and server.headers["Authorization"].startswith("Basic ")
    text = Path("served/run.json").read_text() + Path("served", RECORDS).read_text() + done.out + done.err
    assert "hunter2" not in text and KEY not in text and f'"endpoint": "{server.url}"' in text


def test_a_server_and_a_tokenizer_that_tell_no_trained_length(server: Server, tmp_path: Path) -> None:
    """A folder with a tokenizer alone will do; tables, figures and reports go without the length."""
    server.models = [{"id": NAME}]
    alone = model_folder(tmp_path / "alone", drop=("config.json", "model.safetensors", "generation_config.json"))
    asked = ("--endpoint", server.url, "--model", NAME, "--tokenizer", alone)
    unknown = cli("run", "passkey", *asked)
    assert unknown.code == 2 and "trained length of tiny" in unknown.error and "pass --seq-len" in unknown.error
    assert cli("run", "passkey", "--seq-len", "160,256", "--samples", "2", *asked, "-o", "served").code == 0
    assert "pretraining_length" not in json.loads(Path("served/run.json").read_text())["identity"]
    table = cli("table", "--run", "served", "-f", "markdown")
    assert table.code == 0 and "| 160 | 256 |" in table.out and "trained at" not in table.out
    assert cli("report", "served", "--out", "page.html").code == 0
    assert cli("plot", "passkey", "--run", "served", "--out", "figure.png").code == 0


@pytest.mark.slow
def test_ctrl_c_waits_for_no_server(server: Server) -> None:
    """What was answered is kept, and the requests that are under way are given up."""
    server.slow, ended = 0.2, threading.Event()

    def stuck(number: int, body: Body) -> None:
        if len(server.asked) > 8:
            ended.wait(60)

    server.fault = stuck
    arguments = ("passkey", "--seq-len", "160", "--samples", "12", "--endpoint", server.url, "--model", NAME)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command("run", *arguments, "--tokenizer", TINY, "-o", "served"), env=environment) as running:
        while not Path("served", RECORDS).exists() or len(lines_of(Path("served"))) < 4:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        stopped = time.perf_counter()
        assert running.wait(50) != 0 and time.perf_counter() - stopped < 30
        ended.set()
    kept = len(lines_of(Path("served")))
    server.slow, server.fault = 0.0, lambda number, body: None
    again = run(server, "passkey", "--seq-len", "160", "--samples", "12")
    assert again.code == 0 and f"{kept} of them recorded already" in again.err


def test_sampling_is_the_servers(server: Server) -> None:
    chosen = ("--sampling", "temperature=0.6,top_p=0.9,top_k=20", "--repeats", "2")
    assert run(server, "passkey", "--seq-len", "160", "--samples", "1", *chosen).code == 0
    bodies = [body for body in server.asked if body["max_tokens"] > 1]
    assert [(body["temperature"], body["top_p"], body["top_k"]) for body in bodies] == [(0.6, 0.9, 20)] * 2
    assert len({body["seed"] for body in bodies}) == 2 and not any("min_p" in body for body in bodies)


def test_labels_and_suites(server: Server) -> None:
    """A suite's own methods are those of lcbench; a served model has one, named by its label."""
    Path("two.yaml").write_text("runs:\n- {task: passkey, methods: [vanilla, dca], seq_len: [160], samples: 2}\n")
    assert run(server, "two.yaml", "--served-as", "yarn:factor=4").code == 0
    assert {record["method"] for record in fields_of(Path("served"))} == {"served:yarn:factor=4"}
    assert len(fields_of(Path("served"))) == 2
    table = cli("table", "--run", "served", "-f", "markdown")
    assert table.code == 0 and "served:yarn:factor=4" in table.out and "first token" in table.out
    dry = run(server, *PASSKEY, "--dry-run", output="dry")
    assert dry.code == 0 and "records would go to" in dry.out and "KV cache" not in dry.out
