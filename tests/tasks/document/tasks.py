"""A task on three rows about two documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lcbench.tasks import Task, load_task

STORY = " ".join(f"The code of Mara is {n}. The sky is blue." for n in range(1000, 1060))
ROWS: list[dict[str, Any]] = [
    {"story": STORY, "ask": "What is the code?", "gold": ["1000", "1001"], "number": 7},
    {"story": STORY, "ask": "What is blue?", "gold": "the sky", "number": 8},
    {"story": ("It was late. " * 5).strip(), "ask": "When?", "gold": "late", "number": 9},
]
YAML = """
family: document
data: rows.jsonl
columns: {document: story, question: ask, references: gold, id: number}
prompt: "{{ document }}\\n\\nQuestion: {{ question }} ({{ number }})\\nAnswer:"
scorer: f1
max_new_tokens: 8
"""


def task(more: str = "", of: str = YAML, name: str = "mine.yaml", options: str = "") -> Task:
    Path(name).write_text(of + more)
    return load_task(name + options)


def text_of(example: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True))
