"""What all commands share: the consoles, the common options, and how a command fails."""

import json
import logging
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from models import seeds
from worker import logs
from worker.recipes import ArchName

if TYPE_CHECKING:
    from pydantic import ValidationError


logger = logging.getLogger("digits")


class _Patient(Console):
    """A console whose reader may go: the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


# Without markup: a [part] of a name or an error is no style.
out = Console(markup=False, highlight=False)
err = _Patient(stderr=True, markup=False, highlight=False)

ArchOption = Annotated[ArchName, typer.Option(help="The architecture.")]
VersionOption = Annotated[str | None, typer.Option(help="A number, or latest. Default: the pinned one, else the best.")]
ScaleOption = Annotated[int, typer.Option(min=1, max=8, help="Enlargement factor.")]
ColumnsOption = Annotated[int | None, typer.Option(min=1, help="Columns of the grid. Default: near-square.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=seeds.MAX_SEED, help="Default: a random seed.")]


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with an error."""
    say_error(message)
    raise typer.Exit(code)


def fail_option(error: "ValidationError") -> NoReturn:
    """End the command with what is wrong with an option, of which a model has a field of the same name."""
    problem = error.errors()[0]
    name = str(problem["loc"][0]).replace("_", "-")
    fail(f"{'-' if len(name) == 1 else '--'}{name}: {problem['msg']}")


def write_json(value: object) -> None:
    """Write data for a program, as it is, however narrow the terminal."""
    print(json.dumps(value, indent=2))  # noqa: T201


def say_error(message: str) -> None:
    """Write an error, for one who can correct it; among lines of JSON, as one of them."""
    if logs.are_json():
        logger.error("%s", message)
    else:
        err.print(Text.assemble(("error:", "red"), " ", message), soft_wrap=True)
