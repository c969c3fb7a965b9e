"""The frame of every page: head, styles, and protection against what models wrote.

A page is one file that uses no network. All text is escaped by `text`, data for scripts by `data_block`. Should
something slip through, the page's Content-Security-Policy only allows the styles and scripts of lcbench, identified by
their hashes, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from lcbench.core.errors import printable


def document(title: str, body: str, style: str = "", script: str = "", data: Any = None) -> str:
    """A whole page; `body` is HTML, `title` is not. `script` runs last and finds `data` in the element `data`."""
    css = asset("base.css") + style
    policy = (
        f"default-src 'none'; style-src {_source(css)}; script-src {_source(script) if script else repr('none')}; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = f"{data_block(data)}\n<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{css}</style>
</head>
<body>
{body}
{blocks}</body>
</html>
"""


def text(value: object) -> str:
    """Any text escaped for HTML and quoted attributes; control characters and lone surrogates become escapes."""
    return html.escape(printable(str(value)))


def data_block(data: Any) -> str:
    """JSON in ASCII that cannot end its HTML element; every string is preserved."""
    safe = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{safe}</script>'


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(code: str) -> str:
    digest = hashlib.sha256(code.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
