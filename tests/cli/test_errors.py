"""What people get wrong: one sentence that names it, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcbench.tasks import task_files
from tests.helpers import Outcome, cli, lines_of

PASSKEY = task_files()["passkey"].read_text()
SENTENCES = PASSKEY[PASSKEY.index("filler: &grass") : PASSKEY.index("    needle: &needle")]
HEADER = "family: passkey\nprotocol: mine\nprotocols:\n  mine:"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_refused(outcome: Outcome, *fragments: str) -> None:
    """Exit code 2 and one sentence on stderr, behind at most the line that says what the run would be."""
    lines = outcome.err.splitlines()
    assert outcome.code == 2 and outcome.out == ""
    assert len(lines) <= 2 and (len(lines) < 2 or " sample" in lines[0])
    assert outcome.error.startswith("error: ") and outcome.error.endswith((".", "?"))
    for fragment in fragments:
        assert fragment in outcome.error


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("run passky", "unknown task 'passky'; did you mean 'passkey'?"),
        (
            "run nothing-like-it-at-all",
            "known: aa_lcr, atlas, babilong/..., demo, graphwalks",
        ),
        ("run .", "unknown task '.'"),
        ("show passky", "did you mean 'passkey'?"),
        ("show smoke", "smoke is a suite; name a single task here"),
        ("run smoke:samples=3", "smoke is a suite and has no options"),
        ("run passkey -m lcbench-tiy", "unknown model 'lcbench-tiy'; did you mean 'lcbench-tiny'?"),
        ("run passkey --dtype bf16", "unknown dtype 'bf16'; did you mean 'bfloat16'?"),
        ("run passkey --dtype int8", "known: auto, bfloat16, float16, float32, float64"),
        ("run passkey --device cud", "device 'cud' is not available here; use cpu, or leave --device out"),
        ("run passkey --device cuda:99", "device 'cuda:99' is not available here"),
        ("run passkey --device meta", "device 'meta' is not available here"),
        ("run passkey --revision main", "lcbench-tiny is a folder; --revision is for models on the hub"),
        ("table --format makdown", "unknown format 'makdown'; did you mean 'markdown'?"),
        ("list method", "did you mean 'methods'?"),
        ("list everything", "known: methods, models, runs, tasks"),
        # options
        ("run passkey:protocl=longlm", "unknown option of task passkey 'protocl'; did you mean 'protocol'?"),
        ("run passkey:protocol=longlma", "did you mean 'longlm'?"),
        ("run passkey:protocol=other", "known: chunkllama, longllama, longlm"),
        ("run passkey:protocols=x", "task passkey: protocols must be a mapping, not 'x'"),
        ("run passkey:samples=many", "task passkey: samples must be a whole number, not 'many'"),
        ("run passkey:samples=0", "task passkey: samples must be at least 1, not 0"),
        ("run passkey:samples=-2", "must be at least 1, not -2"),
        ("run passkey:samples", "'samples' in 'passkey:samples' is not option=value"),
        # lengths
        *[
            (f"run passkey --seq-len {text}", f"'{text}' is not a length in tokens; write 4096, 4k or 128k")
            for text in ("0", "-5", "4q", "1.3", "1k;2k", "4kb", "0x100")
        ],
        ("run passkey --seq-len 4k,,8k", "'' is not a length in tokens"),
        ("run passkey --seq-len=", "'' is not a length in tokens"),
        ("show passkey --seq-len 4k,8k", "'4k,8k' is not a length in tokens"),
        ("run passkey --seq-len 99999999999999999999", "--seq-len goes up to 128m"),
        ("show passkey --seq-len 1000m", "--seq-len goes up to 128m"),
        ("run passkey --seq-len 20", "passkey does not fit into 20 tokens"),
        ("run passkey --seq-len 512,40", "passkey does not fit into 40 tokens"),
        ("show passkey --seq-len 40", "or more"),
        # depths
        *[
            (f"run passkey --depths={text}", f"'{text}' is not a list of depths; write a count such as 11")
            for text in ("-1", "x", "", "1.5", "nan", "0,2", "0.5,")
        ],
        # models
        ("run passkey --model=", "unknown model ''"),
        ("run passkey -m ./nowhere", "there is no model folder ./nowhere; give a folder, or a Hugging Face id"),
        ("run passkey -m a/b/c", "there is no model folder a/b/c"),
        ("run passkey -m .", ". is not a model folder: it has no config.json"),
        (
            "run passkey -m someone/no-such-model",
            "someone/no-such-model is not in the cache, and HF_HUB_OFFLINE is set",
        ),
        ("show passkey -m someone/no-such-model", "someone/no-such-model is not in the cache"),
        # runs
        ("table", "there is no run in results; create one with `lcbench run`, or name a folder"),
        ("table nowhere", "nowhere is not a run: it has no run.json"),
        ("table --run .", ". is not a run"),
    ],
)
def test_what_is_typed(arguments: str, fragment: str) -> None:
    assert_refused(cli(*arguments.split(" ")), fragment)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("method", "fragment"),
    [
        ("yarm", "unknown method 'yarm'; did you mean 'yarn'?"),
        ("", "unknown method ''; known: abf, dca,"),
        ("vanilla,,dca", "unknown method ''"),
        ("vanilla,dcaa", "did you mean 'dca'?"),
        ("dca:chunksize=4", "unknown option of dca 'chunksize'; did you mean 'chunk_size'?"),
        ("vanilla:factor=2", "vanilla has no options"),
        ("dca:chunk_size", "'chunk_size' in 'dca:chunk_size' is not option=value"),
        ("dca:chunk_size=", "'chunk_size=' in 'dca:chunk_size=' is not option=value"),
        ("dca:chunk_size=x", "dca: chunk_size must be a whole number, not 'x'"),
        ("dca:chunk_size=4,chunk_size=5", "gives chunk_size twice"),
        ("dca:chunk_size=0", "dca: chunk_size must be at least 1, not 0"),
        ("dca:max_position=3", "dca: max_position=3 is below the last position of a chunk of 192 tokens"),
        ("dca:mscale=-1", "dca: mscale must be at least 0, not -1"),
        ("dca:variant=foo", "dca: variant must be paper or chunkllama, not 'foo'"),
        ("yarn:factor=0.5", "yarn: factor must be at least 1, not 0.5"),
        ("yarn:factor=2,beta_slow=0", "yarn: beta_slow must be above 0 and at most beta_fast (32)"),
        ("yarn:factor=2,beta_fast=0.5", "yarn: beta_slow must be above 0 and at most beta_fast (0.5)"),
        ("pi:factor=nan", "pi: factor must be a number, not 'nan'"),
        ("ntk:factor=1e999", "ntk: factor must be a number"),
        ("self_extend:group_size=0", "self_extend: group_size must be at least 1, not 0"),
        ("self_extend:log_scale_base=1", "self_extend: log_scale_base must be above 1"),
        ("logn:base=1", "logn: base must be above 1"),
        ("streaming:sinks=-1", "streaming: sinks must be at least 0, not -1"),
        ("rerope:window=0", "rerope: window must be at least 1, not 0"),
        ("llama3:high_freq_factor=1", "llama3: high_freq_factor must be above low_freq_factor"),
        ("dca+self_extend", "dca and self_extend are both position plans; compose one of each at most"),
        ("pi+yarn", "pi and yarn are both RoPE scalings"),
        ("dca:mscale=0.1+logn", "dca and logn are both score scalings"),
        ("vanilla,pi+ntk", "pi and ntk are both RoPE scalings"),
    ],
)
def test_methods(method: str, fragment: str) -> None:
    """Refused before any model is loaded, at a length beyond the trained one."""
    assert_refused(cli("run", "passkey", "--seq-len", "512", "--method", method), fragment)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("family: [passkey\n", "mine.yaml is not valid YAML: "),
        ("\xff\xfe: [", "mine.yaml is not valid YAML"),
        ("- a\n- b\n", "must be a mapping with a `family` (a task) or `runs` (a suite)"),
        ("", "must be a mapping with a `family` (a task) or `runs` (a suite)"),
        ("samples: 3\n", "must be a mapping with a `family` (a task) or `runs` (a suite)"),
        (PASSKEY.replace("family: passkey", "family: passkeys"), "did you mean 'passkey'?"),
        ("family: zzz\n", "known: babilong, dialogue, document, graphwalks"),
        (PASSKEY + "sampels: 3\n", "unknown option of task mine 'sampels'; did you mean 'samples'?"),
        ("family: passkey\nprotocol: mine\n", "task mine (passkey) lacks `protocols`"),
        (PASSKEY.replace("samples: 20", "samples: many"), "task mine: samples must be a whole number, not 'many'"),
        (PASSKEY.replace("samples: 20", "samples: 0"), "task mine: samples must be at least 1, not 0"),
        (PASSKEY.replace("protocol: chunkllama", "protocol: chunk"), "did you mean 'chunkllama'?"),
        (PASSKEY.replace("{key}", "7"), "must contain {key} in its needle, and nowhere else"),
        (PASSKEY.replace("What is the", "What is {key} or the"), "must contain {key} in its needle, and nowhere else"),
        (PASSKEY.replace("lowest: 1\n", "lowest: 70000\n"), "keys from lowest to highest"),
        (PASSKEY.replace("lowest: 1\n", "lowest: one\n"), "lowest must be a whole number, not 'one'"),
        (PASSKEY.replace("instruction: &task There", "instrution: &task There"), "did you mean 'instruction'?"),
        (PASSKEY.replace(SENTENCES, "filler: &grass The grass is green.\n"), "filler must be a list such as [1,2]"),
        (PASSKEY.replace(SENTENCES, "filler: &grass []\n"), "needs filler sentences"),
        (PASSKEY.replace(SENTENCES, "filler: &grass ['']\n"), "needs filler sentences"),
        (PASSKEY.replace(SENTENCES, "filler: &grass [1, 2]\n"), "filler must be text, not 1; put it in quotes"),
        (f"{HEADER} {{}}\n", "protocol mine of mine lacks filler, highest, instruction, lowest, needle, question"),
        (f"{HEADER}\n", "protocol mine of mine must be a mapping, not None"),
        ("family: passkey\nprotocol: mine\nprotocols: [mine]\n", "task mine: protocols must be a mapping"),
        # suites
        ("runs: []\n", "suite mine must list its `runs`, each a mapping with a `task`"),
        ("runs: 3\n", "suite mine must list its `runs`"),
        ("runs: [passkey]\n", "each a mapping with a `task`"),
        ("runs: [{methods: dca}]\n", "each a mapping with a `task`"),
        ("runs: [{task: }]\n", "each a mapping with a `task`"),
        ("modle: x\nruns: [{task: passkey}]\n", "unknown key of suite mine: 'modle'; did you mean 'model'?"),
        ("runs: [{task: passkey, sampels: 3}]\n", "unknown key of a run in suite mine: 'sampels'; did you mean"),
        ("runs: [{task: passkey, samples: 0}]\n", "suite mine: samples must be a whole number from 1, not 0"),
        ("runs: [{task: passkey, samples: true}]\n", "suite mine: samples must be a whole number from 1, not True"),
        (
            "seed: x\nruns: [{task: passkey}]\n",
            "suite mine: seed must be a whole number from 0 to 9223372036854775807, not 'x'",
        ),
        (
            "seed: 1.5\nruns: [{task: passkey}]\n",
            "suite mine: seed must be a whole number from 0 to 9223372036854775807, not 1.5",
        ),
        ("runs: [{task: passkey, seq_len: 4q}]\n", "'4q' is not a length in tokens"),
        ("runs: [{task: passkey, seq_len: []}]\n", "suite mine: seq_len must be a non-empty list, not []"),
        ("runs: [{task: passkey, depths: 5.5}]\n", "'5.5' is not a list of depths"),
        ("runs: [{task: passkey, methods: [yarm]}]\n", "did you mean 'yarn'?"),
        ("runs: [{task: passkey, methods: {dca: 1}}]\n", "suite mine: methods must be a non-empty list"),
        ("runs: [{task: smoke}]\n", "smoke is a suite; name a single task here"),
        ("runs: [{task: passky}]\n", "did you mean 'passkey'?"),
        ("model: lcbench-tinny\nruns: [{task: passkey}]\n", "did you mean 'lcbench-tiny'?"),
    ],
)
def test_yaml(text: str, fragment: str) -> None:
    path = Path("mine.yaml")
    path.write_bytes(text.encode("latin-1"))
    assert_refused(cli("run", path), fragment)
    assert list(Path().iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("nowhere.yaml", "cannot read nowhere.yaml: No such file or directory"),
        ("folder.yaml", "cannot read folder.yaml: Is a directory"),
        ("file/task.yaml", "cannot read file/task.yaml: Not a directory"),
    ],
)
def test_yaml_that_cannot_be_read(path: str, fragment: str) -> None:
    Path("folder.yaml").mkdir()
    Path("file").write_text("")
    assert_refused(cli("run", path), fragment)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("run", "Missing argument"),
        ("run passkey --sed 3", "No such option: --sed"),
        ("run passkey --samples 0", "Invalid value for '--samples'"),
        ("run passkey --samples x", "Invalid value for '--samples'"),
        ("run passkey --seed x", "Invalid value for '--seed'"),
        ("show passkey --depth 2", "Invalid value for '--depth'"),
        ("show passkey --depth x", "Invalid value for '--depth'"),
        ("show passkey --sample -1", "Invalid value for '--sample'"),
    ],
)
def test_usage(arguments: str, fragment: str) -> None:
    outcome = cli(*arguments.split())
    assert outcome.code == 2 and outcome.out == ""
    assert fragment in outcome.err and "Usage: " in outcome.err and "Traceback" not in outcome.err


def test_results_folders() -> None:
    small = ["run", "passkey", "--seq-len", "150", "--samples", "1", "-o"]
    Path("file").write_text("x")
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("x")
    assert cli(*small, "mine").code == 0
    before = lines_of(Path("mine"))
    for arguments, fragment in [
        ([*small, "mine", "--seed", "1"], "mine holds another run (it differs in seed); pass another --output"),
        ([*small, "mine", "--method", "dca"], "(it differs in the methods vanilla, dca); pass another --output, and"),
        ([*small, "mine", "--seq-len", "150,160"], "(it differs in the length 160)"),
        ([*small, "thesis"], "thesis contains something other than results"),
        ([*small, "file"], "cannot write to file: File exists; pass another --output"),
        ([*small, "file/run"], "cannot write to file/run: Not a directory; pass another --output"),
        (["table", "file"], "file is a file; name the folder of a run"),
    ]:
        assert_refused(cli(*arguments), fragment)
    assert lines_of(Path("mine")) == before and [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]

    with Path("mine/records.jsonl").open("a") as file:
        file.write("{broken\n")
    for arguments in (["table", "mine"], [*small, "mine"]):
        assert_refused(cli(*arguments), "mine/records.jsonl, line 2, is not a record")
    Path("mine/records.jsonl").write_text('{"id": "a", "error": null}\n')
    assert_refused(cli("table", "mine"), "mine/records.jsonl, line 1: field `task` is missing")


def test_an_output_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in a sentence, not in a box of the library that parses the command line."""
    Path("mine").mkdir()
    monkeypatch.setattr("os.access", lambda *_, **__: False)

    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lcbench.results.records.require_ours", denied)
    refused = cli("run", "passkey", "--seq-len", "150", "--samples", "1", "-o", "mine")
    assert_refused(refused, "cannot write to mine: Permission denied; pass another --output.")


