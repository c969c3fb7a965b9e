"""Chat templates: rendering a prompt completely and reproducibly.

A template comes with the model and is a program (Jinja, in the sandbox of `transformers`). Some drop the system
message, some expect content as a list of parts, some write today's date. Each of these cases is rendered correctly, or
refused with an error that names it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from lcbench.core.errors import UserError, brief
from lcbench.core.tokens import BosRule, prompt_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date in every prompt, Llama 3.1's default: with the current date, prompts would change every day.
TODAY = datetime.date(2024, 7, 26)
DATE_CALL = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])(.*?)\1\s*\)""")
SECONDS = 5.0  # time limit for rendering a chat
PART = "{'type': 'text'"  # in the output of a template that prints the list of parts itself
# What templates are known to escape, rewrite, wrap or cut: a document stands where it was not rendered.
TEXT = "x" + '<b>Bob\'s &amp; "A"\\\n\n\tTwo  spaces, {{ \u00c9\u4e2d }} %d | end.</b>\n' * 100 + "x"
ANSWER = "theanswerstandshere"  # placeholder of an answer, to see which token ends its turn


@dataclass(frozen=True)
class Message:
    """One message of a chat: role (system, user, assistant) and text."""

    role: str
    content: str


def render_chat(
    owner: str,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    system: str = "",
    *,
    earlier: Sequence[Message] = (),
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The chat prompt of a user message `text` after `earlier` turns, up to the generation prompt, rendered with the
    tokenizer's chat template and these `variables` of it.

    If the template has no system role, `system` goes in front of the first message; if it expects content as a list of
    parts, it gets one.

    Raises: UserError for several templates without a `default`, and for a template that fails, that leaves out a
    message, or whose date cannot be fixed.
    """
    said = [*earlier, Message("user", text)]
    return render_messages(
        owner, tokenizer, [Message("system", system), *said] if system else said, variables=variables
    )


def render_messages(
    owner: str,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    begun: bool = False,
    variables: Mapping[str, Any] | None = None,
    instead: str = "--chat off",
) -> str:
    """As `render_chat`, with all messages given. If `begun`, the last one is the answer prefix; `instead` names the
    alternative to a chat template, for errors."""
    template = chat_template(owner, tokenizer)
    ways = [messages]
    if messages[0].role == "system" and len(messages) > 1:
        system, first, *others = messages
        ways.append([Message(first.role, f"{system.content}\n\n{first.content}"), *others])
    refusal = ""
    for way in ways:
        for parts in (False, True):
            try:
                rendered = _render(tokenizer, template, way, parts=parts, begun=begun, variables=variables)
            except UserError as error:
                raise _refused(owner, f"refuses the prompt: {error}", instead) from error
            except Exception as error:  # a template is third-party code, and may raise anything
                refusal = refusal or f"refuses the prompt: {_gist(error)}"
                continue
            if not all(one.content.strip() in rendered for one in way) or (parts and PART in rendered):
                refusal = refusal or "leaves out a part of the prompt"
            elif _keeps(tokenizer, template, parts):
                return rendered
            else:
                refusal = refusal or "escapes, shortens or rewrites what it is given"
    raise _refused(owner, refusal, instead)


@lru_cache(maxsize=64)
def _keeps(tokenizer: PreTrainedTokenizerBase, template: str, parts: bool) -> bool:
    """Whether the template writes the text of a user's turn as it is: most of a long prompt never goes through it."""
    try:
        return TEXT in _render(tokenizer, template, [Message("user", TEXT)], parts=parts)
    except Exception:  # it wants other turns
        return True


def _refused(owner: str, refusal: str, instead: str) -> UserError:
    return UserError(f"{owner}: the tokenizer's chat template {refusal}; use another model, or {instead}.")


def chat_prefix(tokenizer: PreTrainedTokenizerBase, rendered: str, bos: BosRule = "auto") -> list[int]:
    """Token ids to put before a prompt by the BOS rule, if the rendered chat does not begin with them; else []."""
    prefix = prompt_prefix(tokenizer, bos)
    written = str(tokenizer.decode(prefix)) if prefix else ""
    return [] if rendered.lstrip().startswith(written.strip()) else prefix


def read_options(owner: str, tokenizer: PreTrainedTokenizerBase, options: Sequence[str]) -> dict[str, Any]:
    """Variables of the chat template from `name=value`, where a value is read as YAML: `enable_thinking=false`.

    Raises: UserError for another form, or a name that the template does not have.
    """
    known = chat_template(owner, tokenizer) if options else ""
    read: dict[str, Any] = {}
    for option in options:
        name, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not name.isidentifier():
            raise UserError(f"--chat-option {brief(option)} is not name=value, as in enable_thinking=false.")
        if not re.search(rf"\b{name}\b", known):
            raise UserError(f"{owner}: the tokenizer's chat template has no option {name!r}; leave --chat-option out.")
        try:
            read[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            read[name] = value
    return read


def around_answer(tokenizer: PreTrainedTokenizerBase, options: tuple[str, ...] = ()) -> tuple[str, str]:
    """The text that the chat template, with these options, writes before and after an answer; empty if it fails."""
    return _around_answer(tokenizer, str(tokenizer.chat_template), options)


@lru_cache(maxsize=64)
def _around_answer(tokenizer: PreTrainedTokenizerBase, template: str, options: tuple[str, ...]) -> tuple[str, str]:
    """`template` is part of the cache key only: a tokenizer's template may be replaced."""
    messages, variables = [Message("user", "a"), Message("assistant", ANSWER)], read_options("", tokenizer, options)
    for parts in (False, True):
        try:
            template = chat_template("", tokenizer)
            rendered = _render(tokenizer, template, messages, parts=parts, prompt=False, variables=variables)
        except UserError:
            break
        except Exception:
            continue
        if ANSWER in rendered:
            before, _, after = rendered.rpartition(ANSWER)
            return before, after
    return "", ""


def chat_template(owner: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the tokenizer's (default) chat template, its date replaced by `TODAY`.

    Raises: UserError for several templates without a `default`, or a date that cannot be replaced.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise UserError(
                f"{owner}: this tokenizer has several chat templates ({', '.join(sorted(template))}), and none is "
                "called `default`; name one so in its tokenizer_config.json."
            )
        template = template["default"]
    if template is None:
        raise UserError(f"{owner}: the tokenizer has no chat template; use --chat off.")
    if not isinstance(template, str):
        raise UserError(f"{owner}: the tokenizer's chat template is not text.")
    fixed = DATE_CALL.sub(lambda found: f'"{_written(TODAY.strftime(found[2]))}"', template)
    if "strftime_now" in fixed.replace("strftime_now is defined", ""):
        raise UserError(
            f"{owner}: the tokenizer's chat template writes the current date in a way that cannot be fixed, so the "
            "same run would change every day; write a fixed date into the template."
        )
    return fixed


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the current date."""
    return "strftime_now" in str(tokenizer.chat_template)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The id of the control token that the chat template writes after an answer, such as `<|im_end|>`; empty if none.

    `generation_config.json` of many checkpoints lists only another token, with which an answer would not end.
    """
    if not tokenizer.chat_template:
        return frozenset()
    behind = tokenizer(around_answer(tokenizer)[1].lstrip(), add_special_tokens=False).input_ids
    return frozenset(behind[:1]) & frozenset(tokenizer.added_tokens_decoder)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: Sequence[Message],
    *,
    parts: bool,
    prompt: bool = True,
    begun: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Raises: UserError for a template that violates its sandbox or does not end; any error that the template
    raises."""
    from jinja2.exceptions import SecurityError

    from lcbench.tasks.jinja import bounded_chat

    said: list[dict[str, Any]] = [
        {"role": one.role, "content": [{"type": "text", "text": one.content}] if parts else one.content}
        for one in messages
    ]
    try:
        with bounded_chat(SECONDS):
            return str(
                tokenizer.apply_chat_template(
                    said,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=prompt and not begun,
                    continue_final_message=begun,
                    **(variables or {}),
                )
            )
    except SecurityError as error:
        raise UserError(_gist(error)) from error


def _written(date: str) -> str:
    """A date escaped for a string literal in Jinja."""
    return date.replace("\\", "\\\\").replace('"', '\\"')


def _gist(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
