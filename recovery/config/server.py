"""The keys of journal.yaml about the server around the journal: how it is stopped, started and asked, what its crash
leaves, and what it does while a part of its state is gone. A part of the table in `recovery.config.table`.
"""

from __future__ import annotations

from typing import Literal

from recovery.config.kinds import (
    BOOLEAN,
    COMMAND,
    GLOBS,
    OPTIONAL_PATH,
    PATTERNS,
    SOME_SECONDS,
    UNIT,
    URL,
    choice,
    whole,
)
from recovery.config.section import Section, key


class Server(Section):
    control: Literal["none", "systemd", "command", "http"] = key(
        choice("none", "systemd", "command", "http"),
        "none",
        "How `journal recover` stops the server before it replaces what the server uses, and starts it after. none: it "
        "stops nothing, and refuses while another process writes memory.db, unless that process holds the journal and "
        "listens on its control socket: then it recovers itself.",
    )
    unit: str = key(UNIT, "", "With systemd: the unit. It is asked and told by `systemctl`.")
    user: bool = key(BOOLEAN, False, "With systemd: the unit is one of the user's own manager (`systemctl --user`).")
    start: tuple[str, ...] = key(COMMAND, (), "With command: what starts the server, and ends once it is started.")
    stop: tuple[str, ...] = key(COMMAND, (), "With command: what stops the server, and ends once it is stopped.")
    status: tuple[str, ...] = key(
        COMMAND, (), "With command: exits 0 while the server runs. Empty: it runs while a process holds the journal."
    )
    start_url: str = key(URL, "", "With http: a POST to it starts the server.")
    stop_url: str = key(URL, "", "With http: a POST to it stops the server.")
    health: str = key(
        URL,
        "",
        "Where the server says how it is, by GET: JSON with `status`, `agents` and, if it has them, `memory_backend`, "
        "`model` and `components`. Empty: the control socket of the process that holds the journal.",
    )
    token_file: str = key(OPTIONAL_PATH, "", "A file with the token that `health` and the urls are shown. Empty: none.")
    timeout_seconds: float = key(SOME_SECONDS, 60.0, "So long it may take to stop, to start, and to become healthy.")
    interval_seconds: float = key(SOME_SECONDS, 0.5, "So long it is waited between two questions whether it is.")


class Crash(Section):
    cores: tuple[str, ...] = key(
        GLOBS,
        ("core", "core.*"),
        "Where the server leaves core files; what is one by its first bytes is moved to quarantine by recovery.",
    )
    log: str = key(OPTIONAL_PATH, "", "The log of the server, scanned for the patterns. Empty: `reload.log`.")
    log_bytes: int = key(whole(1024, 1 << 30), 1 << 20, "So many bytes of it are scanned, from its end.")
    patterns: tuple[str, ...] = key(
        PATTERNS,
        ("PANIC|panicked at", "SEGFAULT|SIGSEGV|segfault", "SIGKILL|Killed process|oom-kill", "SIGABRT|core dumped"),
        "What a line of the log says of a crash: regular expressions (Python's).",
    )


class Degraded(Section):
    memory: Literal["journal", "refuse"] = key(
        choice("journal", "refuse"),
        "journal",
        "What becomes of writes while memory.db is gone or cannot be written. journal: they are journaled without "
        "reference checks (the receipt says `checked: false`), acknowledged, and applied when it is back; refuse: "
        "nothing is written.",
    )
    disk: Literal["refuse", "queue"] = key(
        choice("refuse", "queue"),
        "refuse",
        "What becomes of writes while the journal's disk is full. refuse: they end with `no_space` at once; queue: "
        "they wait, unacknowledged, for room, those of critical agents first (`checkpoint.agents`).",
    )
    queue_bytes: int = key(
        whole(1024, 1 << 32), 16 << 20, "With queue: so many bytes of events wait; beyond that the least critical and "
        "newest are refused.",
    )  # fmt: skip
