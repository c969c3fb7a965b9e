"""Text to tokens in every style of tokenizer: one BOS, no stray space, nothing lost between two parts of a prompt."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, processors

from lcbench.core.errors import UserError
from lcbench.core.tokens import BosRule, as_text, encode_inside, encode_plain, encode_start, spelled_out
from tests.tokenizers import STYLES, build, own_start

every_style = pytest.mark.parametrize("style", STYLES)
WORDS = st.lists(
    st.sampled_from(["The", "pass", "key", "is", "48213", "7.", "Remember", "it.", "x", "What"]), min_size=1, max_size=6
).map(" ".join)


@every_style
def test_what_stands_before_a_text(style: str) -> None:
    tokenizer = build(style)
    for rule, start in starts(style).items():
        ids = encode_start(tokenizer, "The grass is green.\n", rule)
        specials = [token for token in ids if token in tokenizer.all_special_ids]
        assert specials == ids[: len(specials)] == start
    assert encode_start(tokenizer, "The grass is green.\n") == tokenizer("The grass is green.\n").input_ids


def test_a_bos_that_there_is_not() -> None:
    with pytest.raises(UserError, match="no BOS token; leave --bos always out"):
        encode_start(build("byte-level"), "The sky", "always")


def starts(style: str) -> dict[BosRule, list[int]]:
    """What stands before a text by the rule for it."""
    tokenizer, own = build(style), own_start(style)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rules: dict[BosRule, list[int]] = {"auto": own, "never": [], "text": own or bos or [tokenizer.eos_token_id]}
    return rules | ({"always": own or bos} if bos else {})


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


@every_style
@pytest.mark.parametrize("around", [("", ""), ("It is. ", " The sky"), ("x", "y"), ("\n", "\n")])
def test_a_control_token_that_data_spell_out_is_text(style: str, around: tuple[str, str]) -> None:
    tokenizer = build(style)
    for token in tokenizer.all_special_tokens:
        text = token.join(around)
        marked = as_text(tokenizer, text)
        assert marked != text and spelled_out(tokenizer, marked) == text
        ids = encode_inside(tokenizer, marked)
        assert tokenizer.convert_tokens_to_ids(token) not in ids
        assert encode_start(tokenizer, marked).count(tokenizer.bos_token_id) == len(own_start(style))
        if style != "llama-2":  # its vocabulary spells `<` in bytes; decoded with the rest it is the same text
            assert tokenizer.decode(encode_start(tokenizer, "It is.") + ids).endswith(text.rstrip(" "))
        assert tokenizer.convert_tokens_to_ids(token) in encode_plain(tokenizer, text), "a template may write it"


def test_texts_without_control_tokens_are_as_they_were() -> None:
    tokenizer = build("llama-3")
    fields = {"question": "What < is > this?", "shots": [{"answer": "7"}], "n": 7, "none": None, "names": ("a", "b")}
    assert as_text(tokenizer, fields) == fields
    assert as_text(tokenizer, {"a": ["x <s> y"]})["a"] == [as_text(tokenizer, "x <s> y")]


def test_added_tokens_that_the_chat_template_writes_are_control_tokens() -> None:
    """Those of thinking models are added, and not special."""
    tokenizer = copy.deepcopy(build("llama-3"))
    tokenizer.add_tokens(["<think>", "<b>"])
    tokenizer.chat_template = "{{ messages[0].content }}<think>"
    thinks, bold = (tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "<b>"))
    ids = encode_inside(tokenizer, as_text(tokenizer, "He said <think> in <b>bold</b>."))
    assert thinks not in ids and bold in ids
    assert tokenizer.decode(ids) == "He said <think> in <b>bold</b>."


def test_data_are_no_control_tokens_where_a_normalizer_makes_them_so() -> None:
    """A normalized added token is looked for in the normalized text: in lower case, without full width forms."""
    tokenizer = copy.deepcopy(build("byte-level"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<turn>", normalized=True, special=True)]})
    control = tokenizer.convert_tokens_to_ids("<turn>")
    said = "It says <TURN>, \uff1cturn\uff1e and <turn>; then goes on."
    assert tokenizer(said).input_ids.count(control) == 3
    ids = encode_plain(tokenizer, as_text(tokenizer, said))
    assert control not in ids and tokenizer.decode(ids).count("<turn>") == 3
    assert encode_plain(tokenizer, "<turn>" + as_text(tokenizer, said)).count(control) == 1
