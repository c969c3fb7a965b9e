"""Errors of requests to a server."""

from __future__ import annotations

from lcbench.core.errors import EngineError


class EndpointError(EngineError):
    """A request failed."""


class RefusedError(EndpointError):
    """The server understood the request and refused it, with this HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TransientError(EndpointError):
    """A retry may succeed. `wait`: seconds that the server asks to wait, if any."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class BusyError(TransientError):
    """The server has no time, or no model yet: 429, 503 and their like. Says nothing of what it understands."""


class UnreachableError(TransientError):
    """There is no server, or the connection to it ended."""


class SilentError(UnreachableError):
    """The server accepted the connection and sent nothing before the timeout."""
