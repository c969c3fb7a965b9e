"""Text to tokens in every style of tokenizer: one BOS, no stray space, nothing lost between two parts of a prompt."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from lcbench.core.tokens import encode_inside, encode_start
from tests.tokenizers import STYLES, build

every_style = pytest.mark.parametrize("style", STYLES)
WORDS = st.lists(
    st.sampled_from(["The", "pass", "key", "is", "48213", "7.", "Remember", "it.", "x", "What"]), min_size=1, max_size=6
).map(" ".join)


@every_style
def test_start_has_one_bos_and_no_eos(style: str) -> None:
    tokenizer = build(style)
    ids = encode_start(tokenizer, "The grass is green.\n")
    if tokenizer.bos_token_id is None:
        assert style == "byte-level"
        assert ids == tokenizer("The grass is green.\n").input_ids
    else:
        assert ids[0] == tokenizer.bos_token_id
    specials = [token for token in ids if token in tokenizer.all_special_ids]
    assert specials == ids[: len(specials)] and len(specials) == (tokenizer.bos_token_id is not None)


def test_what_the_tokenizer_puts_in_front_is_kept() -> None:
    """GLM starts every text with two tokens, none of them called BOS."""
    tokenizer = copy.deepcopy(build("byte-level"))
    front = [tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=[("<s>", front[0]), ("</s>", front[1])]
    )
    assert encode_start(tokenizer, "The sky") == front + build("byte-level")("The sky").input_ids


@every_style
@given(start=WORDS, parts=st.lists(st.tuples(st.sampled_from([" ", "\n"]), WORDS), max_size=3))
def test_parts_join_to_the_text(style: str, start: str, parts: list[tuple[str, str]]) -> None:
    tokenizer = build(style)
    ids = encode_start(tokenizer, start)
    for separator, words in parts:
        ids = ids + encode_inside(tokenizer, separator + words)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    expected = start + "".join(separator + words for separator, words in parts)
    assert text.removeprefix(" ") == expected  # decoders of the SentencePiece family keep the space at the very start


@every_style
@pytest.mark.parametrize("text", [" 48213", "\nThe pass key is 48213.", "What is the pass key?", "\n", " The sky"])
def test_inside_is_the_text_itself(style: str, text: str) -> None:
    tokenizer = build(style)
    before = encode_start(tokenizer, "It is.")
    joined = tokenizer.decode(before + encode_inside(tokenizer, text), skip_special_tokens=True)
    assert joined.removeprefix(" ") == "It is." + text


@pytest.mark.parametrize("style", ["metaspace-first", "metaspace-always", "llama-2"])
def test_the_styles_are_what_they_stand_for(style: str) -> None:
    """These tokenizers put a space before any text, and a BOS: taken as they come, a prompt of parts would be full of
    both."""
    tokenizer = build(style)
    naive = tokenizer("It is.").input_ids + tokenizer("\nThe sky").input_ids
    assert naive.count(tokenizer.bos_token_id) == 2
    assert tokenizer.decode(naive, skip_special_tokens=True).removeprefix(" ") == "It is. \nThe sky"
