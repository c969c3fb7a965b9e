"""Which option letters, A to D, an answer gives: as L-Eval's scorer reads it, and as a reader would."""

from __future__ import annotations

import re

from lcbench.core.errors import UserError

# A letter that is no part of a word; "A good reason" is the article, "A and C" or "A is right" is not.
_ALONE = re.compile(r"(?<![\w'\u2019])(?!A\s+(?!(?:and|or|is|are)\b)[a-z])[A-D](?![\w'\u2019])")
_STATED = re.compile(r"(?i:\banswers?\b\s*(?:is|are|:)+)")
_ONLY_LETTERS = re.compile(r"\W*[A-D](?:(?:\W|and|or)*[A-D])*\W*")


def chosen(answer: str, several: bool, older: bool = False) -> str:
    """The letters that L-Eval's scorer sees; `several` for coursera, `older` for ChunkLlama's copy of the scorer.

    A blank answer is `None`, one without a letter `A`; in the older copy they are the empty text and `None`.
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
    """The letters of the first word of the right answer; without any it is `A`, in the older copy nothing.

    Raises: UserError for a blank reference.
    """
    if not reference.strip():
        raise UserError("the reference of a multiple-choice question is blank; it must begin with its letters.")
    letters = re.sub("[^A-D]", "", reference.split()[0])
    return letters if letters or older else "A"


def meant(answer: str, several: bool) -> set[str]:
    """The letters that the answer means; empty if it means none.

    An answer of letters alone (`C`, `(C)`, `ACD`, `A, C and D`) means all of them. Otherwise letters that stand alone
    count (not the article A); those right behind the last "answer is", "answers are" or "answer:", or at the very
    beginning, also as one word; all of them if `several`, else the first. What follows the word "Question" is not
    read, unless nothing precedes it.
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
