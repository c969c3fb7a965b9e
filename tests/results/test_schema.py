"""The types of records: what they read is what they write, and the documentation is made of them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lcbench.core.checks import FieldError
from lcbench.core.json_objects import parse
from lcbench.results.manifest import Manifest
from lcbench.results.schema import Record
from lcbench.results.schema_docs import page
from tests.helpers import REPOSITORY, lines_of
from tests.results.report.samples import failure, likelihood, record

COST = {"prefill_seconds": 1.0, "decode_seconds": 0.0, "peak_memory_bytes": 1}


def test_the_documentation_is_that_of_the_types() -> None:
    """If this fails: python -m lcbench.results.schema_docs > docs/records.md"""
    assert (REPOSITORY / "docs" / "records.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize(
    "fields",
    [
        failure("dca", 256, layers_steered=4, session=0),
        record(cost={**COST, "reused_tokens": 0, "decoded_together": 2}, layers_steered=4, session=0, note={"a": [1]}),
        record(details={"row": "x"}, excerpt=["a"], answer="x", scorer="f1", choices={"x": -1.0}, strange=None),
        likelihood() | {"cost": {**COST, "pass": "cached", "reused_tokens": 0, "reuse_difference": None, "new": 1}},
        record(scores_before_rescoring=[{"scores": {"exact_match": 1.0}, "metric": "exact_match"}]),
    ],
)
def test_what_is_read_is_written(fields: dict[str, Any]) -> None:
    """To the last field, also those that no type knows; but that records older than prefix reuse computed all."""
    read = Record.from_json(fields)
    written = json.loads(json.dumps(read.as_json()))
    if fields["error"] is None and "reused_tokens" not in fields["cost"]:
        assert written["cost"].pop("reused_tokens") == 0
    assert written == fields and Record.from_json(written) == read


def test_a_new_record_has_the_order_of_the_baseline_but_for_the_layers() -> None:
    (first, *_) = lines_of(REPOSITORY / "results" / "baselines" / "smoke")
    steered = first.pop("layers_steered")
    session = first.pop("session")
    written = Record.from_json({**first, "layers_steered": steered, "session": session}).as_json()
    assert list(written) == [*first, "layers_steered", "session"]


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Record.from_json(record()).error = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"seed": 2**63}, "field `seed` must be a whole number, not 9223372036854775808"),
        ({"seed": True}, "field `seed` must be a whole number, not true"),
        ({"depth": 1.5}, "field `depth` must be a number from 0 to 1 or null, not 1.5"),
        ({"depth": float("nan")}, "field `depth` must be a number from 0 to 1 or null, not nan"),
        ({"references": "x"}, "field `references` must be a list of texts, not 'x'"),
        ({"method_options": []}, "field `method_options` must be an object, not a list"),
        ({"error": ""}, "field `error` must be null, or a text with the reason of the failure"),
        ({"cost": {**COST, "prefill_seconds": 10**400}}, "must be a number of seconds, not 1000"),
        ({"cost": {**COST, "prefill_seconds": -1}}, "must be a number of seconds, not -1"),
        ({"scores": {"exact_match": None}}, "field `scores` must be an object of numbers"),
        ({"choices": {"a": "b"}}, "field `choices.a` must be a number, not 'b'"),
        ({"task": "x" * 100}, None),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], wrong: str | None) -> None:
    if wrong is None:
        Record.from_json(record(**fields))
        return
    with pytest.raises(FieldError) as caught:
        Record.from_json(record(**fields))
    assert wrong in str(caught.value)


@pytest.mark.parametrize("version", ["1", None, [1], 1.0])
def test_a_manifest_without_a_version_is_none(version: Any) -> None:
    with pytest.raises(FieldError, match="field `format` must be a whole number"):
        Manifest.from_json({"format": version, "identity": {}, "sessions": []})


def test_json_that_is_none() -> None:
    with pytest.raises(FieldError, match="nested too deeply"):
        parse(b'{"a": ' + b"[" * 300 + b"]" * 300 + b', "b": [' + b"[]," * 300 + b"1]}")
    assert parse(b'{"a": [' + b"[]," * 300 + b"1]}")["a"][0] == []
    assert parse(rb'{"\ud83d\ude00": "\ud800x"}') == {"\U0001f600": "\ufffdx"}
