"""Chat models by family: small tokenizers trained here, with templates of our own in the form that each family has."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.tokenizers import build

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (  # Qwen 2.5 and SmolLM2 say who they are where nobody else says anything
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helper.<|im_end|>\n{% endif %}" + CHATML
)
NO_THOUGHT = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
HYBRID = CHATML.replace("assistant\n{% endif %}", f"assistant\n{NO_THOUGHT}{{% endif %}}")
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set said = messages[1:] %}"
    "{% set begin = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}"
    "{% else %}{% set said = messages %}{% set begin = '' %}{% endif %}"
    "{% for m in said %}{% if m.role == 'user' %}"
    "{{ bos_token }}[INST] {{ (begin if loop.first else '') ~ (m.content | trim) }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
MISTRAL_1 = ALTERNATES + (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %} [INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3 = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}{% set said = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set said = messages %}{% endif %}"
    "{{ bos_token }}{% for m in said %}{% if m.role == 'user' %}[INST] {{ first if loop.last else '' }}{{ m.content }}"
    "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + ALTERNATES
    + "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_3 = (  # the system message goes into the first turn; content may be parts
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}"
    "{% set said = messages[1:] %}{% else %}{% set first = '' %}{% set said = messages %}{% endif %}"
    "{% for m in said %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
GLM_4 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DEEPSEEK_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}{% else %}{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, the style of tokenizer and its control tokens; `start` is what a chat begins with up to the text of
    the user, `behind` what stands between the text and the beginning of the answer, both without a system message.
    `plain`: tokens that the tokenizer puts before a plain text; `turns_with_bos`: every turn of the user has one."""

    template: str
    style: str
    tokens: tuple[str, ...]
    start: str
    behind: str
    bos: str | None = None
    eos: str = "</s>"
    plain: tuple[str, ...] = ()
    turns_with_bos: bool = False


IM = ("<|im_start|>", "<|im_end|>")
THINK = (*IM, "<think>", "</think>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
HELPER = "<|im_start|>system\nYou are a helper.<|im_end|>\n<|im_start|>user\n"
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
BEGIN = "<|begin_of_text|>"
FAMILIES = {
    "llama-2": Family(LLAMA_2, "llama-2", (), "<s>[INST] ", " [/INST] ", "<s>", plain=("<s>",), turns_with_bos=True),
    "llama-3": Family(
        LLAMA_3,
        "llama-3",
        HEADERS,
        "<s><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s>",
        plain=("<s>",),
    ),
    "mistral-0.1": Family(MISTRAL_1, "llama-2", (), "<s> [INST] ", " [/INST] ", "<s>", plain=("<s>",)),
    "mistral-0.3": Family(
        MISTRAL_3, "metaspace-first", ("[INST]", "[/INST]"), "<s>[INST] ", "[/INST] ", "<s>", plain=("<s>",)
    ),
    "qwen-2.5": Family(DEFAULT_SYSTEM, "byte-level", IM, HELPER, ASSISTANT),
    "qwen-3": Family(HYBRID, "byte-level", THINK, "<|im_start|>user\n", ASSISTANT),
    "gemma-2": Family(
        GEMMA_2,
        "metaspace-never",
        TURNS,
        "<s><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<s>",
        plain=("<s>",),
    ),
    "gemma-3": Family(
        GEMMA_3,
        "metaspace-never",
        TURNS,
        "<s><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<s>",
        plain=("<s>",),
    ),
    "phi-3": Family(
        PHI_3,
        "llama-2",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<s><|user|>\n",
        "<|end|>\n<|assistant|>\n",
        "<s>",
        plain=("<s>",),
    ),
    "phi-4": Family(
        PHI_4,
        "byte-level",
        (*IM, "<|im_sep|>"),
        "<|im_start|>user<|im_sep|>",
        "<|im_end|><|im_start|>assistant<|im_sep|>",
        "</s>",
    ),
    "smollm-2": Family(DEFAULT_SYSTEM, "byte-level", IM, HELPER, ASSISTANT, "<|im_start|>", "<|im_end|>"),
    "smollm-3": Family(HYBRID, "byte-level", THINK, "<|im_start|>user\n", ASSISTANT, None, "<|im_end|>"),
    "glm-4": Family(
        GLM_4,
        "byte-level",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"),
        "[gMASK]<sop><|user|>\n",
        "<|assistant|>\n",
        plain=("[gMASK]", "<sop>"),
    ),
    "deepseek-v2": Family(
        DEEPSEEK_2, "byte-level-bos-added", (), "<s>User: ", "\n\nAssistant: ", "<s>", plain=("<s>",)
    ),
    "deepseek-r1": Family(
        DEEPSEEK_R1,
        "byte-level-bos-added",
        ("<|User|>", "<|Assistant|>", "<think>", "</think>"),
        "<s><|User|>",
        "<|Assistant|><think>\n",
        "<s>",
        plain=("<s>",),
    ),
}


@cache
def talking(name: str) -> Any:
    """The tokenizer of a family."""
    from tokenizers import processors

    family = FAMILIES[name]
    tokenizer = copy.deepcopy(build(family.style))
    tokenizer.add_special_tokens({"additional_special_tokens": [one for one in family.tokens if "think" not in one]})
    tokenizer.add_tokens([one for one in family.tokens if "think" in one])  # added, and not special, as in Qwen 3
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = family.bos, family.eos, family.template
    if name == "glm-4":
        front = [(one, tokenizer.convert_tokens_to_ids(one)) for one in family.plain]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[gMASK] <sop> $A", special_tokens=front
        )
    return tokenizer
