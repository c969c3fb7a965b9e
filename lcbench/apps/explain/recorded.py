"""A sample of a run, asked again: its prompt is built anew, and must be the one that was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, unknown
from lcbench.core.specs import convert_options
from lcbench.results.manifest import Manifest, RunIdentity
from lcbench.results.records import read_manifest, read_records
from lcbench.results.schema import Record
from lcbench.run.assemble import prompt_sha256
from lcbench.run.requests import Request
from lcbench.tasks import Cell, Task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOS_RULES = ("auto", "always", "never")  # a run keeps the tokens that a rule gives, and not the rule


@dataclass(frozen=True)
class Recorded:
    """A recorded sample, and the methods under which its run has it."""

    folder: Path
    manifest: Manifest
    record: Record
    methods: Sequence[str]

    @classmethod
    def read(cls, folder: Path, id: str | None) -> Recorded:
        """Raises: UserError for a folder without records, an unknown id, or a sample that was not answered as others
        are."""
        manifest, records = read_manifest(folder), {record.identity.id: record for record in read_records(folder)}
        if id is None:
            raise UserError(f"say which sample of {folder} to explain, as --sample {next(iter(records))}.")
        if id not in records:
            raise unknown(f"sample of {folder}", id, records)
        record, one = records[id], records[id].identity
        if record.prompt.think_budget:
            raise UserError(f"{id} was answered behind a thought, and explain looks at what follows the prompt.")
        same = one.task, one.seq_len, one.cell_depth, one.sample
        methods = [
            other.identity.method
            for other in records.values()
            if (other.identity.task, other.identity.seq_len, other.identity.cell_depth, other.identity.sample) == same
        ]
        return cls(folder, manifest, record, list(dict.fromkeys(methods)))

    @property
    def identity(self) -> RunIdentity:
        return self.manifest.identity

    @property
    def cell(self) -> Cell:
        return Cell(self.record.identity.seq_len, self.record.identity.cell_depth)

    @property
    def seed(self) -> int:
        return self.identity.seed or 0

    def model(self) -> dict[str, Any]:
        """What the run loaded: name, adapter, quantization and dtype. Raises: UserError for a served model."""
        made = self.identity
        if made.engine is not None or made.model is None:
            raise UserError(
                f"{self.folder} asked a server, which shows no attention; pass the same weights as --model."
            )
        name = made.model.removesuffix(f" ({made.quantization})").removesuffix(f" + {made.adapter}")
        return {
            "name": name,
            "adapter": made.adapter,
            "quantization": made.quantization,
            "dtype": made.dtype or "auto",
        }

    def request(self, tokenizer: PreTrainedTokenizerBase, methods: Sequence[str]) -> Request:
        """What to ask for the same prompt under some methods.

        Raises: UserError if its prompt can no longer be made.
        """
        one = self.record.identity
        facts = next((task.prompt_format for task in self.identity.tasks if task.name == one.task), None) or {}
        given: dict[str, Any] = {"chat": "on" if facts.get("chat") else "off"}
        given |= {name: facts[name] for name in ("system", "chat_options") if name in facts}
        for bos in BOS_RULES:
            format_ = tuple(convert_options("prompts", Task, given | {"bos": bos}).items())
            task = load_task(one.task).asked(**dict(format_))
            task.require_data()
            try:
                prompt = task.fitted(self.cell, one.sample, tokenizer, self.seed).prompt
            except UserError:  # no BOS where the rule wants one
                continue
            if prompt_sha256(prompt) == self.record.prompt.prompt_sha256:
                depths = None if one.cell_depth is None else (one.cell_depth,)
                return Request(
                    one.task,
                    tuple(methods),
                    (one.seq_len,),
                    depths,
                    samples=one.sample + 1,
                    format=format_,
                )
        raise UserError(
            f"the prompt of {one.id} cannot be made again: its data, its tokenizer or lcbench has changed since; run "
            "the task anew."
        )
