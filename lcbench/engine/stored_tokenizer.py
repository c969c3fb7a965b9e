"""Check that a tokenizer tokenizes as its tokenizer.json says, and so as its model was trained.

The tokenizer classes of transformers 5 that are named after a family (LlamaTokenizer, GPT2Tokenizer, Qwen2Tokenizer,
...) read vocabulary and merges from the file, but set up normalizer, pre-tokenizer and decoder themselves. A checkpoint
may name one of them and differ: SmolLM2 names GPT2Tokenizer and splits digits one by one, and a model of Qwen 2's
architecture gets Qwen's rule whatever its file says. Then nothing fails, and prompts have other tokens than in
training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("lcbench")
# Where pre-tokenizers and normalizers differ: digits, runs of white space, contractions, case, accents, scripts.
SAMPLE = (
    "The pass key is 48213.  Don't it's  WON'T\tHelloWorld x2Y\n\n    indented;\r\n(f(x)==3.14)... Café ﬁne e\u0301"
    " \uff12 日本語、です。 Привет مرحبا ไทย 👩‍👧 <b>1,000,000</b> https://a.b/c?d=e_f end "
)
MISTRAL = "aB12"  # which Mistral's own rule cuts into four


def as_stored(
    name: str, tokenizer: PreTrainedTokenizerBase, file: Path | None, load: Callable[[Any], PreTrainedTokenizerBase]
) -> PreTrainedTokenizerBase:
    """The tokenizer with the rules of its tokenizer.json, if its class uses others: `load` is then called with the
    class that follows the file. `name` is the model's, for warnings.

    Turned off are settings for training (BPE dropout), and those that would tokenize a chat template's control tokens
    as text.
    """
    if _rebuilt(tokenizer, file):
        from transformers import PreTrainedTokenizerFast

        logger.warning(
            "%s: its tokenizer.json splits text differently from transformers' %s; the file is followed.",
            name,
            type(tokenizer).__name__,
        )
        tokenizer = load(PreTrainedTokenizerFast)
    tokenizer.split_special_tokens = False
    if (backend := _backend(tokenizer)) is None:
        return tokenizer
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
    cutting = backend.pre_tokenizer
    if getattr(backend, "fix_mistral_regex", None) is False and len(cutting.pre_tokenize_str(MISTRAL)) < len(MISTRAL):
        logger.warning(
            '%s splits text by another rule than Mistral\'s own; set "fix_mistral_regex": true in its '
            "tokenizer_config.json to get the tokens that the model was trained on.",
            name,
        )
    return tokenizer


def _rebuilt(tokenizer: PreTrainedTokenizerBase, file: Path | None) -> bool:
    """Whether the tokenizer encodes or decodes differently from its file."""
    own = _backend(tokenizer)
    if file is None or own is None:
        return False
    stored = type(own).from_file(str(file))
    for one in (stored, own):
        one.no_truncation()
        one.no_padding()
    ids = _ids(stored)
    return ids is not None and (_ids(own) != ids or own.decode(ids) != stored.decode(ids))


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The `tokenizers` object behind it, None for a tokenizer in Python code."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def _ids(backend: Tokenizer) -> list[int] | None:
    """Tokens of the sample; None on failure, as for a model whose unknown token is not in its vocabulary."""
    try:
        ids: list[int] = backend.encode(SAMPLE, add_special_tokens=False).ids
    except Exception:  # the library raises nothing narrower
        return None
    return ids
