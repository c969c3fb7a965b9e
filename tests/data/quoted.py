"""Small rows in the schemas of the benchmarks that model cards quote, made up here."""

from __future__ import annotations

import json
from typing import Any

GRAPH = {
    "prompt": "The graph has the following edges:\nab -> cd\n\nOperation:\nFind the parents of node cd.\n",
    "answer_nodes": ["ab"],
    "prompt_chars": 80,
    "problem_type": "parents",
    "date_added": "02-27-2026",
}
ASK = "Prepend aB3dE6gH9j to the 2nd (1 indexed) poem about rain. Do not include any other text in your response."
CONVERSATION = [
    {
        "role": "user",
        "content": "Here are some examples of conversations:\n\n======EXAMPLE======\n======END EXAMPLE======\n",
    },
    {"role": "user", "content": "write a poem about rain"},
    {"role": "assistant", "content": "Rain is a thread."},
    {"role": "user", "content": "write a poem about rain"},
    {"role": "assistant", "content": "A grey drum, softly."},
    {"role": "user", "content": ASK},
]
MRCR = {
    "prompt": json.dumps(CONVERSATION),
    "answer": "aB3dE6gH9jA grey drum, softly.",
    "random_string_to_prepend": "aB3dE6gH9j",
    "n_needles": 2,
    "desired_msg_index": 3,
    "total_messages": 6,
    "n_chars": 300,
    "date_added": "12-05-2025",
}
LONGBENCH_V2 = {
    "_id": "e1",
    "domain": "Single-Document QA",
    "sub_domain": "Academic",
    "difficulty": "hard",
    "length": "short",
    "question": " Which gate? ",
    "choice_A": "North",
    "choice_B": "South ",
    "choice_C": "East",
    "choice_D": "West",
    "answer": "B",
    "context": "\nThe south gate was open.\n",
}
BABILONG = {
    "input": "It rained. Mary went to the office. A dog barked.",
    "question": "Where is Mary? ",
    "target": "office",
}


def infinite(**changes: Any) -> dict[str, Any]:
    """A row of InfiniteBench."""
    return {"id": 0, "context": "A tale.", "input": "Who?", "answer": ["Anna"], "options": []} | changes


JSON_KV = {
    "context": 'JSON data:\n{"a": "1", "b": "2"}',
    "question": "b",
    "answer": "2",
    "num_kvs": 2,
    "depth": 0.5,
    "demos": [["a", "1"], ["c", "3"], ["d", "4"]],
}
PASSAGES = [
    {"id": "4", "title": "Mill", "text": "The mill stands in Dale.", "label": 3},
    {"id": "9", "title": "Barn", "text": "The barn is red.", "label": 0},
]
RAG = {
    "id": "q1",
    "question": "Where is the mill?",
    "answers": ["Dale", "Dale village"],
    "depth": 0.0,
    "ctxs": PASSAGES,
}
RERANK = {"qid": "10", "query": "mill location", "ctxs": PASSAGES}
AA_LCR = {
    "document_category": "Legal",
    "document_set_id": "set_1",
    "question_id": "7",
    "question": "How many?",
    "answer": "3",
    "data_source_filenames": "caf\u00e9.txt;b.txt",
    "input_tokens": "40",
}
