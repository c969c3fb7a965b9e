"""The tokenizer of the reference models: byte-level BPE trained on generated text, with one token a digit.

If `4` and ` 4` were different tokens, the first digit of every answer would be a token seen nowhere else, and a model
would learn to look for that rare token instead of matching the name in the question (it did: of four codes the
right one was given .21 of the time). So a space is cut off before a digit, and every digit stands alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lcbench.apps.train.facts import activity
from lcbench.tasks.text.books import CITIES, GRASS, NAMES, TOKENIZER_SEEDS, Book, pick

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1341
END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"

# The text before a passkey document, as in the passkey task (Mohtashami and Jaggi, 2023, arXiv:2305.16300).
INSTRUCTION = (
    " There is important information hidden inside a lot of irrelevant text. Find it and memorize it."
    " I will quiz you about it."
)
NUMBERS = " one two three four five six seven eight nine ten"
# A word with the space before it, one digit, a run of signs, or one white space.
PIECES = r" ?[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]+|\s"


def train_tokenizer(vocab_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same one at every call. It knows every byte, so that any text goes through it and back.

    `<|endoftext|>` (0) begins and ends a text, `<|pad|>` (1) fills up. It puts the one that begins a text before it, as
    the models read every text in training.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        add_bos_token=True,
    )


def _texts() -> Iterator[str]:
    """Books, facts of all kinds, and the words around them."""
    rng = random.Random(0)
    for seed in TOKENIZER_SEEDS:
        yield Book(seed).text(150)
    for _ in range(4000):
        yield (
            f" The best thing to do in {pick(rng, CITIES)} is {activity(rng)}."
            f" What is the best thing to do in {pick(rng, CITIES)}?"
            f" The pass key is {rng.randrange(10**5)}. Remember it. What is the pass key?"
            f" The code of {pick(rng, NAMES)} is {rng.randrange(10**4)}. What is the code of {pick(rng, NAMES)}?"
        ) + "".join(GRASS)
    yield (INSTRUCTION + NUMBERS) * 50
