import base64
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError, RedisError

from tests.processes import running_valkey
from worker.broker import Publisher, make_celery
from worker.connections import connect
from worker.jobs import JobStore


def test_the_options_of_the_queue() -> None:
    conf = make_celery("redis://127.0.0.1:1/0", 1.0).conf
    assert conf.task_serializer == "json"
    assert conf.accept_content == ["json"]
    assert conf.task_acks_late is False
    assert conf.task_ignore_result is True
    assert conf.worker_pool == "prefork"
    assert conf.worker_concurrency == 1
    assert conf.worker_pool_start_method == "spawn"
    assert conf.worker_proc_alive_timeout == 120
    assert conf.worker_max_tasks_per_child == 1
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch is True


def test_the_broker_of_the_environment_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:2/9")
    celery = make_celery("redis://127.0.0.1:1/0", 1.0)
    for connection in (celery.connection_for_write(), celery.connection_for_read()):
        assert connection.as_uri() == "redis at 127.0.0.1:1, database 0"
        with pytest.raises(ConnectionError, match="Error"):
            connection.connect()


def test_the_message_is_the_id_of_the_job_as_json(store: JobStore, valkey_url: str) -> None:
    publisher = Publisher(valkey_url)
    publisher.wake("the-id")
    publisher.close()
    (raw,) = connect(valkey_url).lrange("digits:broker:digits", 0, -1)
    message = json.loads(raw)
    assert message["content-type"] == "application/json"

    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    assert (arguments, keywords) == (["the-id"], {})


def test_the_parent_processes_do_not_import_torch() -> None:
    """Of a worker, and of the API: `digits serve` with several processes, and `digits up`."""
    parents = "app.cli, app.processes.serving, app.processes.up, models.device, worker.tasks"
    check = f"import sys, {parents}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("state", ["refused", "frozen"])
def test_a_broker_that_is_away_is_an_error_within_three_seconds(tmp_path: Path, state: str) -> None:
    with running_valkey(tmp_path) as (server, url):
        publisher, store = Publisher(url), JobStore(connect(url))
        publisher.wake("before")  # its connections are open: the harder case
        store.probe()
        assert server.process is not None
        if state == "frozen":
            server.process.send_signal(signal.SIGSTOP)
        else:
            server.process.kill()
            server.process.wait()
        began = time.monotonic()
        with pytest.raises(RedisError):
            store.probe()
        with pytest.raises(OperationalError):
            publisher.wake("after")
        assert time.monotonic() - began < 3
        with pytest.raises(OperationalError):
            Publisher(url).wake("on a new connection")
        publisher.close()


def test_importing_the_api_registers_no_task_and_no_hook() -> None:
    check = """
import sys
from celery import Celery, signals
import app.main, app.cli
hooks = [name for name in vars(signals) if getattr(getattr(signals, name), "receivers", None)]
own = [name for name in Celery(set_as_current=False).tasks if not name.startswith("celery.")]
sys.exit(str(hooks + own) if hooks + own or "worker.tasks" in sys.modules else 0)
"""
    result = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
