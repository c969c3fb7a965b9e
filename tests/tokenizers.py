"""Small tokenizers of the styles that real models have, trained here."""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Callable
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lcbench.engine.models import ModelSource
from lcbench.tasks import load_task

BOS, EOS, SPACE = "<s>", "</s>", "▁"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def _corpus() -> list[str]:
    """The words of the passkey protocols, so that tokens are words as in a real vocabulary, and numbers."""
    texts = [" ".join(map(str, range(0, 3000, 7)))]
    for protocol in load_task("passkey").protocols.values():  # type: ignore[attr-defined]
        texts += [protocol["instruction"], " ".join(protocol["filler"]), protocol["needle"], protocol["question"]]
    return ["\n".join(texts)] * 3


def _byte_level(*, adds_bos: bool = False, pattern: str | None = None) -> Tokenizer:
    """GPT-2 and Qwen (no BOS), Llama 3 (adds it, and has tokens such as `.\\n` by its pattern)."""
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if pattern is not None:
        parts.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_corpus(), _trainer(600, [BOS, EOS], pre_tokenizers.ByteLevel.alphabet()))
    if adds_bos:
        _add_bos(tokenizer)
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    """SentencePiece in today's form: spaces are part of words, and one comes before the text if `scheme` says so.

    Its tokens may hold a line break and the word behind it, which no well-known model has, and nothing forbids.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(_corpus(), _trainer(500, ["<unk>", BOS, EOS], list(string.printable)))
    _add_bos(tokenizer)
    return tokenizer


def _llama_2() -> Tokenizer:
    """SentencePiece as in Llama 2's tokenizer.json: a normalizer puts a space before every text, and what the
    vocabulary lacks, line breaks among it, is spelt in bytes."""
    trained = json.loads(_metaspace("always").to_str())["model"]
    tokens = [token for token in trained["vocab"] if "\n" not in token] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [tuple(pair) for pair in trained["merges"] if "\n" not in "".join(pair)]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", BOS, EOS])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _add_bos(tokenizer)
    return tokenizer


def _trainer(size: int, special: list[str], alphabet: list[str] | None = None) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet or [], show_progress=False
    )


def _add_bos(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )


_BUILDERS: dict[str, tuple[Callable[[], Tokenizer], bool]] = {
    "byte-level": (_byte_level, False),
    "byte-level-bos-not-added": (_byte_level, True),
    "byte-level-bos-added": (lambda: _byte_level(adds_bos=True), True),
    "llama-3": (lambda: _byte_level(adds_bos=True, pattern=LLAMA_3), True),
    "metaspace-first": (lambda: _metaspace("first"), True),
    "metaspace-always": (lambda: _metaspace("always"), True),
    "metaspace-never": (lambda: _metaspace("never"), True),
    "llama-2": (_llama_2, True),
}
STYLES = ["lcbench-tiny", *_BUILDERS]


@cache
def build(style: str) -> PreTrainedTokenizerBase:
    """A tokenizer as AutoTokenizer gives it; with a BOS token in all styles but `byte-level`."""
    if style == "lcbench-tiny":
        return ModelSource().tokenizer()
    tokenizer, has_bos = _BUILDERS[style]
    special = {"bos_token": BOS, "eos_token": EOS} if has_bos else {"eos_token": EOS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer(), clean_up_tokenization_spaces=False, **special)


def own_start(style: str) -> list[int]:
    """What the tokenizer of a style puts before a text: its BOS, or nothing."""
    return [] if style in ("byte-level", "byte-level-bos-not-added") else [build(style).bos_token_id]


def chatting(template: str = CHAT) -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer with a chat template."""
    tokenizer = copy.deepcopy(ModelSource().tokenizer())
    tokenizer.chat_template = template
    return tokenizer
