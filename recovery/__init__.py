"""Judgement: what is wrong with the state, what to do about it, and the surfaces that users touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recovery.server import open_server, open_server_sync
    from replay.reader import open_reader

__all__ = ["open_reader", "open_server", "open_server_sync"]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: the command starts without them."""
    if name in ("open_server", "open_server_sync"):
        from recovery import server

        return getattr(server, name)
    if name == "open_reader":
        from replay.reader import open_reader

        return open_reader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
