"""The progress of a training: a bar on a terminal, one line per epoch in a log file."""

import logging
from typing import TYPE_CHECKING

from app.cli.console import err

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger("digits")


def make_bar() -> "Progress":
    """A bar that is shown on a terminal only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
        refresh_per_second=2,
        disable=not err.is_terminal,
    )


def add_task(bar: "Progress") -> "TaskID":
    """A line of the bar, empty until there is something to show."""
    return bar.add_task("training", total=None, epoch="", losses="", speed="")


class Display:
    """Shows one training."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = add_task(bar)
        self._told = 0  # the last epoch that has a line
        self._waiting = ""  # the last reason

    def wait(self, what: str) -> None:
        """Show why there is no progress."""
        if what != self._waiting and not err.is_terminal:
            logger.info("%s", what)
        self._waiting = what
        self._bar.update(self._task, epoch=what)

    def show(
        self,
        *,
        epoch: int,
        epochs: int,
        step: int,
        steps: int,
        images_per_second: float,
        eta_seconds: float,
        finished: int,
        d_loss: float | None,
        g_loss: float | None,
    ) -> None:
        """Show where it stands. ``finished`` is the number of epochs that are, of which the last has these losses."""
        losses = "" if d_loss is None or g_loss is None else f"D {d_loss:.3f}  G {g_loss:.3f}"
        speed = f"{images_per_second:,.0f} images/s"
        if finished > self._told and not err.is_terminal:
            logger.info("epoch %d/%d: %s, %s, %.0f s to go", finished, epochs, speed, losses, eta_seconds)
            self._told = finished
        self._bar.update(
            self._task,
            total=epochs * steps,
            completed=(epoch - 1) * steps + step,
            epoch=f"epoch {epoch}/{epochs}",
            speed=speed,
            losses=losses,
        )
