"""NoLiMa: needles that share hardly a word with the question about them, and books, from `amodaresi/NoLiMa`.

Modarressi et al. 2025, https://arxiv.org/abs/2502.05167. The licence allows no commercial use, and nothing of it ships
with lcbench. A row is one needle with one question and one set of words; the name in it, `{CHAR}`, is drawn when a
prompt is made, and is the reference unless the source gives others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

REVISION = "378115b1f136b6ba78f90f78682bc55f70ec3ddd"
LICENCE = Licence("Adobe Research License", "forbidden", "research only; ask Adobe for other uses")


def filled(text: str, words: Sequence[str]) -> str:
    for number, word in enumerate(words, start=1):
        text = text.replace(f"{{{number}}}", word)
    return text


def needles(row: RawRow, number: int) -> Iterator[SourceRow]:
    for kind, question in row["questions"].items():
        for name, test in row["tests"].items():
            words = test["input_args"]
            meta = {
                "needle": filled(row["needle"], words),
                "kind": kind,
                "characters": list(row["character_set"]),
                "system_prompt": row.get("system_prompt") or "",
                "task_template": row.get("task_template") or "",
            }
            references = tuple(test.get("gold_answers") or ())
            yield SourceRow(f"{row['id']}-{kind}-{name}", filled(question, words), references, meta=meta)


def books(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(row["name"], "", (), row["text"], row["name"].rpartition("/")[2])


DATA_SETS = [
    DataSet(
        name="nolima/needles",
        description="facts that answer a question by what they imply",
        hub=Hub("amodaresi/NoLiMa", ("needlesets/needle_set.json",), REVISION),
        licence=LICENCE,
        formats=({"id": str, "needle": str, "questions": dict, "tests": dict, "character_set": list},),
        examples=needles,
        splits=("test",),
        members=("*needle_set.json",),
    ),
    DataSet(
        name="nolima/books",
        description="five books, shuffled, to hide them in",
        hub=Hub("amodaresi/NoLiMa", ("haystack/rand_shuffle/rand_book_*.txt",), REVISION),
        licence=LICENCE,
        formats=({"name": str, "text": str},),
        examples=books,
        splits=("test",),
        suffixes=(".txt",),
        members=("*rand_book_*.txt",),
    ),
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
