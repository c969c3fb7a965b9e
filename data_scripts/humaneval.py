"""HumanEval: 164 functions to write; the question is the prompt, the reference the solution, its test in `meta`.

Chen et al., Evaluating Large Language Models Trained on Code, arXiv:2107.03374.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    meta = {"entry_point": row["entry_point"], "test": row["test"]}
    yield SourceRow(row["task_id"], row["prompt"], (row["canonical_solution"],), meta=meta)


FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
DATA_SETS = [
    DataSet(
        name="humaneval",
        description="functions to write",
        hub=Hub(
            "openai/openai_humaneval",
            ("openai_humaneval/test-*.parquet",),
            "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        ),
        licence=Licence("MIT"),
        formats=(dict.fromkeys(FIELDS, str),),
        examples=examples,
        splits=("test",),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
