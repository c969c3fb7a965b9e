"""MRCR: conversations in which one of several like messages is to be repeated, from `openai/mrcr`.

Vodrahalli et al. 2024, https://arxiv.org/abs/2409.12640; OpenAI 2025, https://huggingface.co/datasets/openai/mrcr.
The commit is that of 5 December 2025, which replaced defective rows. The conversation is the document, as JSON;
references are the right answer and the random string that it begins with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    names = ("n_needles", "desired_msg_index", "total_messages", "n_chars", "date_added")
    meta = {name: row[name] for name in names if name in row}
    messages = json.loads(row["prompt"])
    whole = (isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages)
    if not isinstance(messages, list) or not messages or not all(whole):
        raise ValueError("has in its field `prompt` no list of messages.")
    references = (row["answer"], row["random_string_to_prepend"])
    yield SourceRow(f"{row['n_needles']}-{number}", messages[-1]["content"], references, row["prompt"], meta=meta)


DATA_SETS = [
    DataSet(
        name="mrcr",
        description="one of 2, 4 or 8 like messages of a conversation, repeated",
        hub=Hub(
            "openai/mrcr",
            ("2needle/*.parquet", "4needle/*.parquet", "8needle/*.parquet"),
            "f4c69fae7cf81f7ca26b9fee34b392a50f6b8a1d",
            {
                "2needle/2needle_1.parquet": "a5a1dc9ccc945623253d04d33c03d89aee2d676c88955ce368da2ab16a0ce94d",
                "4needle/4needle_0.parquet": "4d4fa3d11ce064749de3cd039eef1a621e30a81c2c9b3e64f1df37f8afeaf312",
                "4needle/4needle_1.parquet": "8dfdb94a208cf3eee73c4e7ac6ee8a5ccb7236c6934c13c6c5f67c0a9928cdf3",
                "8needle/8needle_0.parquet": "65df601a2e0ae4a3cfb56920a6ef99f26c0de37c6b1018695e8aed684e6a94c1",
                "8needle/8needle_1.parquet": "c80b19573bff1d38e1c157d6a0bdf9cfd1a8ab6372296174c9a7015e164189e3",
            },
        ),
        licence=Licence("MIT"),
        formats=({"prompt": str, "answer": str, "random_string_to_prepend": str, "n_needles": int},),
        examples=examples,
        splits=("test",),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
