"""``digits keys``: who may use the service."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from app import keys
from app.audit import audit_command
from app.cli.console import fail, out
from app.settings import ApiSettings

commands = typer.Typer(
    no_args_is_help=True,
    help="Give out keys of the service, and take them back. They are kept in the file DIGITS_KEYS_FILE.",
    epilog="Example: `DIGITS_KEYS_FILE=keys.json digits keys add class-3b --scope draw`",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: letters, digits, . _ and -")]


@commands.command(epilog="Example: `digits keys add class-3b --scope draw --scope train`")
def add(
    name: NameArgument,
    scope: Annotated[
        list[keys.Scope] | None, typer.Option(help="What it may do; can be given several times. Default: draw.")
    ] = None,
) -> None:
    """Make a key and show it, once: it is nowhere else. The service knows it within a second."""
    try:
        text = keys.add_key(_find_file(), name, frozenset(scope or [keys.Scope.DRAW]))
    except keys.KeysError as error:
        fail(str(error))
    except ValidationError:
        fail(f"NAME: 1 to {keys.MAX_NAME} letters, digits, dots, underscores or hyphens", code=2)
    audit_command("key-added", name=name, scopes=",".join(sorted(scope or [keys.Scope.DRAW])))
    print(text)  # noqa: T201  nothing may wrap it


@commands.command("list", epilog="Example: `digits keys list`")
def list_keys() -> None:
    """List the keys: their names and scopes, and the part of each key that is no secret."""
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "scopes", "key", "made", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    try:
        for key in keys.read_keys(_find_file()):
            scopes = ", ".join(sorted(key.scopes))
            table.add_row(key.name, scopes, f"digits_{key.id}_…", f"{key.created_at:%Y-%m-%d %H:%M} UTC")
    except keys.KeysError as error:
        fail(str(error))
    out.print(table)


@commands.command(epilog="Example: `digits keys revoke class-3b`")
def revoke(name: NameArgument) -> None:
    """Take a key back. The service refuses it within a second."""
    try:
        keys.revoke_key(_find_file(), name)
    except keys.KeysError as error:
        fail(str(error))
    audit_command("key-removed", name=name)
    out.print(f"the key {name} is revoked")


def _find_file() -> Path:
    path = ApiSettings().keys_file
    if path is None:
        fail("name a file for the keys in DIGITS_KEYS_FILE, as DIGITS_KEYS_FILE=keys.json digits keys add NAME", code=2)
    return path
