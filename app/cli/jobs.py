"""``digits jobs``, ``digits follow`` and ``digits cancel``: the jobs of a service, on this machine or another one."""

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urljoin

import typer

from app.cli.console import fail, out, write_json
from app.cli.progress import Display, make_bar
from app.settings import KEY, URL, ApiSettings
from worker.jobs import JobState

if TYPE_CHECKING:
    import httpx

commands = typer.Typer()

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 0.5  # between two looks at a job
PAGE = 1_000  # jobs of a request

# Statuses of a service that may soon answer again: it starts, or a proxy waits for it.
_PASSING = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar=URL, help="The service. Default: the one at DIGITS_HOST and DIGITS_PORT."),
]


@commands.command(epilog="Example: `digits jobs --state queued`")
def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As the API gives them.")] = False,
    url: UrlOption = None,
) -> None:
    """List the jobs of a service."""
    from rich.table import Column, Table

    chosen = {"limit": limit, **({"state": state.value} if state else {})}
    found = _Service(url).ask("GET", "/jobs", params=chosen).json()
    if as_json:
        write_json(found)
        return
    columns = (Column("job", no_wrap=True), "state", "arch", "recipe", "epoch", "made")
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for job in found:
        place = f"queued {job['queue_position']}" if job["queue_position"] else job["state"]
        epoch = f"{job['epoch'] or 0}/{job['epochs']}"
        table.add_row(job["id"], place, job["arch"], job["recipe"], epoch, str(job["version"] or ""))
    out.print(table)


@commands.command(epilog="Example: `digits follow 0b4b64f8-7ae6-4f0e-a1a5-9e4eb4f6d1b9 --url http://gpu-host:8000`")
def follow(job_id: Annotated[str, typer.Argument(metavar="ID")], url: UrlOption = None) -> None:
    """Show the progress of a job until it has ended. Ctrl-C ends only this command.

    The exit status is 0 if the job has succeeded.
    """
    service = _Service(url)
    job = service.ask("GET", f"/jobs/{job_id}").json()
    with make_bar() as bar:
        display = Display(bar)
        while job["ended_at"] is None and job["state"] != JobState.UNREADABLE:
            _show(display, job)
            time.sleep(LOOK_SECONDS)
            job = service.look_again(job, display.wait)
        _show(display, job)
    made = f", made {job['arch']} version {job['version']}" if job["version"] else ""
    out.print(f"{job['state']}{made}{': ' + job['error'] if job['error'] else ''}", soft_wrap=True)
    if job["state"] != JobState.SUCCEEDED:
        raise typer.Exit(1)


