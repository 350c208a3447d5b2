"""`journal completion`: what a shell sources to complete verbs and options."""

from __future__ import annotations

import click

from journal.errors import UsageError
from recovery.cli.app import App, Verb, cli

WHERE = {
    "bash": "~/.local/share/bash-completion/completions/journal",
    "zsh": "a directory of $fpath, as _journal",
    "fish": "~/.config/fish/completions/journal.fish",
}


@click.command(
    cls=Verb,
    examples=(
        "journal completion bash > ~/.local/share/bash-completion/completions/journal",
        "journal completion zsh > ~/.zfunc/_journal",
        "journal completion fish > ~/.config/fish/completions/journal.fish",
    ),
)
@click.argument("shell", type=click.Choice(tuple(WHERE)))
@click.pass_obj
def command(app: App, shell: str) -> None:
    """Print the completion script of SHELL.

    Put it where the shell looks for such scripts, then start a new shell: after that, `journal re<TAB>` completes.
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    if completer is None:
        raise UsageError(f"no completion for {shell}", hint="bash, zsh and fish are known")
    script = completer(cli, {}, "journal", "_JOURNAL_COMPLETE").source_template % {
        "complete_func": "_journal_completion",
        "complete_var": "_JOURNAL_COMPLETE",
        "prog_name": "journal",
    }
    if app.json:
        app.out.document({"shell": shell, "install_to": WHERE[shell], "script": script})
    else:
        app.out.raw(script.encode())
