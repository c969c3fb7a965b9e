"""The report in a browser: what models wrote stays text, filters and sorting work, and it fits a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcbench.results.compare import compare
from lcbench.results.report.comparison_html import page as comparison_page
from lcbench.results.report.html.report import page
from tests.results.report.browser import CHROMIUM, Browser
from tests.results.report.pages import HOSTILE, book, failure, sample, scored, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome here")
WIDE, PHONE = (1200, 900), (390, 800)
ROWS = "[...document.querySelectorAll('.samples tbody tr:not(.detail)')]"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    chromium.messages.clear()
    chromium.screen(*WIDE)
    return chromium


def show(browser: Browser, folder: Path, *runs: Path) -> None:
    path = folder / "report.html"
    path.write_text(page(runs), encoding="utf-8")
    browser.open(path)


def column(browser: Browser, label: str) -> list[str]:
    """The texts of a column of the samples on the page."""
    script = f"{ROWS}.map(row => row.querySelector('td[data-label={label}]').textContent)"
    values: list[str] = browser.run(script)
    return values


def count(browser: Browser) -> str:
    said: str = browser.run("document.getElementById('count').textContent")
    return said


def test_what_a_model_wrote_stays_text(browser: Browser, tmp_path: Path) -> None:
    """Wherever a record's text goes: in tables, links, filters, details; also after a filter was clicked."""
    records = [
        sample(prediction=HOSTILE, references=[HOSTILE], excerpt=[HOSTILE, HOSTILE], document=HOSTILE),
        sample(seq_len=512, prediction=HOSTILE),
        failure(HOSTILE, seq_len=512, method="dca", number=1),
        scored(0.0, task=HOSTILE, method=f"yarn:factor={HOSTILE}", metric=HOSTILE, cell_depth=None),
    ]
    told = {"name": "needle", "description": HOSTILE, "citation": HOSTILE}
    run = write_run(tmp_path / "run", records, model=HOSTILE, tasks=[told])
    show(browser, tmp_path, run)
    title = browser.run("document.title")

    browser.click(".grid td a[data-tokens='512']")
    assert count(browser) == "1 of 4 samples"
    browser.click("form button[type=reset]")
    browser.run("new Promise(done => setTimeout(done, 50))")
    for number in range(4):
        browser.run(f"{ROWS}[{number}].querySelector('button').click()")
    assert column(browser, "Prediction")[0] == HOSTILE
    assert HOSTILE in browser.run("document.querySelector('.detail blockquote').textContent")
    assert "hacked" in title and browser.run("document.title") == title
    assert browser.run("window.hacked") is None
    assert (
        browser.run("document.querySelectorAll('img, svg[onload], script:not(:last-of-type):not(#data)').length") == 0
    )
    assert browser.messages == []


def test_the_policy_is_a_second_wall(browser: Browser, tmp_path: Path) -> None:
    """Were something inserted as HTML after all, its handlers, styles and requests come to nothing."""
    show(browser, tmp_path, write_run(tmp_path / "run", [sample()]))
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.hacked = 2\">')")
    browser.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("window.hacked") is None
    refused = "\n".join(browser.messages)
    assert "img-src" in refused and "script-src" in refused


