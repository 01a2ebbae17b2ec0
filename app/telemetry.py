"""What this process counts and measures, for ``/metrics``.

The numbers go to the folder of ``app.processes.metrics_folder``, from which any process renders those of all.
Must not know of Redis: what the jobs do is told at the time of a scrape, by ``app.families``.
"""

import asyncio
import contextlib
import os
import re
import time
from bisect import bisect_left
from collections import Counter as Count
from collections import defaultdict, deque
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.engine import Engine
from app.errors import UnavailableError
from app.events import Feeds
from app.generators import Generators
from models.archs import ARCHS
from models.inference import BATCH

LOOK_SECONDS = 1.0  # between two looks at what changes by itself
SETTLE_SECONDS = 0.01  # from the first of some requests until all of them are counted

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # a digit takes 1 ms, a large grid 1 s
_IMAGES = (1, 2, 4, 8, 16, BATCH)
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_OTHER = "other"
_REFUSALS = (400, 408, 414, 431, 503)  # of app.processes.protocol

_count = partial(Counter, registry=None)  # in no registry: MultiProcessCollector reads the files
_gauge = partial(Gauge, registry=None, multiprocess_mode="livesum")  # the sum over the processes that are alive

_ARCH = "|".join(ARCHS)
_IN_QUERY = re.compile(rf"(?:^|&)arch=({_ARCH})(?:&|$)".encode())
_IN_PATH = re.compile(rf"/({_ARCH})(?:/|$)")


class _Histogram(Histogram):
    """A histogram that takes many values at once: one by one, they cost each request for a small picture 2 % more.

    The library has no name for this, so it adds to the parts of the library's histogram.
    """

    def add(self, values: list[float]) -> None:
        bounds: list[float] = self._upper_bounds
        for index, count in Count(bisect_left(bounds, value) for value in values).items():
            self._buckets[index].inc(count)
        self._sum.inc(sum(values))


class Telemetry:
    """The metrics of this process. All but :meth:`count_pass` is for the event loop alone."""

    def __init__(self) -> None:
        # What is still to be counted: what was told of requests, and of passes.
        self._answered: list[tuple[str, str, int, str, bytes, float]] = []
        self._drawn: deque[tuple[str, int]] = deque()
        self._requests = _Histogram(
            "digits_http_request_duration_seconds",
            "From a request until its answer begins. Its count is the number of requests.",
            ("route", "method", "status", "arch"),
            buckets=_SECONDS,
            registry=None,
        )
        refusals = _count("digits_http_refusals_total", "Answers to what never became a request.", ("status",))
        self.refusals = {status: refusals.labels(status) for status in _REFUSALS}
        self.connections = _gauge("digits_http_connections", "Open connections.")
        self.crowded_out = _count(
            "digits_http_connections_crowded_out_total",
            "Connections that were closed or refused because all places were taken.",
        )
        self._passes = _Histogram(
            "digits_engine_pass_images", "Images of a pass of the engine.", buckets=_IMAGES, registry=None
        )
        images = _count("digits_images_drawn_total", "Images that generators have drawn.", ("arch",))
        self._images = {arch: images.labels(arch) for arch in ARCHS}
        self._waiting_requests = _gauge("digits_engine_waiting_requests", "Requests to the engine without an answer.")
        self._waiting_images = _gauge("digits_engine_waiting_images", "Images of these requests.")
        loaded = _gauge("digits_versions_loaded", "Versions in memory, of all processes together.", ("arch",))
        self._loaded = {arch: loaded.labels(arch) for arch in ARCHS}
        self._feeds = _gauge("digits_event_feeds", "Jobs whose events are followed, of each process.")
        self._followers = _gauge("digits_event_followers", "Streams of events under way.")
        self._processes = _gauge("digits_api_processes", "API processes that are alive.")
        self._memory = _gauge(
            "digits_api_resident_memory_bytes", "Memory of the API processes; what they share counts for each."
        )
        self._cpu = _count("digits_api_cpu_seconds_total", "CPU time of the API processes, user and system.")
        self._cpu_until_now = 0.0

    def count_request(self, route: str, method: str, status: int, path: str, query: bytes, seconds: float) -> None:
        """Count a request whose answer begins now. ``route``: the template of its path; empty if there is none."""
        if not self._answered:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.settle)
        self._answered.append((route, method, status, path, query, seconds))

    def count_pass(self, arch: str, images: int) -> None:
        """Count the images of a pass that has been drawn. For any thread."""
        self._drawn.append((arch, images))

    def settle(self) -> None:
        """Put what was counted where every process sees it."""
        answered, self._answered = self._answered, []
        by_labels = defaultdict(list)
        for route, method, status, path, query, seconds in answered:
            known = method if method in _METHODS else _OTHER  # a client could make up any
            by_labels[route or _OTHER, known, status, _find_arch(route, path, query)].append(seconds)
        for labels, values in by_labels.items():
            self._requests.labels(*labels).add(values)
        passes = [self._drawn.popleft() for _ in range(len(self._drawn))]
        self._passes.add([images for _, images in passes])
        for arch in {arch for arch, _ in passes}:
            self._images[arch].inc(sum(images for one, images in passes if one == arch))

    def look(self, engine: Engine, generators: Generators, feeds: Feeds | None) -> None:
        """Note what changes by itself, and the passes of no request."""
        self.settle()
        requests, images = engine.count_waiting()
        self._waiting_requests.set(requests)
        self._waiting_images.set(images)
        loaded = Count(entry.arch for entry in generators.entries if entry.loaded)
        for arch, gauge in self._loaded.items():
            gauge.set(loaded[arch])
        followed, followers = feeds.count() if feeds else (0, 0)
        self._feeds.set(followed)
        self._followers.set(followers)
        self._processes.set(1)
        self._memory.set(_read_memory())
        cpu = time.process_time()
        self._cpu.inc(cpu - self._cpu_until_now)
        self._cpu_until_now = cpu


def render(accept: str, families: Collector) -> tuple[bytes, str]:
    """The metrics of all processes and ``families``, in the format that ``Accept`` asks for, and its media type.

    Raises:
        UnavailableError: somebody has removed the folder.
    """
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise UnavailableError("the folder of the counts was removed: start the service again") from error
    registry.register(families)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def _find_arch(route: str, path: str, query: bytes) -> str:
    """The architecture that a request to a route names; empty if it names none."""
    if route and (in_query := _IN_QUERY.search(query)):
        return in_query[1].decode()
    in_path = _IN_PATH.search(path) if "{arch}" in route else None
    return in_path[1] if in_path else ""


def _read_memory() -> int:
    """The resident memory of this process in bytes; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
