"""The table of faults fits the code, and a fault counts as found only if a test fails of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutations import Mutation, mutations, try_one
from tests.helpers import REPOSITORY


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: f"{Path(mutation.file).name}: {mutation.fault}")
def test_every_fault_fits_the_code(mutation: Mutation) -> None:
    """Else mend `old` in mutations.yaml, where the code was rewritten."""
    content = mutation.applied((REPOSITORY / mutation.file).read_text(encoding="utf-8"))
    compile(content, mutation.file, "exec")
    assert all((REPOSITORY / path.partition("::")[0]).exists() for path in mutation.paths)


@pytest.mark.parametrize(
    ("tests", "verdict", "found"),
    [
        ("test_sum.py", "killed", "tests/test_sum.py::test_sum"),
        ("test_other.py", "survived", ""),
        ("test_missing.py", "broken", ""),
    ],
)
def test_what_tests_say_of_a_fault(tests: str, verdict: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "tests" / "test_sum.py").write_text(
        "from sums import add\n\ndef test_sum():\n    assert add(2, 3) == 5\n"
    )
    (tmp_path / "tests" / "test_other.py").write_text(
        "from sums import add\n\ndef test_zero():\n    assert add(0, 0) == 0\n"
    )
    mutation = Mutation("sums.py", "a + b", "a - b", "it subtracts", tests)
    said, finder = try_one(tmp_path, mutation, "")
    assert said == verdict and (not found or finder == found)
    assert "a + b" in (tmp_path / "sums.py").read_text()


def test_a_fault_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="has 2 times, not once: a"):
        Mutation("sums.py", "a", "b", "", "").applied("a + a")
