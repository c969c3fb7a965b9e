"""One sample of a task under several methods.

lcbench explain passkey --seq-len 1k --method vanilla,yarn,self_extend
lcbench explain results/RUN --sample passkey/vanilla/1024/uniform/3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lcbench import __version__
from lcbench.apps.explain.look import look
from lcbench.apps.explain.question import question
from lcbench.apps.explain.result import Explanation
from lcbench.engine.models import ModelSource
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example

Progress = Callable[[str], None]


def explain(
    source: ModelSource, plan: Plan, jobs: Sequence[Job], sample: int, example: Example, tell: Progress
) -> Explanation:
    """`jobs` are those of one cell, one a method; `example` is the sample of that number in it.

    Raises: UserError for a task without a needle, and for a method that cannot be explained.
    """
    task, cell, tokenizer = jobs[0].task, jobs[0].cell, plan.tokenizer
    asked = question(task, example, tokenizer)
    host = source.open_host(tokenizer, plan.facts, plan.attention)
    looks = []
    for job in jobs:
        tell(f"{job.method}: {len(asked.prompt):,} tokens")
        looks.append(look(host, job, example, asked))

    def text(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens)))

    depth = "" if example.depth is None else f", at depth {example.depth:.3f}"
    return Explanation(
        title=f"{task.name} at {cell.seq_len:,} tokens, sample {sample}",
        model=source.label,
        trained=plan.facts.trained,
        tokens=len(asked.prompt),
        needle=asked.needle,
        needle_text=text(asked.prompt[asked.needle.start : asked.needle.stop]),
        reference=asked.reference,
        right=text([asked.right]),
        begun=text(asked.prompt[asked.asked :]),
        last_window=asked.last_window,
        metric=task.metric,
        facts=[
            ("model", f"{source.label}, {str(host.model.dtype).removeprefix('torch.')}"),
            ("trained at", f"{plan.facts.trained:,} tokens" if plan.facts.trained else "unknown"),
            ("prompt", f"{len(asked.prompt):,} tokens, seed {example.seed}"),
            ("needle", f"tokens {asked.needle.start:,} to {asked.needle.stop - 1:,}{depth}"),
            ("made with", f"lcbench {__version__}"),
        ],
        looks=looks,
        notes=plan.advice,
    )