@commands.command(epilog="Example: `digits cancel 0b4b64f8-7ae6-4f0e-a1a5-9e4eb4f6d1b9 --keep`")
def cancel(
    job_id: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    all_queued: Annotated[
        bool,
        typer.Option(
            "--all-queued", help="Cancel all jobs that wait. A key without the scope admin cancels its own ones."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Publish the epochs that are finished.")] = False,
    url: UrlOption = None,
) -> None:
    """Cancel a job, or all that wait in the queue."""
    service = _Service(url)
    if (job_id is None) is not all_queued:
        fail("name one job, or --all-queued", code=2)
    if job_id:
        job = service.ask("DELETE", f"/jobs/{job_id}", params={"keep": keep}).json()
        soon = "it will stop soon, and its finished epochs will be published" if job["keep"] else "it will stop soon"
        out.print("canceled" if job["ended_at"] else soon)
        return
    ends = Counter(service.cancel_queued(job["id"], keep) for job in list(service.list_queued()))
    out.print(f"canceled {ends[_End.NOW]} jobs")
    if later := ends[_End.LATER]:
        out.print(f"{later} more run by now, or wait for a worker that publishes their finished epochs")
    if others := ends[_End.NOT_OURS]:
        out.print(f"{others} others stay: this key has not queued them")


class _End(Enum):
    """What has become of a job that was to be canceled."""

    NOW = auto()
    LATER = auto()  # its run is asked to stop
    BEFORE = auto()  # it had ended
    NOT_OURS = auto()


class _Service:
    """A client of the API. What goes wrong ends the command with the reason."""

    def __init__(self, url: str | None) -> None:
        import httpx

        from app.processes.serving import make_url

        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
        self._url = (url or make_url(ApiSettings())).rstrip("/")
        key = os.environ.get(KEY, "").strip()  # never an option: other users of the machine see those
        if not re.fullmatch(r"[!-~]*", key):
            fail(f"{KEY}: should be a key as `digits keys add` shows it", code=2)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=ANSWER_SECONDS, follow_redirects=True, headers=headers)

    def ask(self, method: str, path: str, *, but: tuple[int, ...] = (), **options: Any) -> "httpx.Response":
        """The answer to a request; ``but`` are statuses that are no failure here."""
        import httpx

        try:
            answer = self._client.request(method, path if "://" in path else self._url + path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            fail(f"no answer from {self._url} ({error}): start the service with `digits up`, or name it in --url")
        problem = _find_problem(answer)
        if problem and answer.status_code not in but:
            fail(problem)
        return answer

    def look_again(self, job: Mapping[str, Any], on_trouble: Callable[[str], None]) -> Mapping[str, Any]:
        """The job as it is now. While the service does not answer, as it was; ``on_trouble`` gets the reason."""
        import httpx

        try:
            answer = self._client.get(f"{self._url}/jobs/{job['id']}")
        except httpx.TransportError as error:
            on_trouble(f"no answer ({error})")
            return job
        problem = _find_problem(answer)
        if problem and answer.status_code not in _PASSING:
            fail(problem)
        if problem:
            on_trouble(problem)
            return job
        found: dict[str, Any] = answer.json()
        return found

    def cancel_queued(self, job_id: str, keep: bool) -> "_End":
        """Cancel a job that was queued a moment ago, if that is still possible."""
        passing = HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN
        answer = self.ask("DELETE", f"/jobs/{job_id}", params={"keep": keep}, but=passing)
        if answer.is_success:
            return _End.NOW if answer.json()["ended_at"] else _End.LATER
        if answer.status_code == HTTPStatus.CONFLICT:
            return _End.BEFORE
        if _find_field(answer) == "job_id":
            return _End.NOT_OURS
        fail(str(_find_problem(answer)))

    def list_queued(self) -> Iterator[Mapping[str, Any]]:
        """Every queued job, page by page."""
        answer = self.ask("GET", "/jobs", params={"state": JobState.QUEUED.value, "limit": PAGE})
        yield from answer.json()
        while following := answer.links.get("next"):
            answer = self.ask("GET", urljoin(self._url + "/", following["url"]))
            yield from answer.json()


def _find_field(answer: "httpx.Response") -> str | None:
    """The field that a problem names; None if it names none."""
    try:
        return str(answer.json()["errors"][0]["field"])
    except (ValueError, LookupError, TypeError):
        return None


def _find_problem(answer: "httpx.Response") -> str | None:
    """What is wrong with an answer; None if it is one of this service, and good."""
    try:
        content = answer.json()
        if answer.is_success:
            return None
        return str(content["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answers {answer.status_code}: is it this service?"


def _show(display: Display, job: Mapping[str, Any]) -> None:
    if job["steps"] is None or job["state"] == JobState.QUEUED:
        place = f", place {job['queue_position']}" if job["queue_position"] else ""
        display.wait(f"{job['state']}{place}{'; no worker is alive' if job['workers'] == 0 else ''}")
        return
    has_ended = job["state"] == JobState.SUCCEEDED
    display.show(
        **{name: job[name] for name in ("epoch", "epochs", "step", "steps", "d_loss", "g_loss")},
        images_per_second=job["images_per_second"] or 0.0,
        eta_seconds=job["eta_seconds"] or 0.0,
        finished=job["epochs"] if has_ended else job["epoch"] - 1,
    )
