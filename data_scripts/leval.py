"""L-Eval: several questions to a document, closed and open-ended, from the JSONL of `L4NLP/LEval`.

An et al., L-Eval: Instituting Standardized Evaluation for Long Context Language Models, arXiv:2307.11088. A line of the
source is a document (`input`) with all its `instructions` and `outputs`; here it becomes one row a question, in order,
and questions of one document share its id, so that one prefill serves them.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

TERMS = "the texts keep the terms of the data they were taken from"
MIXED = Licence("GPL-3.0", "unclear", TERMS)
LICENCES = {
    "tpo": Licence("research use only", "forbidden", "practice lectures of ETS"),
    "coursera": Licence("research use only", "forbidden", "transcripts of Coursera's courses"),
}
EXAM = {
    "tpo": "multiple choice on lectures",
    "quality": "multiple choice on stories",
    "coursera": "multiple choice on courses",
    "sci_fi": "true or false in a story and in fact",
    "gsm100": "arithmetic after many examples",
    "codeU": "what code prints",
    "topic_retrieval_longchat": "topics of a long chat",
}
GENERATION = {
    "financial_qa": "questions on earnings calls",
    "gov_report_summ": "summaries of reports",
    "legal_contract_qa": "questions on contracts",
    "meeting_summ": "summaries of meetings",
    "multidoc_qa": "questions on several documents",
    "narrative_qa": "questions on books and scripts",
    "natural_question": "questions on Wikipedia",
    "news_summ": "summaries of news",
    "paper_assistant": "reviews and help with papers",
    "patent_summ": "summaries of patents",
    "review_summ": "summaries of reviews",
    "scientific_qa": "questions on papers",
    "tv_show_summ": "summaries of episodes",
}


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    """The questions of a document, `3-0`, `3-1`, ... those of the fourth."""
    if len(row["instructions"]) != len(row["outputs"]):
        raise ValueError(f"has {len(row['instructions'])} instructions and {len(row['outputs'])} outputs.")
    for place, (question, answer) in enumerate(zip(row["instructions"], row["outputs"], strict=True)):
        meta = {"source": row["source"], "evaluation": row["evaluation"], "place": place}
        yield SourceRow(f"{number}-{place}", question, (answer,), row["input"], meta=meta)


def _data_set(folder: str, name: str, description: str) -> DataSet:
    return DataSet(
        name=f"leval/{name}",
        description=description,
        hub=Hub("L4NLP/LEval", (f"LEval/{folder}/{name}.jsonl",)),
        licence=LICENCES.get(name, MIXED),
        formats=({"instructions": list, "outputs": list, "input": str, "source": str, "evaluation": str},),
        examples=examples,
        splits=("test",),
    )


DATA_SETS = [
    _data_set(folder, name, description)
    for folder, tasks in (("Exam", EXAM), ("Generation", GENERATION))
    for name, description in tasks.items()
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
