"""Server-sent events: the lines of a stream, in whatever pieces its bytes arrive.

https://html.spec.whatwg.org/multipage/server-sent-events.html: the text is UTF-8 whatever the header says, may begin
with a byte order mark, and a line ends in CR, LF or both. HTTP libraries also break lines at U+2028, form feeds and
whatever else ends a line in Unicode; these stand unescaped in the JSON of many servers.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

END = re.compile(r"\r\n|\n|\r(?=.)", re.DOTALL)  # a CR may be the first half of CR LF: the next byte tells


def lines(parts: Iterable[bytes]) -> Iterator[str]:
    """The lines without their ends; the last one may have none."""
    decoder, rest = codecs.getincrementaldecoder("utf-8-sig")(errors="replace"), ""
    for part in parts:
        *whole, rest = END.split(rest + decoder.decode(part))
        yield from whole
    if rest:
        yield rest.removesuffix("\r")
