"""What OpenAPI says holds: schemathesis tries it, and a generated client works."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openapi_spec_validator
import pytest
from PIL import Image

from app.keys import Scope, add_key
from app.main import create_app
from app.settings import ApiSettings
from tests.processes import running_api

ROOT = Path(__file__).parents[2]

CLIENT_CONFIG = """
content_type_overrides:
  image/png: application/octet-stream
  text/event-stream: text/plain
"""
CLIENT = """
import sys
from digits_client import AuthenticatedClient
from digits_client.api.generate import post_generate
from digits_client.api.train import train, get_job
from digits_client.models import ArchName, DeliveryState, Job, JobState, Problem, TrainRequest, Webhook

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[3])
picture = post_generate.sync(client=client, arch=ArchName.WGAN, n=4)
open(sys.argv[2], "wb").write(picture.payload.read())
webhook = Webhook(url="https://receiver.invalid/", secret="whsec_" + 32 * "A")
job = train.sync(client=client, body=TrainRequest(arch=ArchName.VANILLA, webhook=webhook))
assert isinstance(job, Job), job
assert job.webhook.state is DeliveryState.WAITING, job
assert get_job.sync(client=client, job_id=job.id).state is JobState.QUEUED
wrong = post_generate.sync(client=client, arch=ArchName.WGAN, n=5000)
assert isinstance(wrong, Problem), wrong
assert wrong.errors[0].field == "n", wrong
missing = get_job.sync(client=client, job_id="nothing")
assert isinstance(missing, Problem) and missing.status == 404, missing
"""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("described")
    file = folder / "keys.json"
    key = add_key(file, "all", frozenset([Scope.ADMIN]))
    environment = {"DIGITS_KEYS_FILE": str(file), "DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(folder)}
    with running_api(folder, **environment) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


@pytest.mark.parametrize(
    ("phases", "found"),
    [("coverage,fuzzing", r"Tested: 29\b"), ("stateful", r"API Links: +[1-9][0-9]* covered")],
)
def test_every_operation_does_what_it_says(described: httpx.Client, tmp_path: Path, phases: str, found: str) -> None:
    """Right and wrong input, alone and in sequences: from a job to its cancellation."""
    run = subprocess.run(
        [
            Path(sys.executable).with_name("st"), "run", f"{described.base_url}/openapi.json", "--no-color",
            "--phases", phases, "--max-examples", "3", "--max-time", "30", "--seed", "1",
            "--generation-database", "none",
            "--header", f"Authorization: {described.headers['Authorization']}",
            "--request-timeout", "1",  # the events of a job that waits have no end
            "--exclude-checks", "use_after_free",  # DELETE cancels a job, which can be looked at for 30 days
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.app.schema_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-10_000:]
    assert re.search(found, run.stdout), run.stdout


def test_a_generated_client_works(described: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CLIENT_CONFIG)
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "openapi.json").write_text(described.get("/openapi.json").text)
    python = Path(sys.executable)
    generate: list[str | Path] = [python.with_name("openapi-python-client"), "generate", "--path", "openapi.json"]
    options = ["--config", "config.yaml", "--meta", "none", "--output-path", "digits_client"]
    made = subprocess.run([*generate, *options], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout
    assert "WARNING" not in made.stdout, made.stdout
    picture = tmp_path / "picture.png"
    token = described.headers["Authorization"].removeprefix("Bearer ")
    subprocess.run([python, "client.py", str(described.base_url), str(picture), token], cwd=tmp_path, check=True)
    with Image.open(picture) as image:
        assert image.size == (58, 58)


def test_the_description_is_one(described: httpx.Client) -> None:
    schema = described.get("/openapi.json").json()
    openapi_spec_validator.validate(schema)
    told = schema["webhooks"]["job.ended"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert told == {"$ref": "#/components/schemas/Told"}


def test_every_operation_names_its_answers(tmp_path: Path) -> None:
    """A new route cannot forget the problems that any request may get."""
    schema = create_app(ApiSettings(model_dir=tmp_path, device="cpu")).openapi()
    problem = {"$ref": "#/components/schemas/Problem"}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert {"400", "408", "413", "414", "421", "422", "431", "500", "503"} <= set(operation["responses"]), (
                method,
                path,
            )
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                    assert answer["content"] == {"application/problem+json": {"schema": problem}}, (method, path)
    assert "HTTPValidationError" not in str(schema)


@pytest.mark.parametrize(
    "name",
    ["Job", "Version", "VersionDetail", "Manifest", "FileSum", "Readiness", "Versions", "Queue", "Default", "Choice"],
)
def test_every_field_is_described(described: httpx.Client, name: str) -> None:
    schema = described.get("/openapi.json").json()["components"]["schemas"][name]
    assert [field for field, facts in schema["properties"].items() if not facts.get("description")] == []
