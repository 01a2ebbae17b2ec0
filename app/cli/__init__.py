"""``digits``: the command line. ``digits --help`` lists the commands; the help of each has an example.

Each file holds a group of commands. Heavy imports are inside the commands that need them, so that
``--help`` is quick and the worker's parent process does not import torch.
"""

import logging
import os
from importlib.metadata import version

import typer
from pydantic import ValidationError

from app.cli import draw, serve, train, versions
from app.cli.console import err, out
from worker.settings import LOG_FORMAT

cli = typer.Typer(
    name="digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for group in (serve, train, draw, versions):
    cli.add_typer(group.commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"digits {version('digits')}", highlight=False)
        raise typer.Exit


@cli.callback()
def digits(
    show_version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Handwritten digits on demand: serve generators, train them, draw from them."""


def main() -> None:
    """The entry point of ``digits``."""
    # torch's OpenMP threads spin while they wait for each other. By default they spin so long that a
    # second busy process on the same cores makes a training step 40 to 100 times slower. This limit
    # costs nothing when they run alone: docs/trials.md. torch reads it when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        cli()
    except ValidationError as error:  # from the settings: typer checks the commands' own options
        for item in error.errors(include_input=False):
            name = str(item["loc"][0]).upper().removeprefix("DIGITS_")
            err.print(f"[red]error:[/red] DIGITS_{name}: {item['msg']}", soft_wrap=True)
        raise SystemExit(2) from None
