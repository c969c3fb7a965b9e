"""A comparison of two runs as JUnit XML, which every CI can show: one test suite per task, one test case per cell."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from lcbench.core.errors import printable
from lcbench.results.compare.result import CellResult, Comparison
from lcbench.results.lengths import in_tokens
from lcbench.results.report.comparison import by_task, columns, values

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 does not allow


def junit(comparison: Comparison) -> str:
    """Regressed cells are failures, those that cannot be compared are skipped; the numbers go to `system-out`."""
    root = ElementTree.Element("testsuites", name="lcbench compare")
    for task, cells in by_task(comparison.cells):
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(task))
        for cell in cells:
            _add_case(suite, comparison, cell)
        _count(suite, cells)
    _count(root, comparison.cells)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, comparison: Comparison, cell: CellResult) -> None:
    name = _clean(f"{cell.method} at {in_tokens(cell.seq_len)} tokens")
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(f"lcbench.{cell.task}"), name=name)
    report = "\n".join([*map(": ".join, zip(columns(comparison), values(comparison, cell), strict=True)), *cell.gaps])
    if cell.verdict == "regressed":
        ElementTree.SubElement(case, "failure", message=_clean(cell.why), type="regressed").text = _clean(report)
    elif cell.verdict == "not comparable":
        ElementTree.SubElement(case, "skipped", message=_clean(f"not comparable: {cell.why}"))
    ElementTree.SubElement(case, "system-out").text = _clean(report)


def _count(element: ElementTree.Element, cells: list[CellResult]) -> None:
    verdicts = [cell.verdict for cell in cells]
    counts = {"tests": len(cells), "failures": verdicts.count("regressed"), "errors": 0}
    for key, count in (counts | {"skipped": verdicts.count("not comparable")}).items():
        element.set(key, str(count))


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text))
