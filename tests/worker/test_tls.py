"""Redis over TLS: whoever is at the other end must prove its name before it hears the password."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.processes.valkey import find_free_port
from tests.processes import eventually, running
from worker.broker import Publisher
from worker.connections import connect
from worker.jobs import JobStore
from worker.settings import Settings

PASSWORD = "open-sesame"


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for ``name``, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


class Listener:
    """Pretends to be the server, and notes all that it hears."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.sent = b""  # as it came
        self.heard = b""  # decrypted
        self.connections = 0
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            self.connections += 1
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.sent += connection.recv(1000, socket.MSG_PEEK)
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self.heard += secure.recv(1000)
            except OSError:
                pass


@pytest.fixture(params=["foreign", "another name"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """Its certificate is not signed by anyone known, or it is, but for another name."""
    certificate, key = make_certificate(tmp_path, "localhost" if request.param == "foreign" else "other.example")
    if request.param == "another name":
        monkeypatch.setenv("DIGITS_REDIS_CA", str(certificate))
    return Listener(certificate, key)


@pytest.mark.parametrize(
    "url",
    [
        f"rediss://:{PASSWORD}@localhost:{{port}}/0",
        f"rediss+sentinel://localhost:{{port}}/main?sentinel_password={PASSWORD}",
    ],
)
def test_a_server_that_proves_nothing_hears_no_password(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DIGITS_REDIS_URL", url.format(port=listener.port))
    url = Settings().require_redis()
    with pytest.raises(RedisError):
        connect(url).ping()
    with pytest.raises(OperationalError):
        Publisher(url).wake("job")
    before = listener.connections
    environment = {name: value for name, value in os.environ.items() if name.startswith("DIGITS_")}
    with running(tmp_path, "worker", DIGITS_MODEL_DIR=str(tmp_path), **environment) as worker:
        assert worker.popen.wait(60) == 1
        assert listener.connections > before
        assert "its certificate is of an unknown authority" in worker.output
        assert PASSWORD not in worker.output
    assert listener.heard == b""
    assert PASSWORD.encode() not in listener.sent


@pytest.fixture(params=["rediss", "rediss+sentinel"])
def secure_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Redis with TLS, a certificate of an authority of its own, and a password; alone, or behind a sentinel."""
    server = shutil.which("redis-server")
    if server is None:
        assert not os.environ.get("CI"), "no redis-server: .ci/run installs it"
        pytest.skip("no redis-server")
    certificate, key = make_certificate(tmp_path, "localhost")
    port, sentinel_port = find_free_port(), find_free_port()
    tls = f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {certificate}\ntls-auth-clients no\n"
    common = f'port 0\n{tls}tls-replication yes\nrequirepass {PASSWORD}\nsave ""\ndir {tmp_path}\n'
    (tmp_path / "redis.conf").write_text(f"tls-port {port}\n{common}")
    (tmp_path / "sentinel.conf").write_text(
        f"tls-port {sentinel_port}\n{common}sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        f"sentinel monitor main localhost {port} 1\nsentinel auth-pass main {PASSWORD}\n"
    )
    login = f"{request.param}://:{PASSWORD}@localhost"
    is_watched = request.param == "rediss+sentinel"
    url = f"{login}:{sentinel_port}/main?sentinel_password={PASSWORD}" if is_watched else f"{login}:{port}/0"
    commands = [[server, "redis.conf"], [server, "sentinel.conf", "--sentinel"]][: 1 + is_watched]
    with ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL))
            stack.callback(process.terminate)
        monkeypatch.setenv("DIGITS_REDIS_CA", str(certificate))
        monkeypatch.setenv("DIGITS_REDIS_URL", url)
        eventually(lambda: _answers(Settings().require_redis()), "it answers")
        yield Settings().require_redis()


def _answers(url: str) -> bool:
    try:
        return bool(connect(url).ping())
    except RedisError:
        return False


def test_a_server_with_a_certificate_of_the_named_authority_is_used(secure_url: str, tmp_path: Path) -> None:
    """By a worker, too: it takes the wake-up."""
    publisher = Publisher(secure_url)
    publisher.wake("unknown")
    assert publisher.count_waiting() == 1
    environment = {name: value for name, value in os.environ.items() if name.startswith("DIGITS_")}
    with running(tmp_path, "worker", DIGITS_MODEL_DIR=str(tmp_path), **environment) as worker:
        eventually(lambda: publisher.count_waiting() == 0, f"it takes the message:\n{worker.output}")
    assert JobStore(connect(secure_url)).list_newest(1) == []


def test_a_file_of_no_certificates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "missing.pem", Path(__file__)):
        monkeypatch.setenv("DIGITS_REDIS_CA", str(path))
        with pytest.raises(ValueError, match="certificates in PEM"):
            Settings()
