"""`hook.agents` of an opened server: write and remove as ever, and hot reload with recovery.

The faces of `recovery.agents.hot_reload` for tasks and for threads; must not know what a failure leads to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import anyio.from_thread
import anyio.to_thread

from recovery.agents.failures import ReloadFailed
from recovery.agents.hot_reload import Callback, Reloaded, Reloader
from recovery.config.kinds import Failure
from recovery.data import Data
from replay.hook import Agents, Hook, SyncAgents, SyncHook


def _content(text: str | bytes) -> bytes:
    return text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)


def _settled(outcome: Reloaded) -> Reloaded:
    """Raises ReloadFailed unless what the caller wrote is in force."""
    if outcome.outcome in ("reloaded", "recovered"):
        return outcome
    done = "its previous version is in force" if outcome.outcome == "rolled_back" else "its status is failed"
    hint = f"the text is in the journal: journal agents history {outcome.name}"
    raise ReloadFailed(
        f"agent {outcome.name!r} could not be reloaded ({outcome.failure}: {outcome.cause}); {done}", outcome, hint=hint
    )


class ServerAgents(Agents):
    """Agent configs through the async hook. `on_reload` first, then `reload`."""

    def __init__(self, hook: Hook, data: Data) -> None:
        super().__init__(hook)
        self.reloader = Reloader(data, hook.core)

    def on_reload(
        self, callback: Callable[[str, bytes], Any], failures: Mapping[type[BaseException], Failure] | None = None
    ) -> None:
        """What makes the server load an agent: called on the event loop with name and config; may be a coroutine
        function, and raises where it cannot. `failures` says what its exceptions mean."""

        async def call(name: str, content: bytes) -> None:
            done = callback(name, content)
            if inspect.isawaitable(done):
                await done

        # From any thread: an operator's verb comes through one that knows no loop, or another one.
        self.reloader.callback = lambda name, content: anyio.from_thread.run(
            call, name, content, token=self._hook.loop
        )
        self.reloader.declared = failures

    async def reload(self, name: str, text: str | bytes, **envelope: Any) -> Reloaded:
        """Journals the config of `name`, lets the server load it, and makes good what fails, by the type of failure.

        Returns what came of it where the text is in force, without failing tools perhaps. Raises ReloadFailed where an
        earlier version is in force again or the agent has failed, and what `Hook.append` raises.
        """
        content = _content(text)
        return _settled(await anyio.to_thread.run_sync(lambda: self.reloader.reload(name, content, **envelope)))


class ServerSyncAgents(SyncAgents):
    """The same through the sync hook; the callback is called in the thread that reloads."""

    def __init__(self, hook: SyncHook, data: Data) -> None:
        super().__init__(hook)
        self.reloader = Reloader(data, hook.core)

    def on_reload(self, callback: Callback, failures: Mapping[type[BaseException], Failure] | None = None) -> None:
        """As `ServerAgents.on_reload`, with a function."""
        self.reloader.callback, self.reloader.declared = callback, failures

    def reload(self, name: str, text: str | bytes, **envelope: Any) -> Reloaded:
        """As `ServerAgents.reload`, blocking."""
        return _settled(self.reloader.reload(name, _content(text), **envelope))
