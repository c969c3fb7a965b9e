"""SCROLLS: seven tasks over long documents, from the zips of `tau/scrolls`; its loading script is not run.

Shaham et al., SCROLLS: Standardized CompaRison Over Long Language Sequences, arXiv:2201.03533. Labels of the test split
are withheld: validation is what is scored, training what demonstrations are drawn from. A query stands before its
document, a blank line between them; of QuALITY its options follow, and another blank line. Reports and screenplays to
summarise have no query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

NLI_CHOICES = ("Not mentioned", "Entailment", "Contradiction")
OPTION = re.compile(r"\n\s*\([A-D]\)\s*")


def whole(row: RawRow, number: int) -> Iterator[SourceRow]:
    """A document without a query."""
    yield _example(row, "", row["input"])


def queried(row: RawRow, number: int) -> Iterator[SourceRow]:
    """A query about the document behind it."""
    yield _example(row, *_split(row["input"]))


def hypothesis(row: RawRow, number: int) -> Iterator[SourceRow]:
    """A hypothesis that a contract entails, contradicts or does not mention."""
    yield _example(row, *_split(row["input"]), NLI_CHOICES)


def multiple_choice(row: RawRow, number: int) -> Iterator[SourceRow]:
    """A question with its options (A) to (D), which stay in the question, and stand by themselves as choices."""
    stem, rest = _split(row["input"])
    end = rest.find("\n\n", rest.find("(D)"))
    _, *choices = OPTION.split(f"\n{rest[:end]}")
    if end < 0 or len(choices) != 4:
        raise ValueError("has no options (A) to (D) behind the question in its field `input`.")
    question = f"{stem}\n\n{rest[:end].rstrip()}"
    yield _example(row, question, rest[end:].lstrip("\n"), tuple(" ".join(choice.split()) for choice in choices))


def _split(text: str) -> tuple[str, str]:
    query, blank, document = text.partition("\n\n")
    if not blank:
        raise ValueError("has no blank line between query and document in its field `input`.")
    return query, document


def _example(row: RawRow, question: str, text: str, choices: tuple[str, ...] = ()) -> SourceRow:
    meta = {name: row[name] for name in ("pid", "is_hard") if name in row}
    return SourceRow(row["id"], question, (row["output"],), text, choices=choices, meta=meta)


def _data_set(
    name: str, description: str, licence: Licence, examples: Callable[[RawRow, int], Iterator[SourceRow]]
) -> DataSet:
    return DataSet(
        name=f"scrolls/{name}",
        description=description,
        hub=Hub("tau/scrolls", (f"{name}.zip",)),
        licence=licence,
        formats=({"id": str, "input": str, "output": str},),
        examples=examples,
        splits=("train", "validation"),
        unnamed_split="validation",
    )


DATA_SETS = [
    _data_set("narrative_qa", "questions on books and scripts", Licence("Apache-2.0"), queried),
    _data_set("qasper", "questions on papers", Licence("CC BY 4.0"), queried),
    _data_set("quality", "multiple choice on stories", Licence("CC BY 4.0"), multiple_choice),
    _data_set("qmsum", "summaries of meetings by query", Licence("MIT"), queried),
    _data_set(
        "gov_report",
        "summaries of reports",
        Licence("none stated", "unclear", "reports of agencies of the US"),
        whole,
    ),
    _data_set(
        "summ_screen_fd",
        "summaries of episodes",
        Licence("none stated", "unclear", "transcripts of TV shows by their fans"),
        whole,
    ),
    _data_set("contract_nli", "hypotheses on contracts", Licence("CC BY 4.0"), hypothesis),
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
