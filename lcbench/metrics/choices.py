"""The option letters, A to D, in an answer: by the rules of L-Eval's scorer, and as a reader understands it."""

from __future__ import annotations

import re

from lcbench.core.errors import UserError

# A letter that is not part of a word; in "A good reason" it is the article, in "A and C" or "A is right" it is not.
_ALONE = re.compile(r"(?<![\w'\u2019])(?!A\s+(?!(?:and|or|is|are)\b)[a-z])[A-D](?![\w'\u2019])")
_STATED = re.compile(r"(?i:\banswers?\b\s*(?:is|are|:)+)")
_ONLY_LETTERS = re.compile(r"\W*[A-D](?:(?:\W|and|or)*[A-D])*\W*")


def chosen(answer: str, several: bool, older: bool = False) -> str:
    """The letters by the rules of L-Eval's scorer; `several` for coursera, `older` for ChunkLlama's copy of the scorer.

    Returns "None" for a blank answer, "A" for one without a letter; in the older copy "" and "None".
    """
    if not older and not answer.strip():
        return "None"
    if answer in "ABCD":
        return answer
    first = re.search("[A-D]", answer)
    if first and not several:
        return first[0]
    start = re.match("[A-D]*", answer)
    leading = start[0] if start else ""
    if len(leading) > 1:
        return "".join(sorted(set(leading)))
    rest = answer[len(leading) :].split("Question")[0]
    marked = re.findall(r"[A-D](?=[\s.)])", rest)
    run = re.search("[A-D]+", rest)
    if leading or marked:
        return "".join(sorted({*leading, *marked}))
    if run:
        return run[0]
    return "None" if older else "A"


def expected_letters(reference: str, older: bool = False) -> str:
    """The letters in the first word of the right answer; "A" if it has none, "" in the older copy.

    Raises: UserError for a blank reference.
    """
    if not reference.strip():
        raise UserError("the reference of a multiple-choice question is blank; it must begin with its letters.")
    letters = re.sub("[^A-D]", "", reference.split()[0])
    return letters if letters or older else "A"


def meant(answer: str, several: bool) -> set[str]:
    """The letters as a reader understands the answer; empty if it gives none.

    An answer of only letters (`C`, `(C)`, `ACD`, `A, C and D`) gives all of them. Otherwise single letters count (not
    the article A), and right after the last "answer is", "answers are" or "answer:", or at the beginning, also letters
    joined to one word; all of them if `several`, else the first. Text after the word "Question" is ignored, unless
    nothing precedes it.
    """
    answer = answer.split("Question")[0].strip() or answer
    if _ONLY_LETTERS.fullmatch(answer):
        return set(re.findall("[A-D]", answer))
    *before, after = _STATED.split(answer)
    stated = re.match(r"\W*([A-D]+)(?!\w)", after)
    if stated and (before or len(stated[1]) > 1):
        letters = [*stated[1], *_ALONE.findall(after[stated.end() :])]
        return set(letters) if several else set(stated[1])
    alone = _ALONE.findall(after) or _ALONE.findall(answer)
    return set(alone if several else alone[:1])
