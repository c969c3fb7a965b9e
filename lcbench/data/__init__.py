"""Data of tasks: converted once from the published source into one local JSONL schema.

`lcbench data prepare` runs a script of `data_scripts/`; tasks call `load_rows` and `load_document`. The schema is
defined in `lcbench.data.schema` and described in `data_scripts/README.md`.
"""

from __future__ import annotations

from lcbench.data.schema import Document, Row
from lcbench.data.store import Books, data_root, is_prepared_data, load_document, load_rows

__all__ = ["Books", "Document", "Row", "data_root", "is_prepared_data", "load_document", "load_rows"]
