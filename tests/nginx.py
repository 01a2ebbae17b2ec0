"""A real nginx before an API, under the prefix /digits."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.processes.valkey import find_free_port
from tests.processes import answers, eventually

CONFIGURATION = """
daemon off;
{user}
worker_processes auto;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{http}
}}
"""

SERVER = "server {{ listen 127.0.0.1:{port}; location /digits/ {{ proxy_pass http://{api}{slash}; {options} }} }}"

CACHE = (Path(__file__).parents[1] / "deploy" / "nginx" / "digits.conf").read_text()

# As the last comment of it says, everybody may follow trainings.
OPENED = (
    ("~ ^/(models|docs|static)(", "~ ^/(models|docs|static|training|jobs)("),
    ("((arch|version|lang)=", "((arch|version|lang|job)="),
)

# The prefix is taken away or left there; the name of the site is told or not.
KINDS = {
    "taken": ("/", ""),
    "left": ("", ""),
    "told": ("/", "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"),
}

# The proxy says that the connection to it is safe, and whose it is.
SECURE = ("/", "proxy_set_header X-Forwarded-For 192.0.2.7; proxy_set_header X-Forwarded-Proto https;")


@contextmanager
def running_nginx(folder: Path, api: httpx.Client, kind: tuple[str, str]) -> Iterator[str]:
    """Run it as a value of ``KINDS`` says; yields the address of the API behind it."""
    slash, options = kind
    port, behind = find_free_port(), f"{api.base_url.host}:{api.base_url.port}"
    with running(folder, SERVER.format(port=port, api=behind, slash=slash, options=options)):
        address = f"http://127.0.0.1:{port}/digits"
        with httpx.Client(base_url=address) as client:
            eventually(lambda: answers(client), "nginx and the API behind it answer")
        yield address


def configure_cache(folder: Path, port: int, api: str, prefix: str = "", *, shows_jobs: bool = False) -> str:
    """``deploy/nginx/digits.conf`` on this port, before an API at this address, with what it keeps in ``folder``.

    ``shows_jobs``: with ``OPENED``.
    """
    text = CACHE
    for old, new in (
        ("/var/cache/nginx/digits", str(folder)),
        ("server 127.0.0.1:8000;", f"server {api};"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        *(OPENED if shows_jobs else ()),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return re.sub(r"location (= |~ \^)?/", rf"location \1{prefix}/", text)


@contextmanager
def running(folder: Path, http: str) -> Iterator[None]:
    """Run it with this configuration inside of ``http {}``."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        assert not os.environ.get("CI"), "no nginx: .ci/run installs it"
        pytest.skip("no nginx")
    path = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers have another user, who cannot use the folder
    path.write_text(CONFIGURATION.format(folder=folder, http=http, user=user))
    with subprocess.Popen([nginx, "-c", str(path), "-e", str(folder / "error.log")]) as process:
        try:
            yield
        finally:
            process.terminate()
