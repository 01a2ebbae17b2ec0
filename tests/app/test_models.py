import httpx

from models import classifier
from models.archs import ARCHS


def test_models_lists_every_version_and_which_one_answers(api: httpx.Client) -> None:
    listed = api.get("/models").json()
    assert {item["arch"] for item in listed} == set(ARCHS)
    for arch in ARCHS:
        (default,) = [item for item in listed if item["arch"] == arch and item["default"]]
        assert (default["state"], default["source"]) == ("loaded", "shipped")
        assert default["recipe"] == "tuned"
        assert default["epochs"] > 0


def test_every_shipped_version_has_its_metrics_beside_the_floors(api: httpx.Client) -> None:
    for item in api.get("/models").json():
        assert list(item["metrics"]) == list(item["floors"]) == list(classifier.facts().floors)
        assert item["metrics"]["fid"] > item["floors"]["fid"]
        assert item["metrics"]["precision"] < 1


def test_the_versions_of_one_architecture(api: httpx.Client) -> None:
    assert {item["arch"] for item in api.get("/models/wgan").json()} == {"wgan"}


def test_a_version_shows_its_manifest(api: httpx.Client) -> None:
    detail = api.get("/models/wgan/1").json()
    assert detail["manifest"]["recipe"]["sigmoid"] is False
    assert detail["manifest"]["latent_shape"] == [100, 1, 1]
    assert detail["manifest"]["command"].startswith("digits train --arch wgan")
    (default,) = [item for item in api.get("/models/wgan").json() if item["default"]]
    assert api.get("/models/wgan/latest").json()["version"] == default["version"]  # none was trained here
