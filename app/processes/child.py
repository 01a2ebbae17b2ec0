"""A supervised process: it is started, watched, started again after a pause, and ended.

Must not know what the process is for.
"""

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.linux import signal_on_parent_death

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
READ_BYTES = 65_536  # of a child's output at a time
STEADY_SECONDS = 60.0  # after a run of this length the next pause is the first one again


class StartError(Exception):
    """A child cannot do its work at all: its own last lines say why."""


@dataclass
class Child:
    """One process and how it is started, watched and ended."""

    name: str
    command: list[str]
    grace_seconds: float  # between being asked to end and being killed
    environment: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    on_line: Callable[[str], None] | None = None  # is given the lines of its output; None: they go where ours go
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    due: float = 0.0  # when it may start again
    is_first: bool = True  # it has been started once at most
    asked: float | None = None  # when it was asked to end
    half_line: bytes = b""  # of its output, without an end yet
    on_end: Callable[[], None] = lambda: None  # called when it has died, before it is started again

    def start(self) -> None:
        self.pass_lines()
        self._close_output()
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self.on_line else None,
            stderr=subprocess.STDOUT if self.on_line else None,
            # Its own process group, so that Ctrl-C reaches only the supervisor, which ends its children in order.
            # Not its own session: Linux divides CPU time among sessions first, and a thread that was alone in its
            # session on a core had to wait for 0.1 s.
            process_group=0,
            preexec_fn=lambda: signal_on_parent_death(signal.SIGTERM),
        )
        self.started, self.asked = time.monotonic(), None
        if self.process.stdout:
            os.set_blocking(self.process.stdout.fileno(), False)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(os.fsencode(self.stdin))  # it may hold paths
            self.process.stdin.close()

    def watch(self) -> None:
        """Start it again if it has died and its pause is over.

        Raises:
            StartError: it has given up soon after its first start: it would do so again.
        """
        now = time.monotonic()
        self.pass_lines()
        if self.process is None:
            if now >= self.due:
                self.start()
        elif (code := self.process.poll()) is not None:
            self._kill_group()  # whatever it left behind
            self.pass_lines()
            self.on_end()
            if self.is_first and code > 0 and now - self.started < STEADY_SECONDS:
                raise StartError(f"{self.name} ended with {describe_end(code)} at its start: see above")
            self.is_first = False
            self.pause = FIRST_PAUSE_SECONDS if now - self.started > STEADY_SECONDS else self.pause
            logger.warning("%s ended with %s; starting it again in %.0f s", self.name, describe_end(code), self.pause)
            self.process, self.due = None, now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS)

    def pass_lines(self) -> None:
        """Give ``on_line`` what it has written since the last call."""
        if not (self.on_line and self.process and self.process.stdout):
            return
        with contextlib.suppress(BlockingIOError):
            while not self.process.stdout.closed:
                found = os.read(self.process.stdout.fileno(), READ_BYTES)
                *lines, self.half_line = (self.half_line + (found or b"\n")).split(b"\n")
                for line in filter(None, lines):
                    self.on_line(line.decode(errors="backslashreplace"))
                if not found:  # it has ended
                    self.process.stdout.close()

    def ask_to_end(self) -> None:
        """Send SIGTERM. From now on it has ``grace_seconds`` to end."""
        if self.process:
            self.process.terminate()
            self.asked = time.monotonic()

    def end(self) -> None:
        """Ask it to end, and kill it if it takes too long. Then kill everything that it started."""
        if self.process is None:
            return
        if self.asked is None:
            self.ask_to_end()
        assert self.asked is not None
        try:
            self.process.wait(max(0.0, self.asked + self.grace_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end within %.0f s: killed", self.name, self.grace_seconds)
        self._kill_group()
        self.process.wait()
        self.pass_lines()
        self._close_output()

    def _close_output(self) -> None:
        if self.process and self.process.stdout:
            self.process.stdout.close()

    def _kill_group(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def describe_end(code: int) -> str:
    """How a process ended, in words; ``code`` as ``subprocess`` gives it."""
    return f"signal {-code}" if code < 0 else f"exit status {code}"
