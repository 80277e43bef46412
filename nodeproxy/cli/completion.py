"""``nodeproxy completion``"""

from __future__ import annotations

import click

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  nodeproxy completion bash > /etc/bash_completion.d/nodeproxy
    zsh:   nodeproxy completion zsh > "${fpath[1]}/_nodeproxy"
    fish:  nodeproxy completion fish > ~/.config/fish/completions/nodeproxy.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # the choice above holds click's own names
    root = context.find_root().command
    click.echo(kind(root, {}, "nodeproxy", "_NODEPROXY_COMPLETE").source())
