"""Passkey retrieval: a number hidden in filler text, with the question at the end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError, brief, unknown
from lcbench.core.specs import convert_options
from lcbench.core.tokens import encode_inside
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.format import begun_answer
from lcbench.tasks.text.repeated_filler import Haystack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Protocol:
    """The wording of a passkey test, with `{key}` for the number, drawn from `lowest` to `highest` (inclusive).

    The prompt is instruction, filler, needle, filler, question, each on its own line, with `glue` before the question.
    In a chat, the text after the last question mark is the answer prefix.
    """

    source: str
    instruction: str
    filler: tuple[str, ...]
    needle: str
    question: str
    lowest: int
    highest: int
    glue: str = "\n"

    def __post_init__(self) -> None:
        for line, what in ((self.needle, "needle"), (self.instruction + self.question, "")):
            if ("{key}" in line) != bool(what):
                raise UserError("a passkey protocol must contain {key} in its needle, and nowhere else.")
        if not all(map(str.strip, self.filler or ("",))) or not 0 <= self.lowest <= self.highest:
            raise UserError("a passkey protocol needs filler sentences, and keys from lowest to highest.")


@dataclass(frozen=True, kw_only=True)
class Passkey(Task):
    """Mohtashami and Jaggi, https://arxiv.org/abs/2305.16300, with the wordings of the published harnesses.

    Those count filler in characters, so that the length is approximate; here prompt and answer together are exactly
    `seq_len` tokens, and the needle follows the end of a sentence. Lines are tokenised one by one, so that a full stop
    is never merged with the line break after it; the text is the same. The generation budget is the number of tokens of
    the key, as in ChunkLlama; answers are compared as text.
    """

    family: ClassVar[str] = "passkey"
    metric: ClassVar[str] = "exact_match"

    protocols: dict[str, Any]
    protocol: str

    def __post_init__(self) -> None:
        if self.protocol not in self.protocols:
            raise unknown(f"protocol of {self.name}", self.protocol, self.protocols)

    @property
    def wording(self) -> Protocol:
        given = self.protocols[self.protocol]
        if not isinstance(given, dict):
            raise UserError(f"protocol {self.protocol} of {self.name} must be a mapping, not {brief(given)}.")
        values = convert_options(f"protocol {self.protocol} of {self.name}", Protocol, given)
        missing = {"source", "instruction", "filler", "needle", "question", "lowest", "highest"} - values.keys()
        if missing:
            raise UserError(f"protocol {self.protocol} of {self.name} lacks {', '.join(sorted(missing))}.")
        return Protocol(**values)

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        grid: list[float] | list[None] = depths or [None]
        return [Cell(seq_len, depth) for seq_len in seq_lens for depth in grid]

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        wording, haystack, rng = self.wording, _haystack(tokenizer, self.wording.filler), self.rng(cell, sample, seed)
        key = str(rng.randint(wording.lowest, wording.highest))
        head = self.format.start(tokenizer, wording.instruction + "\n")
        needle = encode_inside(tokenizer, "\n" + wording.needle.replace("{key}", key) + "\n")
        asked, answer = begun_answer(wording.glue + wording.question)
        tail = self.format.end(tokenizer, asked, answer)
        budget = len(encode_inside(tokenizer, " " + key))
        shortest = self._shortest(tokenizer)
        if cell.seq_len < shortest:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens, even with hardly any filler; "
                f"use --seq-len {shortest} or more."
            )
        filler = cell.seq_len - len(head) - len(needle) - len(tail) - budget
        places = haystack.places(filler)
        place = rng.randrange(places) if cell.depth is None else round(cell.depth * (places - 1))
        before, after = haystack.split(filler, place)
        return Example(
            head=head,
            context=before + needle + after,
            tail=tail,
            references=(key,),
            max_new_tokens=budget,
            seed=self.sample_seed(cell, sample, seed),
            depth=len(before) / filler,
            needle_at=len(head) + len(before),
            needle_tokens=len(needle),
            begun=self.format.count_begun(tokenizer, answer),
        )

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """At one length the filler begins with the same text, whatever the depth of the key."""
        return cell.seq_len

    def _shortest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The smallest length that fits every key, in tokens: at most one per digit and one before them, in each place
        that the key takes (needle and answer), and one token of filler."""
        wording = self.wording
        head = self.format.start(tokenizer, wording.instruction + "\n")
        tail = self.format.end(tokenizer, *begun_answer(wording.glue + wording.question))
        needle = encode_inside(tokenizer, "\n" + wording.needle.replace("{key}", "") + "\n")
        keys = 1 + wording.needle.count("{key}")
        return len(head) + len(needle) + len(tail) + keys * (len(str(wording.highest)) + 1) + 1

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"exact_match": float(prediction.strip() in example.references)}


@lru_cache(maxsize=8)
def _haystack(tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...]) -> Haystack:
    return Haystack.of(tokenizer, sentences)
