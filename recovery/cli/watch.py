"""`journal watch`: journals edits of agents/ while they are made, and finds writes to memory.db past the hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb

if TYPE_CHECKING:
    from recovery.agents.watch import Noticed


@click.command(cls=Verb, examples=("journal watch", "journal watch --once", "journal watch --json"))
@click.option("--once", is_flag=True, help="Look at everything once, journal what was edited, and end.")
@click.pass_obj
def command(app: App, once: bool) -> None:
    """Journal what people do to agents/ by hand, while they do it, until Ctrl-C or SIGTERM.

    An edit or a new file becomes the next version, a deleted file removes its agent. Where agents.validation is strict
    and an edit is not valid, it is journaled as rejected and moved to quarantine, and the last good version is written
    again; so is a file that was emptied. Writes to memory.db by other programs are found, and reported, reverted or
    adopted as watch.memory says.

    This is for data without a server: it holds the journal's lock, and other verbs write through it. A server watches
    its own with open_server(..., watch=True).
    """
    import signal

    from recovery.agents.watch import Watch
    from recovery.control.listen import Control
    from recovery.control.writer import CoreWriter
    from recovery.opening import background_of, open_core
    from replay.hook import SyncHook

    def told(noticed: Noticed) -> None:
        if app.json:
            from msgspec import to_builtins

            app.out.document(to_builtins(noticed))
        else:
            app.out.line(_words(noticed))
        app.out.flush()

    opened = open_core(app.data)
    watch = Watch(app.data, opened.core, told)
    background = background_of(app.data, opened.core)
    previous = signal.signal(signal.SIGTERM, lambda *_: watch.stop())
    try:
        with (
            SyncHook(opened.core, background) as hook,
            Control(app.data, CoreWriter(app.data, opened.core, background, hook.settle)),
        ):
            if once:
                watch.scan()
            else:
                app.out.note(f"watching {app.data.layout.agents}; Ctrl-C ends it")
                watch.run()
    finally:
        signal.signal(signal.SIGTERM, previous)


_DONE = {
    "write": "journaled",
    "remove": "removed",
    "reject": "rejected, and left where it is",
    "reject_and_put_back": "rejected, the last good version written again",
    "report": "not journaled",
    "wait": "looked at again",
    "reported": "only reported",
    "reverted": "rebuilt from the journal",
    "adopted": "journaled",
}


def _words(noticed: Noticed) -> str:
    what = noticed.name if noticed.what == "memory_drift" else f"agent {noticed.name}"
    told = f"{what}: {noticed.what.replace('_', ' ')}, {_DONE[noticed.action]}"
    told += f" (seq {noticed.seq})" if noticed.seq is not None else ""
    told += f": {noticed.detail}" if noticed.detail else ""
    return told + (f"; kept aside: {noticed.kept}" if noticed.kept else "")
