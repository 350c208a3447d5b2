"""What the Grafana dashboard shows: its rows of panels, and the queries behind them. `make docs` makes journal.json.

Knows what an operator asks and PromQL; how Grafana writes a panel down is `grafana`'s to know. Counters that are folded
from the journal are its whole history, so a panel over them asks either for all of it or for the range that is shown.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Look = Literal["timeseries", "stat"]
Steps = tuple[tuple[float | None, str], ...]

HERE = '{job=~"$job", instance=~"$instance"}'
DAY = 86_400.0


class Query(NamedTuple):
    """``legend`` is Grafana's: a label's name in double braces stands for its value."""

    expr: str
    legend: str = "{{instance}}"


class Panel(NamedTuple):
    """``unit`` is one of Grafana's. ``steps``: from that value on, that colour; None is the lowest. ``values``: what a
    number means, in words, with a colour."""

    title: str
    words: str
    unit: str
    queries: tuple[Query, ...]
    look: Look = "timeseries"
    steps: Steps = ((None, "green"),)
    values: tuple[tuple[float, str, str], ...] = ()
    width: int = 8
    decimals: int | None = None


def here(expr: str) -> str:
    """The query with the dashboard's own choice of journals in the place of each `{}`."""
    return expr.replace("{}", HERE)


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    buckets = here(f"sum by (le, instance) (rate({histogram}_bucket{{}}[$__rate_interval]))")
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g} {{{{instance}}}}") for share in shares
    )


def one(expr: str, legend: str = "{{instance}}") -> tuple[Query, ...]:
    return (Query(here(expr), legend),)


GOOD_OR_BAD = ((None, "red"), (1.0, "green"))
NONE_IS_GOOD = ((None, "green"), (1.0, "red"))
PROVEN = ((None, "green"), (DAY, "orange"), (7 * DAY, "red"))

AT_A_GLANCE = (
    Panel("Writer", "Whether the writer takes events. After a failed sync it takes nothing more until the journal is "
          "opened again: restart the server. 'no answer' is a server that is not scraped.", "none",
          one("journal_writable{}"), "stat", GOOD_OR_BAD, ((0, "refuses", "red"), (1, "writes", "green")), 4),
    Panel("Proven Restorable", "Since a checkpoint or a drill last proved that the state can be rebuilt by replay.",
          "s", one("journal_proven_age_seconds{}"), "stat", PROVEN, (), 4),
    Panel("Last Drill", "How the last rehearsal of the whole recovery ended. `journal drill` runs one.", "none",
          one("journal_drill_ok{}"), "stat", GOOD_OR_BAD, ((0, "failed", "red"), (1, "passed", "green")), 4),
    Panel("Last Scrub", "Whether reading the whole journal found rot. `journal verify` names it, `--repair` mends it.",
          "none", one("journal_scrub_ok{}"), "stat", GOOD_OR_BAD, ((0, "damage", "red"), (1, "clean", "green")), 4),
    Panel("Events Lost", "Events that were accepted and can never be read again. Anything above 0 was accepted by a "
          "person, with `journal recover journal --accept-loss`.", "none",
          one("journal_data_loss_events_total{}"), "stat", NONE_IS_GOOD, (), 4),
    Panel("Last Seq", "How many events the journal holds.", "none", one("journal_last_seq{}"), "stat", width=4),
)  # fmt: skip

RECOVERY = (
    Panel("Recovery Time (p95)", "19 of 20 recoveries took no longer: of all in the journal, and of those in the range "
          "that is shown.", "s", (
              Query(here("histogram_quantile(0.95, sum by (le, instance) (journal_recovery_time_seconds_bucket{}))"),
                    "of all {{instance}}"),
              Query(here("histogram_quantile(0.95, sum by (le, instance) "
                         "(increase(journal_recovery_time_seconds_bucket{}[$__range])))"), "in range {{instance}}")),
          steps=((None, "green"), (60.0, "orange"), (600.0, "red")), width=6),
    Panel("Recovery Success Rate", "What recoveries brought back, of what they set out to: of all in the journal, and "
          "in the range that is shown.", "percentunit", (
              Query(here("sum by (instance) (journal_recovered_agents_total{}) / "
                         "sum by (instance) (journal_recovery_attempts_total{})"), "of all {{instance}}"),
              Query(here("sum by (instance) (increase(journal_recovered_agents_total{}[$__range])) / "
                         "sum by (instance) (increase(journal_recovery_attempts_total{}[$__range]))"),
                    "in range {{instance}}")),
          steps=((None, "red"), (0.9, "orange"), (1.0, "green")), width=6),
    Panel("Data Loss Events", "Events that became unreadable for good, an hour.", "none",
          one("increase(journal_data_loss_events_total{}[1h])"), steps=NONE_IS_GOOD, width=6),
    Panel("Checkpoint Sizes", "How large checkpoints were: the mean, and what 19 of 20 stay below.", "bytes", (
              Query(here("journal_checkpoint_size_bytes_sum{} / journal_checkpoint_size_bytes_count{}"),
                    "mean {{instance}}"),
              Query(here("histogram_quantile(0.95, sum by (le, instance) (journal_checkpoint_size_bytes_bucket{}))"),
                    "p95 {{instance}}")), width=6),
    Panel("Recoveries by Component", "What recoveries set out to bring back: agents, and what agents share.", "none",
          one("sum by (instance, component) (journal_recovery_attempts_total{})",
              "{{component}} {{instance}}"), width=6),
    Panel("Failed Recoveries", "By what was recovered and how it ended: `failed` says why in `journal log --type "
          "recovery.failed`, `cut` was ended with its process.", "none",
          one("sum by (instance, component, outcome) (journal_failed_recoveries_total{})",
              "{{component}} {{outcome}} {{instance}}"), steps=NONE_IS_GOOD, width=6),
    Panel("Recoveries by Outcome", "How many ended in which way.", "none",
          one("sum by (instance, outcome) (journal_recovery_time_seconds_count{})", "{{outcome}} {{instance}}"),
          width=6),
    Panel("Replay Speed", "Events a second that the last rebuild of memory.db applied: what a recovery's time follows "
          "from.", "ops", one("journal_replay_speed_events_per_second{}"), width=6),
)  # fmt: skip

