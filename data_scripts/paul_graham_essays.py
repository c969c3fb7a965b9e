"""Essays by Paul Graham, the haystack of the published needle tests, from `baber/paul_graham_essays`.

`--haystack` takes the `documents.jsonl` that this makes.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(str(number), "", (), row["text"])


DATA_SETS = [
    DataSet(
        name="paul_graham_essays",
        description="essays, for haystacks",
        hub=Hub(
            "baber/paul_graham_essays",
            ("*.parquet",),
            "792d672b77d1a67720f7e9820d646358fc18792e",
            {"essays.parquet": "825448033be010042ffd6fc77c32bbcab61f2ef63196f0fc4bfbf5b388a1660e"},
        ),
        licence=Licence("none stated", "unclear", "all rights are the author's"),
        formats=({"text": str},),
        examples=examples,
        splits=("train",),
        unnamed_split="train",
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
