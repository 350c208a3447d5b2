"""What can be wrong with the data directory as a whole. The lines are independent: each that holds decides."""

from __future__ import annotations

from recovery.facts import Facts
from recovery.rows import Row

DIRECTORY: tuple[tuple[str, Row[Facts]], ...] = (
    ("checkpoint", Row("damaged", "a checkpoint's manifest cannot be read",
        lambda f: bool(f.journal.damaged_checkpoints), "none", "degraded", 3,
        lambda f: "; ".join(f.journal.damaged_checkpoints), "journal checkpoint create")),
    ("watermark", Row("damaged", "the watermark of strict mode cannot be believed, and is no evidence",
        lambda f: bool(f.journal.damaged_watermark), "none", "degraded", 3,
        lambda f: f.journal.damaged_watermark, "the next writer makes it anew")),
    ("agents", Row("not_a_directory", "something else has the name of the agents directory",
        lambda f: f.agents_kind not in ("directory", "missing"), "set_aside", "failed", 1,
        lambda f: f"the agents directory is none, but a {f.agents_kind}", "journal recover agents")),
    ("recovery", Row("interrupted", "recovery.json is there: a recovery was cut",
        lambda f: f.interrupted is not None, "finish", "healthy", 0,
        lambda f: "a recovery was cut", "journal recover all")),
    ("import", Row("unfinished", "import.json is there: an import runs or was cut, and no server opens before it ends",
        lambda f: f.importing, "none", "failed", 1,
        lambda f: "an import did not end: no server opens half a memory", "journal init --adopt")),
    ("files", Row("leftovers", "a half-built file, or an old generation that nobody holds any more",
        lambda f: bool(f.leftovers), "tidy", "healthy", 0,
        lambda f: f"left behind: {', '.join(path.rsplit('/', 1)[1] for path in f.leftovers)}")),
)  # fmt: skip
