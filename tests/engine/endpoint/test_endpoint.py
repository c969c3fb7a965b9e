"""A served model is measured as one in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcbench.results.records import RECORDS
from tests.engine.endpoint.fake import NAME, Body, BrokenError, Server, serving
from tests.engine.endpoint.runs import KEY, PASSKEY, answers, run
from tests.helpers import TINY, cli, fields_of, model_folder


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


def test_likelihoods(server: Server) -> None:
    Path("mine.yaml").write_text(CHOICES)
    Path("asked.csv").write_text(
        "text,kind\n" + "".join(f"The code of Mara is {n}.,{LABELS[n % 3]}\n" for n in range(3))
    )
    Path("shown.csv").write_text("text,kind\n" + "".join(f"The sky is {n}.,{LABELS[n % 3]}\n" for n in range(40)))
    for task in ("pg19", "mine.yaml"):
        asked, name = (task, "--seq-len", "200", "--samples", "2"), Path(task).stem
        done = run(server, *asked, output=f"served-{name}")
        assert done.code == 0, done.err
        assert cli("run", *asked, "--dtype", "float64", "-o", f"local-{name}").code == 0
    for one, other in zip(fields_of(Path("served-pg19")), fields_of(Path("local-pg19")), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], rel=1e-5) and one["cost"]["pass"] == "prompt_logprobs"
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
    longest = run(server, "pg19", "--seq-len", "4096")
    assert longest.code == 2 and "and pg19 needs one more than its texts have; pass a shorter" in longest.error
    server.scores = ()
    refused = run(server, "pg19", "--seq-len", "200")
    assert refused.code == 2 and "perplexity needs log-likelihoods of the prompt" in refused.error
    chat = run(server, "pg19", "--seq-len", "200", "--endpoint-api", "chat")
    assert chat.code == 2 and "chat completions have none" in chat.error
    assert not Path("served").exists()


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
    assert "--tokenizer ID, FOLDER or FILE.gguf" in refused(*served, "--model", NAME)
    assert "usually ends in /v1" in refused("--endpoint", server.url.removesuffix("/v1"), *named[2:])
    assert "--method is for a model that lcbench runs itself" in refused(*named, "--method", "dca")
    assert "--dtype is for" in refused(*named, "--dtype", "float64")
    assert "--adapter is for" in refused(*named, "--adapter", "lora")
    assert "at most 4,096 tokens" in refused(*named, "--seq-len", "8k")
    server.models = [{"id": NAME, "context_length": 2048}]
    assert "at most 2,048 tokens" in refused(*named, "--seq-len", "4k")
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
    assert done.code == 2 and "is not a URL" in done.error and len(done.error) < 600


def test_a_server_without_completions_and_one_that_wants_a_key(server: Server) -> None:
    server.apis = ("chat/completions",)
    refused = run(server)
    assert refused.code == 2 and "needs --endpoint-api chat" in refused.error

    def locked(number: int, body: Body) -> Body | None:
        raise BrokenError(401, json.dumps({"error": {"message": "no key"}}))

    server.fault, server.apis = locked, ("completions",)
    refused = run(server)
    assert refused.code == 2 and "set LCBENCH_API_KEY" in refused.error


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


def test_sampling_is_the_servers(server: Server) -> None:
    chosen = ("--sampling", "temperature=0.6,top_p=0.9,top_k=20", "--repeats", "2")
    assert run(server, "passkey", "--seq-len", "160", "--samples", "1", *chosen).code == 0
    bodies = [body for body in server.asked if body["max_tokens"] > 1]
    asked = [(body["temperature"], body["top_p"], body["top_k"], body["min_p"]) for body in bodies]
    assert asked == [(0.6, 0.9, 20, 0)] * 2 and len({body["seed"] for body in bodies}) == 2


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
