"""InfiniteBench: 12 tasks of some 100,000 words, from the JSONL of `xinrongzhang2022/InfiniteBench`.

Zhang et al. 2024, https://arxiv.org/abs/2402.13718. References are as its scorer takes them: of multiple choice the
option and its letter, of code and mathematics numbers. Prompts that quote the input get their parts as columns:
`function` and `call` of code_run, `asked` of math_find.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

TASKS = {
    "passkey": "a number of five digits, hidden in noise",
    "number_string": "a number of ten digits, hidden in noise",
    "kv_retrieval": "the value of a key in an object of JSON",
    "longbook_sum_eng": "summaries of novels",
    "longbook_qa_eng": "questions on novels",
    "longbook_choice_eng": "multiple choice on novels",
    "longbook_qa_chn": "questions on novels, Chinese",
    "longdialogue_qa_eng": "who speaks in a film script",
    "math_find": "numbers found in a list",
    "math_calc": "values of a sum, step by step",
    "code_run": "what nested functions return",
    "code_debug": "which function is broken",
}
CALL = re.compile(r"(func_[0-9]+)\(-?[0-9]+\)")
ASKED = re.compile(r"The .+ of")
LETTERS = "ABCD"


def told(question: str) -> dict[str, str]:
    """The parts of an input that prompts quote."""
    call, asked = CALL.search(question), ASKED.search(question)
    parts = {"function": call[1], "call": call[0]} if call else {}
    return parts | ({"asked": asked[0].lower().removesuffix(" of")} if asked else {})


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    options, given = tuple(row["options"] or ()), row["answer"]
    answers = list(given) if isinstance(given, list) else [given]
    if len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if options:
        if answers[0] not in options:
            raise ValueError(f"has an answer that is none of its options: {answers[0]!r}.")
        answers = [answers[0], LETTERS[options.index(answers[0])]]
    references = tuple(str(answer) for answer in answers)
    yield SourceRow(str(row["id"]), row["input"], references, row["context"], choices=options, meta=told(row["input"]))


DATA_SETS = [
    DataSet(
        name=f"infinitebench/{name}",
        description=description,
        hub=Hub(
            "xinrongzhang2022/InfiniteBench",
            (f"{name}.jsonl",),
            "90f0394333616266d9fe85824ceaf505093cbaa5",
        ),
        licence=Licence("MIT", "unclear", "novels and film scripts keep the rights of their owners"),
        formats=({"id": int, "context": str, "input": str, "answer": object, "options": object},),
        examples=examples,
        splits=("test",),
    )
    for name, description in TASKS.items()
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
