"""From records to rows: scores, their intervals, cost, and what is bold, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import chain
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.core.stats import wilson_interval
from lcbench.metrics import corpus_score, score_corpus, score_example
from lcbench.results.manifest import RunIdentity, TaskFacts
from lcbench.results.records import MANIFEST, RECORDS
from lcbench.results.report.best import best
from lcbench.results.report.layout import grids
from lcbench.results.report.notes import notes
from lcbench.results.report.runs import Run, differences, read_runs, trained_length
from lcbench.results.report.summary import summarise_runs
from lcbench.results.schema import Record
from tests.helpers import Fields
from tests.results.report.samples import failure, likelihood, record, summarise, typed


def test_one_row() -> None:
    records = [record(sample=sample, score=float(sample < 3)) for sample in range(4)]
    (row,) = summarise(records)
    assert (row.task, row.method, row.seq_len, row.metric, row.samples) == ("passkey", "vanilla", 256, "exact_match", 4)
    assert (row.mean, row.failed, row.model, row.best) == (0.75, None, "lcbench-tiny", False)
    assert (row.low, row.high) == pytest.approx((0.3006, 0.9544), abs=5e-5)
    assert row.prefill_tokens_per_second == pytest.approx(4 * 250 / 2.0)
    assert row.peak_memory_bytes == 300 * 2**20 + 3
    assert (row.prompt_tokens, row.reused_tokens) == (1000, 0)


def test_order_is_kept_and_what_differs_set_apart() -> None:
    records = [record("b", 512), record("a", 256), record("b", 256), record("b", 512, sample=1), record("b", task="x")]
    rows = summarise(records)
    assert [(row.task, row.method, row.seq_len, row.samples) for row in rows] == [
        ("passkey", "b", 512, 2),
        ("passkey", "a", 256, 1),
        ("passkey", "b", 256, 1),
        ("x", "b", 256, 1),
    ]


def test_failures() -> None:
    """A failed sample is neither right nor wrong: the score is of those that were answered."""
    nan = record("c", metric="nll", scores={"nll": math.nan})
    whole, partly, lost = summarise(
        [failure("a", 256), record("b", 256, score=0.0), record("b", 256, 1), failure("b", 256, sample=2), nan]
    )
    assert (whole.samples, whole.mean, whole.low, whole.high, whole.failed) == (0, None, None, None, "out of memory")
    assert whole.prefill_tokens_per_second is None and whole.peak_memory_bytes is None
    assert (partly.samples, partly.mean, partly.failed) == (2, 0.5, "out of memory")
    assert (lost.samples, lost.mean, lost.failed) == (0, None, "no nll")


def test_reused_tokens_are_not_computed_ones() -> None:
    records = [record(sample=k, cost={**record()["cost"], "reused_tokens": 100 * k}) for k in range(3)]
    (row,) = summarise(records)
    assert (row.prompt_tokens, row.reused_tokens) == (750, 300)
    assert row.prefill_tokens_per_second == pytest.approx(450 / 1.5)


# Intervals of graded scores


def graded(scores: list[float], metric: str) -> list[Fields]:
    return [record(sample=k, metric=metric, scores={metric: score}) for k, score in enumerate(scores)]


def test_graded_scores_are_surer_than_right_and_wrong() -> None:
    """Scores of 0.4 to 0.6 spread less than zeros and ones of the same mean."""
    (row,) = summarise(graded([0.4, 0.5, 0.6] * 7, "recall"))
    assert row.mean == pytest.approx(0.5) and row.low is not None and row.high is not None
    assert 0.42 < row.low < 0.48 and 0.52 < row.high < 0.58


def test_a_score_stays_within_its_range() -> None:
    nearly = [0.9, 1.0, 0.8, 1.0, 0.95, 1.0, 1.0, 0.7, 1.0, 1.0, 0.85, 0.9]
    (share,) = summarise(graded(nearly, "recall"))
    (percent,) = summarise(graded([100 * score for score in nearly], "score"))
    assert share.high is not None and share.low is not None and 0.8 < share.low < 0.925 < share.high <= 1.0
    assert percent.high is not None and percent.low is not None and 80 < percent.low < 92.5 < percent.high <= 100.0
    (long,) = summarise(graded([1.0] * 8 + [0.5, 0.75, 0.25, 0.9], "recall"))  # skewed: Wilson's is shorter
    assert (long.low, long.high) == pytest.approx(wilson_interval(10.4, 12))
    (unbounded,) = summarise(graded([*[100.0] * 8, 50.0, 75.0, 25.0, 90.0], "points"))
    assert unbounded.high is not None and unbounded.high > 100
    (few,) = summarise(graded([30.0, 80.0], "points"))
    assert (few.mean, few.low, few.high) == (55.0, None, None)


@pytest.mark.parametrize(
    ("metric", "scores", "low", "high"),
    [
        ("recall", [0.5] * 10, 0.2366, 0.7634),  # nothing spreads: as 5 of 10
        ("score", [50.0] * 10, 23.66, 76.34),
        ("score", [100.0] * 3 + [0.0], 30.06, 95.44),
        ("score", [0.0] * 20, 0.0, 16.11),
        ("points", [1.0] * 3 + [0.0], 0.3006, 0.9544),  # of a task that is not ours: right and wrong
    ],
)
def test_wilson_on_every_scale(metric: str, scores: list[float], low: float, high: float) -> None:
    (row,) = summarise(graded(scores, metric))
    assert (row.low, row.high) == pytest.approx((low, high), rel=5e-4)


# Likelihoods


def test_perplexity_is_of_all_tokens_together() -> None:
    """By hand: 2 nats over 100 tokens and 3 over 300 are 11 / 4 nats per token, and 1100 nats over 2000 bytes."""
    books = [likelihood(book=0, nll=2.0, tokens=100, bytes=500), likelihood(book=1, nll=3.0, tokens=300, bytes=1500)]
    (row,) = summarise(books)
    assert (row.metric, row.samples, row.low, row.high) == ("perplexity", 2, None, None)
    assert row.mean == pytest.approx(math.exp(11 / 4))
    assert row.bits_per_byte == pytest.approx(1100 / 2000 / math.log(2))
    assert row.bits_per_word == pytest.approx(1100 / 400 / math.log(2))


def test_windows_are_averaged_as_they_are() -> None:
    books = [likelihood(book=k, nll=2.0 + k, tokens=100 + 200 * k, averaging="windows") for k in range(2)]
    (row,) = summarise(books)
    assert row.mean == pytest.approx(math.exp(2.5))
    assert row.bits_per_byte == pytest.approx(sum(book["scores"]["bits_per_byte"] for book in books) / 2)


def test_interval_of_perplexity_holds_it_and_is_in_its_unit() -> None:
    rng = random.Random(0)
    books = [likelihood(book=k, nll=rng.gauss(3, 0.2), tokens=rng.randint(50, 500)) for k in range(12)]
    (row,) = summarise(books)
    assert row.low is not None and row.high is not None and row.mean is not None
    assert math.exp(2.7) < row.low < row.mean < row.high < math.exp(3.3)
    assert math.log(row.high / row.mean) == pytest.approx(math.log(row.mean / row.low))
    low, high = row.bits_per_byte_low, row.bits_per_byte_high
    assert low is not None and high is not None and row.bits_per_byte is not None and low < row.bits_per_byte < high


def test_text_without_words_has_no_bits_a_word() -> None:
    (row,) = summarise([likelihood(book=book, words=0) for book in range(5)])
    assert (row.bits_per_word, row.bits_per_word_low) == (None, None) and row.bits_per_byte is not None
    windows = [likelihood(book=book, words=0, averaging="windows") for book in range(2)]
    for book in windows:
        del book["scores"]["bits_per_word"]
    assert summarise(windows)[0].bits_per_word is None


def test_the_protocol_is_the_records_own_where_they_tell() -> None:
    """Its stride may follow from the length; a length that failed has what the run says."""
    told = likelihood(book=0) | {"protocol": "sliding, stride 128"}
    records = typed([failure("dca", 512, task="pg19"), told, failure("vanilla", 256, task="pg19")])
    run = Run("", RunIdentity(tasks=[TaskFacts(name="pg19", protocol="sliding")]), records)
    assert [row.protocol for row in summarise_runs([run])] == ["sliding", "sliding, stride 128"]


def test_few_unlike_books_bound_little_but_never_below_nothing() -> None:
    (row,) = summarise([likelihood(book=book, nll=nll) for book, nll in enumerate((1.0, 1.01, 4.0, 4.02, 4.01))])
    assert (row.low, row.bits_per_byte_low, row.bits_per_word_low) == (1.0, 0.0, 0.0)


def test_no_chance_at_all_is_infinite() -> None:
    (row,) = summarise([likelihood(nll=1000.0)])
    assert row.mean == math.inf and row.bits_per_byte == pytest.approx(250 / math.log(2))


# What is bold


def column(*scores: list[float], **fields: object) -> dict[int, list[Fields]]:
    return {
        place: [record(f"m{place}", sample=k, score=score, **fields) for k, score in enumerate(member)]
        for place, member in enumerate(scores)
    }


def typed_column(*scores: list[float]) -> dict[int, list[Record]]:
    return {place: typed(each) for place, each in column(*scores).items()}


def test_the_best_and_all_that_cannot_be_told_from_it() -> None:
    assert best(typed_column([1.0] * 20, [1.0] * 19 + [0.0], [0.0] * 20), "exact_match") == {0, 1}
    assert best(typed_column([0.0] * 20, [1.0] * 20), "exact_match") == {1}
    assert best(typed_column([1.0] * 20, [1.0] * 17 + [0.0] * 3), "exact_match") == set()
    assert best(typed_column([1.0] * 20), "exact_match") == set()


def test_few_lucky_samples_hide_nothing() -> None:
    """A method with three right answers of three is not worse, but neither does it stop the others from being told."""
    assert best(typed_column([1.0] * 3, [1.0] * 19 + [0.0], [0.0] * 20), "exact_match") == {0, 1}


def test_lower_is_better_for_likelihoods() -> None:
    books = {
        place: [likelihood(f"m{place}", k, nll=nll + 0.01 * (k * (place + 1) % 7)) for k in range(12)]
        for place, nll in enumerate((3.0, 2.0, 2.001))
    }
    assert best({place: typed(each) for place, each in books.items()}, "perplexity") == {1, 2}


def test_what_was_asked_something_else_is_not_compared() -> None:
    good, bad = [1.0] * 20, [0.0] * 20
    ours = column(good, bad)
    theirs = {key + 2: members for key, members in column(bad, bad, prompt_sha256="another tokenizer").items()}
    assert best({place: typed(each) for place, each in (ours | theirs).items()}, "exact_match") == {0}
    sides = (("a", ours), ("b", theirs))
    both = summarise_runs([Run(name, RunIdentity(), typed(chain(*side.values()))) for name, side in sides])
    assert [row.best for row in both] == [True, False, False, False]


def test_nothing_is_bold_by_chance() -> None:
    """Six methods that are all right three times out of four: a column with bold in it is a false alarm, at most 5 %
    of them (3 sigma)."""
    rng, columns = random.Random(0), 200
    alarms = sum(
        bool(best(typed_column(*([float(rng.random() < 0.75) for _ in range(30)] for _ in range(6))), "exact_match"))
        for _ in range(columns)
    )
    assert alarms <= columns * 0.05 + 3 * math.sqrt(columns * 0.05 * 0.95)


# Folders


def run_folder(folder: Path, records: list[Fields], **identity: object) -> Path:
    folder.mkdir(parents=True)
    manifest = {"format": 1, "identity": {"model": "m", "pretraining_length": 256, **identity}, "sessions": []}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / RECORDS).write_text("".join(json.dumps(each) + "\n" for each in records))
    return folder


def test_runs_are_named_after_their_folders_and_read_once(tmp_path: Path) -> None:
    one, two = run_folder(tmp_path / "x" / "one", [record()]), run_folder(tmp_path / "x" / "two", [record()])
    assert [run.name for run in read_runs([one, two, tmp_path / "x" / ".." / "x" / "one"])] == ["one", "two"]
    other = run_folder(tmp_path / "y" / "one", [record()])
    assert [run.name for run in read_runs([one, other])] == [str(one), str(other)]
    with pytest.raises(UserError, match="has no records yet"):
        read_runs([run_folder(tmp_path / "empty", [])])
    with pytest.raises(UserError, match="is not a run"):
        read_runs([tmp_path])


def test_what_differs_between_runs(tmp_path: Path) -> None:
    first = run_folder(tmp_path / "1", [record()], dtype="float32", seed=0, model_fingerprint="a")
    second = run_folder(
        tmp_path / "2", [record()], dtype="bfloat16", seed=0, model_fingerprint="b", pretraining_length=512
    )
    runs = read_runs([first, second])
    assert differences(runs) == [
        "the runs differ in dtype: float32, bfloat16.",
        "the weights of m differ between the runs.",
    ]
    assert differences(runs[:1]) == []
    assert (trained_length(runs), trained_length(runs[:1])) == (None, 256)


def answers(predictions: list[str], references: list[str], scorer: str) -> list[Fields]:
    return [
        record(
            task=scorer,
            sample=n,
            scorer=scorer,
            metric="score",
            scores=score_example(scorer, prediction, reference),
            details={"document": f"d{n // 3}"},
        )
        for n, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
    ]


@pytest.mark.parametrize("scorer", ["scrolls/qmsum", "leval/topic_retrieval_longchat", "f1", "leval/coursera"])
def test_the_score_of_a_corpus_is_the_official_one(scorer: str) -> None:
    words = ["the", "team", "wants", "a", "cheap", "remote", "control", "with", "a", "big", "red", "button"]
    references = [" ".join(words[n % 5 : n % 5 + 4]) if scorer != "leval/coursera" else "AC" for n in range(12)]
    predictions = [" ".join(words[: 2 + n % 7]) if scorer != "leval/coursera" else "ABC"[n % 3 :] for n in range(12)]
    records = answers(predictions, references, scorer)
    (row,) = summarise(reversed(records))
    official = score_corpus(scorer, predictions, references)["score"]
    assert row.mean == pytest.approx(official, abs=1e-3)
    assert row.low is not None and row.high is not None and 0 <= row.low < official < row.high <= 100


def test_the_jackknife_of_rouge_holds_the_truth() -> None:
    """In 95 of 100 corpora, about; the truth is the score of a corpus of thousands."""
    rng = random.Random(0)

    def draw(n: int) -> list[Fields]:
        records = []
        for sample in range(n):
            level = rng.random()
            parts = {
                f"rouge{k}": 100 * min(1.0, max(0.0, rng.gauss(level, 0.1))) * f for k, f in zip("12L", (1, 0.5, 0.8))
            }
            scores = {"score": 0.0, **parts}
            records.append(record(sample=sample, metric="score", scorer="scrolls/qmsum", scores=scores))
        return records

    truth = corpus_score("scrolls/qmsum", [record["scores"] for record in draw(20_000)])
    held = 0
    for _ in range(60):
        (row,) = summarise(draw(40))
        assert row.low is not None and row.high is not None
        held += row.low <= truth <= row.high
    assert 52 <= held <= 60


def test_draws_of_demonstrations_are_spread_and_questions_are_what_is_drawn() -> None:
    def answer(question: int, draw: int, score: float) -> Fields:
        details = {"row": f"q{question}", "draw": draw}
        return record(sample=3 * question + draw, metric="score", scores={"score": score}, details=details)

    asked = [answer(q, d, 100.0 * (q % 2 == 0)) for q in range(10) for d in range(3)]
    (row,) = summarise(asked)
    assert (row.draws, row.draws_sd, row.mean) == (3, 0.0, 50.0)
    assert grids([row])[0].title == "passkey: score, 10 samples per score, 3 answers each, 95 % intervals"
    assert "10 samples per score, 2 to 3 answers each" in grids(summarise(asked[:-1]))[0].title
    (alone,) = summarise([one for one in asked if one["details"]["draw"] == 0])
    assert alone.draws == 0 and alone.draws_sd is None
    assert row.low is not None and row.high is not None and alone.low is not None and alone.high is not None
    assert row.high - row.low > 0.9 * (alone.high - alone.low), "the same answers three times say no more than once"

    (spread_out,) = summarise([answer(q, d, 100.0 * (d == 0)) for q in range(10) for d in range(3)])
    assert spread_out.draws_sd == pytest.approx(100 / math.sqrt(3))
    assert "standard deviation over 3 draws of demonstrations: vanilla 57.74 at 256." in "".join(notes([spread_out]))


def test_what_a_row_took_over_is_said_of_the_row_that_computed_it() -> None:
    def answer(question: int, draw: int, method: str, **more: object) -> Fields:
        scores, details = {"score": 100.0 * (draw == 0)}, {"row": f"q{question}", "draw": draw}
        return record(method, sample=3 * question + draw, metric="score", scores=scores, details=details, **more)

    asked = [(q, d) for q in range(10) for d in range(3)]
    taken = [answer(*one, "dca", equals="vanilla", taken_from="passkey/vanilla") for one in asked]
    rows = summarise([answer(*one, "vanilla") for one in asked] + taken)
    said = [line for line in notes(rows) if "standard deviation over 3 draws" in line]
    assert said == ["passkey, standard deviation over 3 draws of demonstrations: vanilla 57.74 at 256."]
    alone = [row for row in rows if row.method == "dca"]
    assert "demonstrations: dca 57.74 at 256." in "".join(notes(alone))


def test_notes_of_several_runs_say_of_which_and_tell_what_differs() -> None:
    def asked(cut: int) -> list[Fields]:
        shots = [{"row": f"q{n // 2}", "draw": n % 2, "cut_tokens": cut} for n in range(4)]
        return [record(sample=n, details=shot) for n, shot in enumerate(shots)]

    rows = summarise_runs([Run(name, RunIdentity(), typed(asked(cut))) for name, cut in (("one", 7), ("two", 9))])
    said = " ".join(notes(rows))
    assert "demonstrations: vanilla in one 0.00 at 256; vanilla in two 0.00 at 256." in said
    assert "by 7 tokens on average" in said and "by 9 tokens on average" in said
    same = summarise_runs([Run(name, RunIdentity(), typed(asked(7))) for name in ("one", "two")])
    assert " ".join(notes(same)).count("documents were cut") == 1


def test_the_spread_over_repeats_and_thoughts_that_were_cut() -> None:
    records = [
        record(sample=sample, score=float(repeat != 1), repeat=repeat, reasoning_cut=sample == 0, reasoning="Hm.")
        | {"id": f"passkey/vanilla/256/uniform/{sample}{f'.{repeat}' if repeat else ''}"}
        for sample in range(5)
        for repeat in range(3)
    ]
    (row,) = summarise(records)
    assert (row.repeats, row.samples, row.thoughts, row.thoughts_cut) == (3, 15, 15, 3)
    assert row.repeats_sd == pytest.approx(statistics.stdev([1, 0, 1])) and row.draws_sd is None
    (once,) = summarise([record(sample=sample, score=2 / 3) for sample in range(5)])
    assert (row.low, row.high) == pytest.approx((once.low, once.high)), "five samples, however often each is answered"
    for score in (0.0, 1.0):
        (same,) = summarise([one | {"scores": {"exact_match": score}} for one in records])
        assert (same.low, same.high) == wilson_interval(5 * score, 5), "all wrong is no more certain than all right"
    said = " ".join(notes([row]))
    assert "standard deviation over 3 repeats: vanilla 0.58 at 256." in said
    assert "thoughts that did not end: 3 of 15 with vanilla at 256." in said
