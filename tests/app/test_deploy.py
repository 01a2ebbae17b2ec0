"""The dashboard, the alerts and the documents name what a running service exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.app.scraped import Scrape
from tests.processes import running_api, running_valkey
from worker.connections import connect
from worker.jobs import JobStore, TrainRequest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "digits.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """A scrape of a service that has drawn a picture, while a job runs of which all is known."""
    folder = tmp_path_factory.mktemp("deploy")
    with (
        running_valkey(folder) as (_, url),
        running_api(folder, DIGITS_REDIS_URL=url, DIGITS_MODEL_DIR=str(folder)) as client,
    ):
        store = JobStore(connect(url))
        claim = store.claim(store.create(TrainRequest.model_validate({"arch": "wgan"}))[0].id, "worker")
        assert claim
        store.report(claim, {"epoch": 1, "images_per_second": 1, "eta_seconds": 1, "d_loss": 1, "g_loss": 1})
        client.post("/generate?arch=wgan").raise_for_status()
        yield Scrape.of(client)


def find_names(text: str) -> set[str]:
    return set(re.findall(r"\bdigits_[a-z_]+", text))


def test_every_metric_of_the_dashboard_is_exported(told: Scrape) -> None:
    named = find_names(" ".join(EXPRESSIONS))
    assert len(named) > 20
    assert named - told.names == set()


def test_every_metric_of_the_alerts_is_exported(told: Scrape) -> None:
    named = find_names(" ".join(rule["expr"] for rule in RULES))
    assert len(named) > 8
    assert named - told.names == set()


def test_every_metric_is_described_in_the_documents_and_on_the_dashboard(told: Scrape) -> None:
    table = (ROOT / "docs" / "running.md").read_text()
    exported = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told.names}
    assert {name for name in exported if f"`{name.removeprefix('digits_')}`" not in table} == set()
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in find_names(" ".join(EXPRESSIONS))}
    assert exported - shown == set()


def test_every_label_of_the_expressions_is_one_of_its_metric(told: Scrape) -> None:
    """What a selector asks of a label; the names after ``by`` are checked by eye."""
    labels: dict[str, set[str]] = {}
    for name, found, _ in told.samples:
        labels.setdefault(name, {"instance", "job"}).update(found)
    text = "\n".join([*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
    selectors = re.findall(r"(digits_\w+)\{([^}]*)\}", text)
    assert selectors
    for name, selector in selectors:
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= labels[name], (name, selector)


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 39  # of Grafana 11
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_the_rules_have_the_shape_of_alerts() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 8
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert set(rule["annotations"]) == {"summary", "description"}, rule


def test_prometheus_is_told_where_the_rules_and_the_metrics_are() -> None:
    settings = yaml.safe_load(ALERTS.with_name("prometheus.yml").read_text())
    assert settings["rule_files"] == [ALERTS.name]
    (scrape,) = settings["scrape_configs"]
    assert (scrape["job_name"], scrape["metrics_path"]) == ("digits", "/metrics")
    assert scrape["authorization"]["credentials_file"]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool (Debian: apt install prometheus)")
    return found


def test_the_alerts_fire_when_they_should(promtool: str) -> None:
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(Path(__file__).with_name("alerts.yml"))]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load(Path(__file__).with_name("alerts.yml").read_text())["tests"]
    firing = {one["alertname"] for test in tried for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert firing == {rule["alert"] for rule in RULES}


def test_prometheus_understands_the_dashboard(promtool: str, tmp_path: Path) -> None:
    texts = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in EXPRESSIONS]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
