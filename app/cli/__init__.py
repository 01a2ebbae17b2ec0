"""``digits``: the command line. ``digits --help`` lists the commands; the help of each has an example.

Each file holds a group of commands. Heavy imports are inside the commands that need them, so that
``--help`` is quick and the worker's parent process does not import torch.
"""

import difflib
import io
import logging
import os
import sys
from importlib.metadata import version
from typing import NoReturn

import typer
from pydantic import ValidationError

from app.cli import backups, datasets, draw, imports, jobs, keys, serve, train, upkeep, versions
from app.cli.console import out, say_error
from app.settings import ApiSettings
from worker import logs
from worker.settings import PREFIX, LogSettings, Settings

logger = logging.getLogger("digits")

_SETTINGS = {kind.__name__ for kind in (LogSettings, Settings, ApiSettings)}  # the titles of their errors

cli = typer.Typer(
    name="digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for group in (serve, train, imports, jobs, draw, datasets, versions, upkeep, backups):
    cli.add_typer(group.commands)
cli.add_typer(keys.commands, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"digits {version('digits')}")
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
    _open_standard_streams()
    try:
        logs.set_up(LogSettings().log)
        _ignore_unknown_settings()
        cli()
    except ValidationError as error:
        if error.title not in _SETTINGS:
            _end_unexpectedly()
        for item in error.errors(include_input=False):
            name = str(item["loc"][0]).upper().removeprefix("DIGITS_")
            say_error(f"DIGITS_{name}: {item['msg'].removeprefix('Value error, ')}")
        raise SystemExit(2) from None
    except Exception:
        _end_unexpectedly()


def _end_unexpectedly() -> NoReturn:
    logger.critical("unexpected error", exc_info=True)
    raise SystemExit(1) from None


def _open_standard_streams() -> None:
    """Open what was closed, as by ``>&-``: else the next file or socket becomes the standard output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(descriptor := os.open(os.devnull, os.O_RDWR), number)
            if descriptor != number:
                os.close(descriptor)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale: a ★, or a path


def _ignore_unknown_settings() -> None:
    """Say which names are no settings, once: the processes that this one starts get only what is known."""
    known = ApiSettings.list_names()
    for name in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        nearest = difflib.get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], 1)
        meant = f"; is {PREFIX}{nearest[0]} meant?" if nearest else ""
        logger.warning("%s is no setting and is ignored%s", name, meant)
        del os.environ[name]
