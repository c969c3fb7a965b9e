"""What a GGUF file says of its tokenizer, and transformers leaves out: added, or warned of. Without it prompts have
other tokens than the model learned, and nothing fails."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import brief
from lcbench.core.tokens import tokenizer_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.engine.gguf_files import GgufFile

logger = logging.getLogger("lcbench")
SPACE = "\u2581"  # of SentencePiece
TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens that are found whole in a text, as llama.cpp numbers them
# llama.cpp's names of the vocabularies whose digits are split one by one before GPT-2's rule.
DIGITS_SPLIT = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
# Those of GPT-2's rule, and of Llama 3's and Qwen 2's, where transformers does not know the name; 5.17 knows none.
GPT2_SPLIT = (
    "a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "mellum", "mpt", "olmo", "phi-2", "trillion",
)  # fmt: skip
LLAMA3_SPLIT = (
    "dbrx", "falcon-h1", "falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral", "smaug-bpe",
)  # fmt: skip
QWEN2_SPLIT = ("deepseek-r1-qwen", "grok-2", "hunyuan", "kormo", "megrez", "qwen2", "solar-open", "stablelm2")
# How both split words, as their tokenizer.json says; Llama 3 takes up to three digits together, Qwen 2 one.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = dict.fromkeys(LLAMA3_SPLIT, r"\p{N}{1,3}") | dict.fromkeys(QWEN2_SPLIT, r"\p{N}")
UNSAID = ("", "default")
# Those whose words are tokens without any merges, and whose texts begin with BOS where the file does not say.
WHOLE_WORDS = (
    "falcon-h1", "falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral", "tekken",
)  # fmt: skip
# Phi-3's tokens that leave the white space behind them in the text; all others of its added ones take it away.
LEAVES_SPACE = ("<unk>", "<s>", "<|endoftext|>")


def complete_tokenizer(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> None:
    """Find tokens whole that llama.cpp does; put a BOS before texts where it does, and a space where the file says so;
    split words and digits as the vocabulary was learned; warn of a rule that is not known."""
    _mark(file, tokenizer)
    kind = str(file.metadata.get("tokenizer.ggml.pre", ""))
    whole = kind in WHOLE_WORDS
    starts_with_bos = file.metadata.get("tokenizer.ggml.add_bos_token", whole or None)
    if starts_with_bos is not None and bool(starts_with_bos) != bool(tokenizer_prefix(tokenizer)):
        tokenizer.add_bos_token = bool(starts_with_bos)
    if whole:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    padding = file.metadata.get("tokenizer.ggml.padding_token_id")
    if tokenizer.pad_token_id is None and padding is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(padding))
    _space(file, tokenizer)
    _split(file, tokenizer, kind)


def _space(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import decoders
    from tokenizers.pre_tokenizers import Metaspace

    backend = tokenizer.backend_tokenizer
    spaced = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    if isinstance(backend.pre_tokenizer, Metaspace) and not spaced:
        backend.pre_tokenizer = Metaspace(prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])


def _split(file: GgufFile, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.pre_tokenizer, ByteLevel) or kind in GPT2_SPLIT:
        return
    if kind in DIGITS_SPLIT:
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    elif kind in DIGITS:
        words = Split(Regex(WORDS % DIGITS[kind]), behavior="isolated")
        backend.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        unknown = f"splits text by the rule {brief(kind)}, which transformers does not know"
        logger.warning(
            "%s %s: GPT-2's is used, and tokens may differ from the model's own",
            file.name,
            "does not say how it splits text" if kind in UNSAID else unknown,
        )


def _mark(file: GgufFile, tokenizer: Any) -> None:
    """Find tokens whole that llama.cpp finds whole: control tokens and those that users defined.

    transformers spells a token of a byte-level vocabulary in bytes where it has characters that do not stand for bytes,
    such as the bars of DeepSeek's `<\uff5cUser\uff5c>`. It is then cut into pieces, and a BOS of that kind gets a
    number beyond the embedding.
    """
    from tokenizers import Tokenizer

    kinds, model = file.entries(TYPES), file.metadata.get("tokenizer.ggml.model")
    known = tokenizer.added_tokens_decoder if model == "gpt2" else range(len(kinds))
    marked = [number for number, kind in enumerate(kinds) if kind in (CONTROL, USER_DEFINED) and number not in known]
    cut = {text: number for number, text in zip(marked, file.entries(TOKENS, marked), strict=True) if text}
    strips = file.architecture == "phi3" and model == "llama"
    if not cut and not strips:
        return
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    numbers = set(cut.values())
    vocabulary = {text: number for text, number in content["model"]["vocab"].items() if number not in numbers} | cut
    # Those that were spelled as another one is, of which one number was left.
    lost = sorted(set(range(len(kinds))) - set(vocabulary.values()))
    for number, text in zip(lost, file.entries(TOKENS, lost), strict=True):
        vocabulary.setdefault(text, number)
    content["model"]["vocab"] = vocabulary
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [token for token in content["added_tokens"] if token["content"] not in cut]
    added += [{"id": n, "content": text, **plain, "special": kinds[n] == CONTROL} for text, n in cut.items()]
    for token in added:
        token["rstrip"] |= strips and token["content"] not in LEAVES_SPACE
    content["added_tokens"] = sorted(added, key=lambda token: int(token["id"]))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.update_post_processor()  # which names BOS by its number