@pytest.mark.parametrize(
    "arguments",
    [
        "report --out no/x.html",
        "plot passkey --out no/x.png",
        "export mine --out no/x.parquet",
        "compare mine mine --html x.html --junit no/x.xml",
    ],
)
def test_a_file_in_a_folder_that_is_not_there(arguments: str) -> None:
    """Told before anything is read, and nothing is made."""
    said = f"cannot write {arguments.split()[-1]}: there is no folder no; create it first."
    assert_refused(cli(*arguments.split()), said)
    assert not list(Path().iterdir())


def test_a_page_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run", "passkey", "--seq-len", "150", "--samples", "1", "-o", "mine").code == 0
    assert cli("report", "mine").code == 0
    before = Path("mine/report.html").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for arguments, option in (("report mine", "--out"), ("compare mine mine --html mine/report.html", "--html")):
        refused = cli(*arguments.split())
        assert refused.code == 2
        assert refused.error == f"error: cannot write mine/report.html: No space left on device; pass another {option}."
        assert Path("mine/report.html").read_bytes() == before and not list(Path("mine").glob("*.tmp"))


def test_half_a_character() -> None:
    Path("mine.yaml").write_text(
        "family: document\ndata: rows.jsonl\nprompt: '{{ document }}'\nscorer: f1\nmax_new_tokens: 4\n"
    )
    rows = [
        '{"document": "whole \\ud83d\\ude00", "references": ["a"]}',
        '{"document": "a \\ud800", "references": ["a"]}',
    ]
    Path("rows.jsonl").write_text("\n".join(rows) + "\n")
    refused = cli("run", "mine.yaml", "--seq-len", "256")
    assert_refused(refused, "rows.jsonl, line 2, has \\ud800 in it, half a character; take it out")
    Path("rows.jsonl").unlink()
    Path("rows.json").write_text(f"[{','.join(rows)}]")
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("jsonl", "json"))
    assert_refused(cli("run", "mine.yaml", "--seq-len", "256"), "rows.json, row 2, has \\ud800 in it")
    Path("rows.csv").write_text('document,references\na,"[""\\ud800""]"\n')
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("json", "csv"))
    assert_refused(cli("run", "mine.yaml", "--seq-len", "256"), "rows.csv, row 1, has \\ud800 in it")
    Path("rows.jsonl").write_text('{"text": "a \\ud800"}\n')
    show = ["show", "needle", "--seq-len", "1k", "--haystack"]
    assert_refused(cli(*show, "rows.jsonl"), "rows.jsonl, line 1, has \\ud800 in it")
    Path("book.txt").write_bytes(b"It rained. \xab")
    assert_refused(cli(*show, "book.txt"), "book.txt is not UTF-8 text (at byte 11); save it as UTF-8")
    write_broken_parquet(Path("rows.parquet"))
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("csv", "parquet"))
    assert_refused(cli("run", "mine.yaml", "--seq-len", "256"), "rows.parquet has a text that is not UTF-8")


def write_broken_parquet(path: Path) -> None:
    """A column of text whose bytes are the half of a character that UTF-8 forbids."""
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.array([b"a \xed\xa0\x80"], pa.binary())
    parquet.write_table(pa.table({"document": pa.Array.from_buffers(pa.string(), 1, column.buffers())}), path)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="unknown task 'passky'"):
        cli("--debug", "run", "passky")
    with pytest.raises(Exception, match="unknown task 'passky'"):
        cli("run", "passky", "--debug")