def test_filters(browser: Browser, tmp_path: Path) -> None:
    records = [scored(score, seq_len=n, number=i) for n in (256, 1024) for i, score in enumerate((1.0, 0.5, 0.0))]
    records += [failure(seq_len=2048), sample("passkey", cell_depth=None, prediction="12345", excerpt=["A Pass Key"])]
    show(browser, tmp_path, write_run(tmp_path / "run", records))
    assert count(browser) == "8 of 8 samples"
    assert browser.run("[...document.querySelectorAll('.filters label[hidden]')].map(l => l.dataset.for)") == [
        "run",
        "method",
        "depth",
    ]
    for outcome, expected in (("right", 3), ("partly right", 2), ("wrong", 2), ("failed", 1)):
        browser.choose("[name=outcome]", outcome)
        assert count(browser) == f"{expected} of 8 samples"
    assert column(browser, "Prediction") == ["out of memory"] and column(browser, "Score") == ["failed"]
    browser.choose("[name=outcome]", "")
    browser.choose("[name=text]", "pass key")
    assert column(browser, "Task") == ["passkey"]
    browser.choose("[name=text]", "nowhere")
    assert count(browser) == "0 of 8 samples" and browser.run(f"{ROWS}.length") == 0
    browser.click(".grid td a[data-tokens='1024']")  # a score leads to its samples, whatever was chosen before
    assert column(browser, "Length") == ["1,024"] * 3
    browser.click(".heat td a[data-tokens='256']")
    assert column(browser, "Score") == ["1.00", "0.50", "0.00"]
    assert browser.run("location.hash") == "#samples"


def test_sorting(browser: Browser, tmp_path: Path) -> None:
    """By value, not as text; what is missing comes last both ways; equal ones stay in order."""
    records = [failure(seq_len=256), *(scored(score, seq_len=n) for n, score in ((1024, 0.5), (128, 1.0), (512, 0.0)))]
    show(browser, tmp_path, write_run(tmp_path / "run", records))

    def sorting(name: str) -> Any:
        return browser.run(f"document.querySelector('th[data-name={name}]').ariaSort")

    assert column(browser, "Length") == ["256", "1,024", "128", "512"] and sorting("tokens") == "none"
    browser.click("th[data-name=tokens] button")
    assert column(browser, "Length") == ["128", "256", "512", "1,024"] and sorting("tokens") == "ascending"
    browser.click("th[data-name=tokens] button")
    assert column(browser, "Length") == ["1,024", "512", "256", "128"] and sorting("tokens") == "descending"
    browser.choose("[name=sort]", "score up")
    assert column(browser, "Score") == ["0.00", "0.50", "1.00", "failed"] and sorting("tokens") == "none"
    browser.choose("[name=sort]", "score down")
    assert column(browser, "Score") == ["1.00", "0.50", "0.00", "failed"]


def test_thousands_of_samples(browser: Browser, tmp_path: Path) -> None:
    """Fifty at a time, at once."""
    records = [scored(i % 2, number=i, prediction=f"answer {i}", excerpt=[f"prompt {i} " * 60]) for i in range(5_020)]
    show(browser, tmp_path, write_run(tmp_path / "run", records))
    assert count(browser) == "5,020 of 5,020 samples, 1 to 50 shown" and browser.run(f"{ROWS}.length") == 50
    browser.click("#next")
    assert count(browser).endswith(", 51 to 100 shown") and column(browser, "Sample")[0] == "50"
    browser.choose("[name=outcome]", "wrong")
    assert count(browser) == "2,510 of 5,020 samples, 1 to 50 shown"  # from the first again
    browser.choose("[name=outcome]", "")
    started = time.perf_counter()
    browser.click("th[data-name=sample] button")
    browser.click("th[data-name=sample] button")
    assert column(browser, "Sample")[:2] == ["5019", "5018"]
    assert time.perf_counter() - started < 2
    browser.choose("[name=text]", "answer 501")
    assert count(browser) == "11 of 5,020 samples" and not browser.run("document.querySelector('.pages').offsetHeight")
    browser.choose("[name=text]", "")
    for _ in range(101):
        browser.run("document.getElementById('next').click()")
    assert count(browser).endswith(", 5,001 to 5,020 shown") and browser.run("document.getElementById('next').disabled")


def test_details(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, write_run(tmp_path / "run", [sample(prediction="first\nsecond"), book(1.5)]))
    button = ".samples tbody tr button"
    browser.click(button)
    assert browser.run("document.querySelector('.samples button[aria-expanded=true]').textContent") == "Less"
    shown = browser.run("document.querySelector('.detail').innerText")
    for part in ("The code is a red ring.", "first\nsecond", "recall 1", "250 in the prompt", "300 MiB at the peak"):
        assert part in shown
    browser.click(button)
    assert browser.run("document.querySelectorAll('.detail').length") == 0
    assert column(browser, "Score") == ["1.00", "nll 1.5"] and column(browser, "Document") == ["", "book 0"]


