"""The log of the whole service, as JSON: Valkey, a worker with its training child, and the API."""

import json
from pathlib import Path

import pytest

from tests.system.conftest import running_service

pytestmark = pytest.mark.timeout(900)  # what a test waits for has its own patience

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_every_line_is_json_and_those_of_a_training_name_its_request(tmp_path: Path) -> None:
    with running_service(tmp_path, "few,unmeasured", DIGITS_LOG="json", DIGITS_ACCESS_LOG="true") as service:
        headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        answer = service.api.post("/train", json={"arch": "vanilla", "recipe": "book", "epochs": 1}, headers=headers)
        job_id = answer.json()["id"]
        service.wait_for(job_id, "succeeded")
        trainers = {line["process"] for line in map(json.loads, service.output.splitlines()) if "trainer" in str(line)}
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert {"app.processes.valkey", "celery.apps.worker", "uvicorn.error", "digits.access"} <= {
        line["logger"] for line in lines
    }
    facts = {"job": job_id, "request_id": "mine", "trace_id": TRACE}
    trained = [
        line for line in lines if line["process"] in trainers and line["logger"].startswith(("worker.", "models."))
    ]
    assert [line for line in trained if "succeeded" in line["message"]]
    for line in trained:
        assert facts.items() <= line.items(), line
