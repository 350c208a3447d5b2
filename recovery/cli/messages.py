"""`journal messages`: what a consumer has not acknowledged yet, and acknowledging it."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb, VerbGroup


@click.group(
    cls=VerbGroup,
    examples=("journal messages pending mailer", "journal messages ack mailer m-42"),
)
def command() -> None:
    """Messages are handed out until they are acknowledged, after a crash too.

    A server does the same by `hook.messages.pending` and `hook.messages.ack`.
    """


@command.command(
    "pending", cls=Verb, examples=("journal messages pending mailer", "journal messages pending mailer --json -n 10")
)
@click.argument("consumer")
@click.option("--conversation", metavar="ID", help="Only those of this conversation.")
@click.option("-n", "count", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most N.")
@click.pass_obj
def pending_command(app: App, consumer: str, conversation: str | None, count: int) -> None:
    """Print the oldest messages that CONSUMER has not acknowledged. Takes no lock.

    With --json each line is one: seq, conversation_id, message_id, agent, role, content, time (UTC ns).
    """
    from journal.errors import JournalError
    from recovery.cli.words import quoted
    from recovery.reading import reading
    from replay.cursors import pending, read_cursors

    data = app.data
    reader = data.reader()
    path = data.generations.current().path
    if path is None:
        raise JournalError("memory.db is missing", path=data.layout.memory_db, hint="journal recover memory")
    with reading(path) as connection:
        found = pending(connection, read_cursors(reader, connection), consumer, conversation, count)
    if app.json:
        from msgspec import to_builtins

        app.out.documents(to_builtins(each) for each in found)
    else:
        app.out.lines(
            f"{each.seq}  {each.conversation_id}/{each.message_id}  {each.agent} ({each.role}): {quoted(each.content)}"
            for each in found
        )


@command.command("ack", cls=Verb, examples=("journal messages ack mailer m-42",))
@click.argument("consumer")
@click.argument("message_id")
@click.option("--conversation", metavar="ID", help="The conversation that the message must be in.")
@click.pass_obj
def ack_command(app: App, consumer: str, message_id: str, conversation: str | None) -> None:
    """Journal that CONSUMER has dealt with MESSAGE_ID and with all before it in its conversation.

    What was acknowledged already is left as it is, and nothing is written.
    """
    from recovery.control.writer import open_writer

    with open_writer(app.data) as writer:
        receipt = writer.acknowledge(consumer, message_id, conversation)
    if app.json:
        app.out.document({"consumer": consumer, "message_id": message_id, "seq": receipt.seq if receipt else None})
    elif receipt is None:
        app.out.line(f"{message_id} was acknowledged already")
    else:
        app.out.line(f"consumer {consumer} is at message {message_id}, seq {receipt.seq}")
