"""How long does the API take to start with many versions, and how much memory?

For each count it starts one API process over a model directory with so many versions of dcgan. Prints the
seconds until it is ready, its memory (resident) then and after a picture of each of 200 versions, and the
milliseconds of a picture of a version on the disk and in memory (medians).

    .venv/bin/python benchmarks/serving/versions.py
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from models.manifest import FILES, MANIFEST
from models.versions import PRETRAINED

COUNTS = (0, 100, 2_000)
ASKED = 200  # versions that draw


def fill(model_dir: Path, count: int) -> None:
    """``count`` versions, with the files of the shipped one."""
    shipped = PRETRAINED / "dcgan" / "1"
    manifest = json.loads((shipped / MANIFEST).read_text())
    for version in range(2, count + 2):
        folder = model_dir / "dcgan" / str(version)
        folder.mkdir(parents=True)
        for name in FILES:
            (folder / name).symlink_to(shipped / name)
        (folder / MANIFEST).write_text(json.dumps({**manifest, "version": version}))


@contextlib.contextmanager
def serving(model_dir: Path) -> Iterator[tuple[float, psutil.Process, httpx.Client]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "DIGITS_PORT": str(port), "DIGITS_MODEL_DIR": str(model_dir)}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--processes", "1"], env=environment, stderr=subprocess.DEVNULL
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get("/readyz").raise_for_status()
                    break
                time.sleep(0.01)
            yield time.perf_counter() - began, psutil.Process(process.pid), client
        finally:
            process.terminate()
            process.wait()


def draw(client: httpx.Client, version: int) -> float:
    began = time.perf_counter()
    client.post("/generate", params={"arch": "dcgan", "n": 1, "version": version}).raise_for_status()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    print(f"{'versions':>8}{'start, s':>10}{'MB':>6}{'MB after':>10}{'disk, ms':>10}{'memory, ms':>12}")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), count)
            with serving(Path(folder)) as (seconds, process, client):
                memory = process.memory_info().rss / 1e6
                first, again = [], []
                for version in range(1, min(count, ASKED) + 1):
                    first.append(draw(client, version))
                    again.append(draw(client, version))
                after = process.memory_info().rss / 1e6
        times = f"{statistics.median(first):10.1f}{statistics.median(again):12.1f}" if first else ""
        print(f"{count:8}{seconds:10.1f}{memory:6.0f}{after:10.0f}{times}", flush=True)


if __name__ == "__main__":
    main()
