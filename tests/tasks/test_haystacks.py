"""Filler of an exact number of tokens: whole sentences, in their order, and a needle only ever between two."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lcbench.core.tokens import encode_inside, encode_start
from lcbench.tasks.text.repeated_filler import Haystack
from lcbench.tasks.text.running_text import split_sentences
from tests.tokenizers import STYLES, build

SENTENCES = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
LISTS = {"passkey": SENTENCES, "one": SENTENCES[:1], "unequal": ("Go.", " ".join(SENTENCES), "It is 7.")}


@cache
def haystack_of(style: str, name: str) -> Haystack:
    return Haystack.of(build(style), LISTS[name])


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], start: str) -> str:
    """What tokens say behind some start of a prompt, which is cut off again."""
    text = tokenizer.decode(encode_start(tokenizer, start) + ids, skip_special_tokens=True).removeprefix(" ")
    assert text.startswith(start)
    return text[len(start) :]


def ending(name: str, count: int) -> str:
    """The last `count` sentences of an endless repetition."""
    sentences = LISTS[name]
    return " ".join(sentences[(number - count) % len(sentences)] for number in range(count))


@given(style=st.sampled_from(STYLES), name=st.sampled_from(list(LISTS)), n=st.integers(1, 400), data=st.data())
def test_split_is_exact_and_at_a_sentence(style: str, name: str, n: int, data: st.DataObject) -> None:
    tokenizer, haystack = build(style), haystack_of(style, name)
    places = haystack.places(n)
    place = data.draw(st.integers(0, places - 1))
    before, after = haystack.split(n, place)
    assert len(before) + len(after) == n
    behind = places - 1 - place
    assert text_of(tokenizer, after, "x\n") == ending(name, behind)
    before_text = text_of(tokenizer, before, "x\n").removeprefix(" ")
    assert ending(name, behind + n).endswith(f"{before_text} {ending(name, behind)}".strip())


@given(style=st.sampled_from(STYLES), name=st.sampled_from(list(LISTS)), n=st.integers(1, 400))
def test_places_are_all_there_are(style: str, name: str, n: int) -> None:
    haystack = haystack_of(style, name)
    lengths = [len(haystack.split(n, place)[0]) for place in range(haystack.places(n))]
    assert lengths == sorted(set(lengths))  # each place is another one
    assert lengths[-1] == n  # the last one is behind everything
    assert lengths[0] <= max(map(len, haystack.spaced))  # the first one has at most one sentence before it
    assert min(lengths) >= 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", LISTS)
def test_first_place_at_every_length(style: str, name: str) -> None:
    """Where the sentence behind the needle, now at the start of a line, just fits or just does not."""
    haystack = haystack_of(style, name)
    for n in range(1, 160):
        before, after = haystack.split(n, 0)
        assert len(before) + len(after) == n


@pytest.mark.parametrize("style", STYLES)
def test_a_sentence_more_is_a_place_more(style: str) -> None:
    tokenizer, haystack = build(style), haystack_of(style, "passkey")
    bare = encode_inside(tokenizer, "\n" + SENTENCES[-1])
    n = len(bare) + sum(len(encode_inside(tokenizer, " " + sentence)) for sentence in SENTENCES[:-1]) * 7
    assert haystack.places(n + 200) > haystack.places(n) > haystack.places(n // 2)


def test_filler_before_and_after_is_one_text() -> None:
    """Without a needle, the two parts are the filler of n tokens, up to the line break between them."""
    tokenizer, haystack = build("byte-level"), haystack_of("byte-level", "passkey")
    whole = text_of(tokenizer, haystack.split(300, haystack.places(300) - 1)[0], "x")
    for place in range(haystack.places(300)):
        before, after = (text_of(tokenizer, part, "x\n") for part in haystack.split(300, place))
        joined = f"{before} {after}".strip()
        assert whole.endswith(joined[10:])


def test_cut_sentences_come_only_at_the_start() -> None:
    tokenizer, haystack = build("byte-level"), haystack_of("byte-level", "passkey")
    for n in range(1, 60):
        before, _ = haystack.split(n, haystack.places(n) - 1)
        assert tokenizer.decode(before).endswith("again."[-len(tokenizer.decode(before)) :])


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One here. Two! Three? four", [" One here.", " Two!"]),
        ("Mr. A. B. went. 'Yes!' he said. (No.) End.", [" Mr. A. B. went.", " 'Yes!' he said.", " (No.)", " End."]),
        (
            "北京是首都。天气很好！“走吧。”好吗？（好。）再见。",
            ["北京是首都。", "天气很好！", "“走吧。”", "好吗？", "（好。）", "再见。"],
        ),
        ("東京です。 明日は「晴れ。」と言った。", ["東京です。", " 明日は「晴れ。」", "と言った。"]),
        ("यह एक है। दूसरा।", [" यह एक है।", " दूसरा।"]),
        ("كم؟ نعم.", [" كم؟", " نعم."]),
        ("A heading\n\nand a  line.\r\nMore", [" A heading and a line."]),
    ],
)
def test_sentences_of_many_scripts(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
