"""What a server's own word of its health means, after it was started. The first line that holds decides."""

from __future__ import annotations

import msgspec

from recovery.rows import Row


class ServingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """``answers``: its health was told. ``status``, ``memory`` and ``model`` are its words, "" where it has none.

    ``agents`` is how many it has loaded, None if it does not say; ``agents_expected`` how many the journal has,
    ``model_expected`` whether there is a model to be loaded. ``problem`` is why it did not answer, ``seconds`` how long
    it was waited.
    """

    answers: bool = False
    status: str = ""
    memory: str = ""
    agents: int | None = None
    model: str = ""
    agents_expected: int = 0
    model_expected: bool = False
    problem: str = ""
    seconds: float = 0.0


HEALTHY_WORDS = ("healthy", "ok", "pass", "up")
DEGRADED_WORDS = ("degraded", "warn")
MEMORY_WORDS = (*HEALTHY_WORDS, "told")
MODEL_WORDS = (*HEALTHY_WORDS, "loaded", "ready", "available")

SERVING: tuple[Row[ServingFacts], ...] = (
    Row("silent", "it does not answer in `server.timeout_seconds`",
        lambda s: not s.answers, "none", "failed", 1,
        lambda s: f"the server does not answer after {s.seconds:g} s: {s.problem}", "look into its log"),
    Row("unwell", "its status is neither healthy nor degraded",
        lambda s: s.status not in (*HEALTHY_WORDS, *DEGRADED_WORDS), "none", "failed", 1,
        lambda s: f"the server says that it is {s.status or 'not healthy'}", "look into its log"),
    Row("memory", "its memory is not healthy, or it does not speak of it",
        lambda s: s.memory not in (*MEMORY_WORDS, *DEGRADED_WORDS), "none", "failed", 1,
        lambda s: "the server's memory is " + (s.memory or "not spoken of"), "journal check"),
    Row("no_agents", "it has loaded no agent, or does not say how many, and the journal has some",
        lambda s: s.agents_expected > 0 and not s.agents, "none", "failed", 1,
        lambda s: "the server has " + ("no agent" if s.agents == 0 else "not said how many agents it has")
        + f", the journal {s.agents_expected}", "journal check"),
    Row("model", "there is a model, and it says that it is not loaded",
        lambda s: s.model_expected and s.model not in ("", *MODEL_WORDS), "none", "degraded", 3,
        lambda s: f"the server's model is {s.model}", "journal check --deep"),
    Row("degraded", "it says so, of itself or of its memory",
        lambda s: s.status in DEGRADED_WORDS or s.memory in DEGRADED_WORDS, "none", "degraded", 3,
        lambda s: "the server says that it is degraded", "journal check"),
    Row("healthy", "none of these",
        lambda s: True, "none", "healthy", 0,
        lambda s: f"the server is healthy after {s.seconds:g} s"
        + (f", with {s.agents} agents" if s.agents is not None else "")
        + ("; of its model it says nothing" if s.model_expected and not s.model else "")),
)  # fmt: skip