def test_several_runs(browser: Browser, tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [scored(1.0), scored(1.0, number=1)])
    two = write_run(tmp_path / "two", [scored(0.0)])
    show(browser, tmp_path, one, two)
    assert column(browser, "Run") == ["one", "one", "two"]
    browser.click(".grid td a[data-run='two']")
    assert column(browser, "Run") == ["two"] and column(browser, "Score") == ["0.00"]


@pytest.mark.parametrize("width", [1600, WIDE[0], 1000, 800, PHONE[0]])
def test_the_samples_of_several_tasks_fit(browser: Browser, tmp_path: Path, width: int) -> None:
    """Nothing is cut at the right, the button of each row stands where it can be seen, and details can be read."""
    words = "eat a white hammer near the warm stable"
    needles = [
        scored(1.0, seq_len=n, method=method, prediction=f"{words}. What is the", references=[words])
        for n in (256, 512)
        for method in ("vanilla", "dca:mscale=0.1")
    ]
    one = write_run(tmp_path / "needle", needles)
    two = write_run(tmp_path / "books", [book(2.0, n) for n in (256, 1024)])
    browser.screen(width, 900)
    show(browser, tmp_path, one, two)
    room = browser.run("document.documentElement.clientWidth")
    assert browser.run("document.documentElement.scrollWidth") <= room
    assert browser.run("document.querySelector('th[data-name=run]')") is None  # the task says it already
    browser.run(f"{ROWS}[0].querySelector('button').click()")
    for element in (".samples td > button", ".detail blockquote"):
        left, right = browser.run(
            f"(b => [b.left, b.right])(document.querySelector('{element}').getBoundingClientRect())"
        )
        assert 0 <= left < right <= room, element
    table = browser.run("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.samples').parentNode)")
    assert table[0] <= table[1] or PHONE[0] < width < WIDE[0]  # it scrolls by itself there


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_can_be_read(browser: Browser, tmp_path: Path, dark: bool) -> None:
    """Nothing sticks out sideways, and text stands out from its ground (WCAG's contrast ratio of 4.5)."""
    method = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"
    records = [
        scored(score / 10, seq_len=256 * 2**step, cell_depth=depth, method=each, prediction="x" * 300)
        for step in range(6)
        for depth, score in ((0.0, 2), (1.0, 8))
        for each in ("vanilla", method)
    ]
    records += [failure(seq_len=16384, method=method), *(book(2.0, n) for n in (256, 512))]
    run = write_run(tmp_path / "run", records)
    compared = tmp_path / "compared.html"
    compared.write_text(comparison_page(compare(run, run)), encoding="utf-8")
    browser.screen(*PHONE, dark=dark)
    show(browser, tmp_path, run)
    for path in (tmp_path / "report.html", compared):
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") <= PHONE[0]
        assert browser.run("document.querySelector('.samples, .cells').tHead.offsetHeight") == 0
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (luminance(ground) < 0.05) == dark
        for element in ("body", "a", "small", ".bad", ".not-comparable", "header p", ".curve text"):
            style = f"getComputedStyle(document.querySelector('{element}'))"
            if browser.run(f"document.querySelector('{element}') !== null"):
                color = browser.run(f"'{element}'.startsWith('.curve') ? {style}.fill : {style}.color")
                assert contrast(color, ground) >= 4.5, element
        for cell in range(browser.run("document.querySelectorAll('.heat td a').length")):
            style = f"getComputedStyle(document.querySelectorAll('.heat td a')[{cell}].parentNode)"
            assert contrast(browser.run(f"{style}.color"), browser.run(f"{style}.backgroundColor")) >= 4.5
    assert browser.messages == []  # no style or script of our own was refused


def luminance(color: str) -> float:
    """Relative luminance of `rgb(1, 2, 3)`."""
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
