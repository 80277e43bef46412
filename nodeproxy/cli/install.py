"""``nodeproxy install``: prints what an installation needs; it installs nothing itself."""

from __future__ import annotations

import click

__all__ = ["install", "install_files"]


def install_files(target: str) -> list[tuple[str, str]]:
    """The files for ``systemd`` or ``kubernetes``: (name, text), sorted by name."""
    from importlib import resources

    folder = resources.files("nodeproxy") / "deploy" / target
    found = [(f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.is_file()]
    return sorted(found)


@click.command()
@click.argument("target", type=click.Choice(["systemd", "kubernetes"]))
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False),
    help="Write the files into this folder instead, which must be new or empty.",
)
def install(target: str, folder: str | None) -> None:
    """Print the files of an installation.

    For kubernetes it is one YAML stream: `nodeproxy install kubernetes | kubectl apply -f -`.
    For systemd each file follows its name; `--to FOLDER` writes them as files.
    """
    files = install_files(target)
    if folder is not None:
        _write(files, folder)
    elif target == "kubernetes":
        texts = [text.strip("\n") for name, text in files if name.endswith((".yaml", ".yml"))]
        click.echo("\n---\n".join(text.removeprefix("---\n") for text in texts))
    else:
        for name, text in files:
            click.echo(f"# ---- {name}")
            click.echo(text.rstrip("\n") + "\n")


def _write(files: list[tuple[str, str]], folder: str) -> None:
    from pathlib import Path

    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise click.UsageError(f"{folder} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files:
        path = target / name
        path.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)
        click.echo(path)
