"""The address of an endpoint, its credentials, and the part of it that may be shown or recorded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from lcbench.core.errors import UserError

KEYS = ("LCBENCH_API_KEY", "OPENAI_API_KEY")  # the first that is set is sent
API_PATHS = re.compile(r"/(chat/)?completions/?$|/models/?$")


@dataclass(frozen=True)
class Address:
    """`base` is the URL up to and with its path (.../v1), without credentials and query: the only part that is shown or
    recorded. Credentials never appear in a `repr`."""

    base: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises: UserError for a text that is not the URL of an endpoint."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise UserError("--endpoint must be a URL such as http://localhost:8000/v1, up to the version of the API.")
        place = f"[{host}]" if ":" in host else host
        path = API_PATHS.sub("", parts.path).rstrip("/")
        base = urlunsplit((parts.scheme, place if port is None else f"{place}:{port}", path, "", ""))
        query = parse_qsl(parts.query, keep_blank_values=True)
        user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        return cls(base, tuple(query), user, password)

    @property
    def secrets(self) -> list[str]:
        """Credentials that must never be shown."""
        values = [self.password, *(value for _, value in self.query), api_key()]
        return [value for value in values if value]

    def without_secrets(self, text: str) -> str:
        """A server's message without any secret that it repeats."""
        for secret in self.secrets:
            text = text.replace(secret, "...")
        return text


def api_key() -> str | None:
    """The API key, from the environment only. Raises: UserError for one that a header cannot hold."""
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise UserError(
                    f"{name} is not a valid key: it has characters that are not printable ASCII; set it again."
                )
            return key
    return None
