from pathlib import Path

import httpx

from tests.processes import running_api
from tests.versions import SHIPPED


def test_alive_and_ready(api: httpx.Client) -> None:
    assert api.get("/livez").json() == {"status": "alive"}
    answer = api.get("/readyz")
    assert answer.status_code == 200
    assert (answer.json()["redis"], answer.json()["model_dir"]) == ("ok", "ok")
    assert answer.json()["versions"]["dcgan"] == {
        "usable": len(SHIPPED["dcgan"]),
        "rejected": 0,
        "default": 1,
        "pinned": None,
        "problem": None,
    }


def test_the_api_describes_itself(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert {"/generate", "/models", "/train", "/jobs", "/jobs/{job_id}", "/livez", "/readyz"} <= set(paths)
    assert api.get("/docs").status_code == 200


def test_without_redis_pictures_are_drawn_and_training_says_what_it_needs(tmp_path: Path) -> None:
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path / "none")) as api:
        assert api.post("/generate", params={"arch": "wgan"}).status_code == 200
        assert api.get("/readyz").json()["redis"] == "not configured"
        for answer in (api.post("/train", json={"arch": "wgan"}), api.get("/jobs"), api.get("/jobs/x")):
            assert answer.status_code == 503
            assert "DIGITS_REDIS_URL" in answer.json()["detail"]
