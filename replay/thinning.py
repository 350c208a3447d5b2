"""Which checkpoints of a journal may go, by its policy and by what it says of them; and taking them away.

Knows the journal's restores and whom it vouches for; the rule itself is `journal.retention`'s.
"""

from __future__ import annotations

from contextlib import suppress

from journal.checkpoint import CheckpointStore, Swept
from journal.errors import Locked
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.retention import Policy, PrunePlan, plan_prune
from replay.history import read_history
from replay.timeline import branches
from replay.vouching import UNVOUCHED, refusal


def plan_thinning(reader: LogReader, checkpoints: CheckpointStore, policy: Policy) -> PrunePlan:
    """What a prune would do now. A checkpoint that the journal does not vouch for serves nobody.

    It goes once a newer one is vouched for: before that it may be one that is just being made. What is refused for
    another reason (events that cannot be read, an end of the journal that is gone) stays, and serves nobody either.
    """
    manifests = checkpoints.manifests()
    reasons = {each.seq: refusal(each, reader, manifests) for each in manifests}
    newest = max((seq for seq, reason in reasons.items() if reason is None), default=0)
    refused = {seq: reason for seq, reason in reasons.items() if reason == UNVOUCHED and seq < newest}
    known = [each for each in manifests if each.seq in refused or reasons[each.seq] is None]
    restores = read_history(reader, checkpoints).restores
    return plan_prune(known, reader.last_seq, branches(restores, reader.last_seq), policy, refused)


def thin(plan: PrunePlan, checkpoints: CheckpointStore, parity: ParityStore | None) -> Swept:
    """Executes it, and takes away the parity of what went. Raises Locked while a checkpoint is being made."""
    swept = plan.execute(checkpoints)
    if parity is not None:
        with suppress(Locked):  # whoever makes parity takes this away first
            parity.sweep()
    return swept
