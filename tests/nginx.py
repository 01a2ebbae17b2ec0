"""A real nginx before an API, under the prefix /digits."""

import os
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
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /digits/ {{ proxy_pass http://{api}{slash}; {options} }}
    }}
}}
"""

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
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        assert not os.environ.get("CI"), "no nginx: .ci/run installs it"
        pytest.skip("no nginx")
    slash, options = kind
    port, behind = find_free_port(), f"{api.base_url.host}:{api.base_url.port}"
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, port=port, api=behind, slash=slash, options=options))
    address = f"http://127.0.0.1:{port}/digits"
    with subprocess.Popen([nginx, "-c", str(path), "-e", str(folder / "error.log")]) as process:
        try:
            with httpx.Client(base_url=address) as client:
                eventually(lambda: answers(client), "nginx and the API behind it answer")
            yield address
        finally:
            process.terminate()
