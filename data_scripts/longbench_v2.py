"""LongBench v2: 503 questions with four choices on long contexts, from `data.json` of `THUDM/LongBench-v2`.

Bai et al. 2024, https://arxiv.org/abs/2412.15204. All fields are stripped, as in the published script. The reference
is the letter.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    choices = tuple(row[f"choice_{letter}"].strip() for letter in "ABCD")
    meta = {name: row[name] for name in ("domain", "sub_domain", "difficulty", "length")}
    text = row["context"].strip()
    yield SourceRow(row["_id"], row["question"].strip(), (row["answer"],), text, choices=choices, meta=meta)


FIELDS = ("_id", "domain", "sub_domain", "difficulty", "length", "question", "answer", "context")
DATA_SETS = [
    DataSet(
        name="longbench_v2",
        description="multiple choice on long contexts, easy and hard",
        hub=Hub("THUDM/LongBench-v2", ("data.json",), "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"),
        licence=Licence("Apache-2.0", "unclear", "the texts keep the terms of the data they were taken from"),
        formats=(dict.fromkeys((*FIELDS, *(f"choice_{letter}" for letter in "ABCD")), str),),
        examples=examples,
        splits=("test",),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
