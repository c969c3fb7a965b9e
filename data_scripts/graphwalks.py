"""GraphWalks: prompts with a directed graph and an operation on it, from `openai/graphwalks`.

OpenAI, 2025, https://huggingface.co/datasets/openai/graphwalks. The commit is that of 27 February 2026, which mended
24 rows and words searches as "exactly at that depth". A prompt is the document, so that rows stay small; the
references are the nodes of the right set, none where it is empty.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def part(name: str) -> dict[str, str]:
    return {"part": "256k to 1M" if "256k" in name else "up to 128k"}


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    meta = {name: row[name] for name in ("problem_type", "prompt_chars", "date_added", "part") if name in row}
    nodes = tuple(dict.fromkeys(row["answer_nodes"]))
    yield SourceRow(str(number), "", nodes, row["prompt"], meta=meta)


DATA_SETS = [
    DataSet(
        name="graphwalks",
        description="which nodes of a graph a search or a step back reaches",
        hub=Hub(
            "openai/graphwalks",
            ("graphwalks_128k_and_shorter.parquet", "graphwalks_256k_to_1mil.parquet"),
            "be6cc6ecf9b4d495b07d1ff53d2a16598e90fed7",
        ),
        licence=Licence("MIT"),
        formats=({"prompt": str, "answer_nodes": list, "problem_type": str},),
        examples=examples,
        splits=("test",),
        from_name=part,
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