WRITING = (
    Panel("Append Rate", "Events a second that were journaled and acknowledged.", "ops",
          one("rate(journal_appended_events_total{}[$__rate_interval])")),
    Panel("Refused Appends", "Appends a second that were not taken, by the error's code. `not_found`, `already_exists` "
          "and `invalid` are the caller's; `no_space`, `poisoned` and `outcome_unknown` are the server's.", "ops",
          one("sum by (instance, code) (rate(journal_refused_appends_total{}[$__rate_interval]))",
              "{{code}} {{instance}}")),
    Panel("Append Latency", "From an append's arrival to its receipt: journaled, synced and applied.", "s",
          quantiles("journal_append_duration_seconds", 0.5, 0.95, 0.99),
          steps=((None, "green"), (0.1, "orange"), (0.5, "red"))),
    Panel("Sync Latency", "One write and sync of a batch: the disk's share of an append.", "s",
          quantiles("journal_sync_duration_seconds", 0.5, 0.99),
          steps=((None, "green"), (0.1, "orange"), (0.5, "red"))),
    Panel("Batch Size", "Events that share a sync: it grows with the load, and latency then does not.", "none", (
              *one("rate(journal_batch_size_sum{}[$__rate_interval]) / "
                   "rate(journal_batch_size_count{}[$__rate_interval])", "mean {{instance}}"),
              *quantiles("journal_batch_size", 0.95)), decimals=1),
    Panel("Position Lag", "Events that are journaled and that memory.db does not hold yet. Above 0 for long: it is "
          "gone or cannot be written, and `journal recover memory` rebuilds it.", "none", one("journal_position_lag{}"),
          steps=((None, "green"), (1000.0, "red"))),
    Panel("Journal Size", "The segments' bytes, zero-filled space ahead included.", "bytes",
          one("journal_size_bytes{}")),
    Panel("Disk", "Free space where the journal lies, and what a rebuild of memory.db needs of it.", "bytes", (
              *one("journal_disk_free_bytes{}", "free {{instance}}"),
              *one("journal_rebuild_space_bytes{}", "a rebuild needs {{instance}}"))),
    Panel("Pending Embeddings", "Texts without a vector: searches do not find them yet. `journal embed` computes them.",
          "none", one("journal_pending_embeddings{}"), steps=((None, "green"), (1000.0, "orange"))),
)  # fmt: skip

PROOF = (
    Panel("Checkpoint Age", "Since the newest checkpoint was made.", "s", one("journal_checkpoint_age_seconds{}"),
          steps=((None, "green"), (DAY, "orange")), width=6),
    Panel("Events since a Checkpoint", "What a rebuild has to replay.", "none", one("journal_checkpoint_lag{}"),
          steps=((None, "green"), (100_000.0, "orange")), width=6),
    Panel("Proven Restorable Age", "Since a checkpoint or a drill last proved that the state can be rebuilt.", "s",
          one("journal_proven_age_seconds{}"), steps=PROVEN, width=6),
    Panel("Drill Age", "Since the last rehearsal. The weekly timer keeps it below 8 days.", "s",
          one("journal_drill_age_seconds{}"), steps=((None, "green"), (8 * DAY, "red")), width=6),
    Panel("Failed Drills", "Rehearsals that found a state which could not be recovered as it is.", "none",
          one("journal_failed_drills_total{}"), steps=NONE_IS_GOOD, width=6),
    Panel("Scrub Age", "Since the whole journal was last read.", "s", one("journal_scrub_age_seconds{}"),
          steps=((None, "green"), (35 * DAY, "orange")), width=6),
    Panel("Scrub Findings", "Damage that scrubs found, in all.", "none", one("journal_scrub_findings_total{}"),
          steps=NONE_IS_GOOD, width=6),
    Panel("Takeovers, Restores, Drift", "Writers that took over from one that did not close; restores of the whole "
          "state; checkpoints that found memory.db other than the journal says.", "none", (
              *one("journal_takeovers_total{}", "takeovers {{instance}}"),
              *one("journal_restores_total{}", "restores {{instance}}"),
              *one("journal_drift_total{}", "drift {{instance}}")), width=6),
)  # fmt: skip

EXPORT = (
    Panel("Export Lag", "Events that a tracing backend does not have yet, by export.", "none",
          one("journal_export_lag{}", "{{cursor}} {{instance}}"), steps=((None, "green"), (1000.0, "orange")),
          width=12),
    Panel("Server", "Whether the server answers Prometheus.", "none", one("up{}"), "stat", GOOD_OR_BAD,
          ((0, "no answer", "red"), (1, "answers", "green")), 12),
)  # fmt: skip

ROWS = (
    ("At a Glance", AT_A_GLANCE),
    ("Recovery", RECOVERY),
    ("Writing", WRITING),
    ("What Proves That It Can Be Recovered", PROOF),
    ("Around", EXPORT),
)
