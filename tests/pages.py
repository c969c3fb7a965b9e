"""A page that the program wrote, taken apart."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """The tags of a page and its text; nothing may be loaded or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "style", "onclick", "onerror"} & dict(attrs).keys()

    def handle_data(self, data: str) -> None:
        self.text += data
