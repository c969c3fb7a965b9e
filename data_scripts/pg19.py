"""PG-19: books from Project Gutenberg, the validation and test splits that perplexity is measured on.

Rae et al., Compressive Transformers for Long-Range Sequence Modelling, arXiv:1911.05507. `deepmind/pg19` needs its
loading script; `emozilla/pg19` is the same in parquet. The sha256 of the two files are those that several projects have
published; the training split (11 GB) is not read: `lcbench train lm --text emozilla/pg19` takes it from the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    """A book, by its number at Project Gutenberg; no question."""
    found = re.search(r"(\d+)\D*$", row["url"])
    id = found[1] if found else str(number)
    meta = {"url": row["url"], "publication_date": row["publication_date"]}
    yield SourceRow(id, "", (), row["text"], row["short_book_title"], id, meta=meta)


DATA_SETS = [
    DataSet(
        name="pg19",
        description="books, for perplexity",
        hub=Hub(
            "emozilla/pg19",
            ("data/test-*.parquet", "data/validation-*.parquet"),
            "c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
            {
                "data/test-00000-of-00001-29a571947c0b5ccc.parquet": (
                    "9aae5ddf035760257458cff08d2575d78a15f84eff867af7a87eff0681b01bfc"
                ),
                "data/validation-00000-of-00001-0f92e2337f79aeac.parquet": (
                    "81680529564d4ead1c0e3859509a62d86c7126c32afc95dce6bd98e729e491ef"
                ),
            },
        ),
        licence=Licence("Apache-2.0", note="the books are in the public domain in the US"),
        formats=({"short_book_title": str, "publication_date": int, "url": str, "text": str},),
        examples=examples,
        splits=("validation", "test"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
