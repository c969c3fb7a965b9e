"""BABILong: bAbI's stories of tasks 1 to 5 between the sentences of PG19's books, from `RMT-team/babilong`.

Kuratov et al. 2024, https://arxiv.org/abs/2406.10149. The files are `data/qa1/8k.json`, a list of rows each. A length
of the source, `8k`, is that of GPT-2's tokenizer; it is a column of each row. References are the right answer and the
question, as the scorer takes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

LENGTH = re.compile(r"(?<![0-9A-Za-z])([0-9]+[kM])(?![0-9A-Za-z])")
TASKS = {
    "qa1": "where a person is, in a book",
    "qa2": "where a thing is, in a book",
    "qa3": "where a thing was before, in a book",
    "qa4": "which place lies where, in a book",
    "qa5": "who gave what to whom, in a book",
}


def length(name: str) -> dict[str, str]:
    found = LENGTH.search(name)
    return {"length": found[1] if found else "unknown"}


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    question = row["question"].strip()
    references = (row["target"], question)
    yield SourceRow(
        f"{row['length']}-{number}", question, references, row["input"].strip(), meta={"length": row["length"]}
    )


DATA_SETS = [
    DataSet(
        name=f"babilong/{task}",
        description=description,
        hub=Hub(
            "RMT-team/babilong",
            (f"data/{task}/*.json", f"*{task}/*.parquet", f"*/{task}-*.parquet"),  # parquet of copies
            "ee0d588794c7ac098062ee0d247c733d62e94fe2",
        ),
        licence=Licence("Apache-2.0", "unclear", "stories of bAbI (CC BY 3.0), books of PG19"),
        formats=({"input": str, "question": str, "target": str},),
        examples=examples,
        splits=("test",),
        from_name=length,
    )
    for task, description in TASKS.items()
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
