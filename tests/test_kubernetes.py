"""The manifests in deploy/kubernetes are valid, and fit together, the code and the README."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from app.cli import cli
from app.dependencies import ANSWER_SECONDS
from app.processes.serving import GRACE_SECONDS
from app.settings import ApiSettings
from tests.manifests import FOLDER, PODS, Manifests, Object, read_base
from worker.tasks import DRAIN_SECONDS

ROOT = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text()
COMMANDS = set(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
RELEASES = ("1.29", "1.37")  # of Kubernetes: the oldest that the README names, and the newest with schemas here


@pytest.fixture(scope="module", params=["files", "base", "gpu"])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """The base as its files say; base and gpu as kubectl makes them."""
    if request.param == "files":
        return Manifests(read_base())
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl")
    command = ["kubectl", "kustomize", str(FOLDER / request.param)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return Manifests(list(yaml.safe_load_all(text)))


def test_every_file_is_used() -> None:
    for folder in ("base", "gpu"):
        kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
        used = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
        assert used - {"../base"} == {path.name for path in (FOLDER / folder).iterdir()} - {"kustomization.yaml"}
    for path in (FOLDER / "prometheus").iterdir():
        assert f"deploy/kubernetes/prometheus/{path.name}" in README


@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_valid(manifests: Manifests, release: str) -> None:
    assert len(manifests.objects) > 15
    for one in manifests.objects:
        kubernetes_validate.validate(one, release, strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"sessionAffinty": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, RELEASES[0], strict=True)


def test_no_container_has_rights(manifests: Manifests) -> None:
    assert set(manifests.pods) == {"api", "worker", "redis"}
    for name in manifests.pods:
        spec, container = manifests.pod(name), manifests.container(name)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert manifests.get("Namespace", "digits")["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }


def test_the_user_is_that_of_the_image(manifests: Manifests) -> None:
    [number] = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
    for name in ("api", "worker"):
        context = manifests.pod(name)["securityContext"]
        assert context["runAsUser"] == context["fsGroup"] == int(number)


def test_containers_run_commands_of_digits(manifests: Manifests) -> None:
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, command in (("api", "serve"), ("worker", "worker")):
        container = manifests.container(name)
        assert container["args"] == [command]
        assert command in COMMANDS
        assert re.fullmatch(rf"registry\.example\.org/digits:{re.escape(release)}(-cuda)?", container["image"])
        assert f"-t {container['image']} " in README


def test_every_setting_exists_and_can_work(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("api", "worker"):
        environment = manifests.read_environment(name, password="secret")
        assert {key for key in environment if key.startswith("DIGITS_")} <= set(ApiSettings.list_names())
        with monkeypatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            assert "redis:6379" in ApiSettings().require_redis()
        assert manifests.pod(name)["enableServiceLinks"] is False  # else a Service sets names such as DIGITS_PORT


def test_a_variable_stands_after_those_that_it_names(manifests: Manifests) -> None:
    for name in manifests.pods:
        known: set[str] = set()
        container = manifests.container(name)
        for variable in container["env"]:
            assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known
            known.add(variable["name"])
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= known


def test_every_volume_is_there(manifests: Manifests) -> None:
    claims = {claim["metadata"]["name"]: claim for claim in manifests.of_kind("PersistentVolumeClaim")}
    for name in manifests.pods:
        [owner] = [one for one in manifests.of_kind(*PODS) if one["metadata"]["name"] == name]
        spec = manifests.pod(name)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        claimed = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in manifests.container(name)["volumeMounts"]} == {*volumes, *claimed}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert claims[volume["persistentVolumeClaim"]["claimName"]]["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("api", "worker"):
        mounts = {mount["mountPath"]: mount for mount in manifests.container(name)["volumeMounts"]}
        assert mounts["/models"]["name"] == "models"  # DIGITS_MODEL_DIR of the image
    assert "DIGITS_MODEL_DIR=/models" in (ROOT / "Dockerfile").read_text()


def test_the_keys_file_is_in_the_secret(manifests: Manifests) -> None:
    path = Path(manifests.read_environment("api", password="")["DIGITS_KEYS_FILE"])
    [mount] = [one for one in manifests.container("api")["volumeMounts"] if one["mountPath"] == str(path.parent)]
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # such a file never changes
    [volume] = [one for one in manifests.pod("api")["volumes"] if one["name"] == mount["name"]]
    assert path.name in _list_secrets()[volume["secret"]["secretName"]]


def test_the_readme_makes_every_secret(manifests: Manifests) -> None:
    secrets = _list_secrets()
    for name in manifests.pods:
        for variable in manifests.container(name)["env"]:
            if "valueFrom" in variable:
                wanted = variable["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in secrets[wanted["name"]]
    monitor = yaml.safe_load((FOLDER / "prometheus" / "podmonitor.yaml").read_text())
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"]["key"] in secrets[endpoint["authorization"]["credentials"]["name"]]
    assert manifests.select(monitor["spec"]["selector"]) == {"api"}
    [tls] = manifests.get("Ingress", "api")["spec"]["tls"]
    assert f"create secret tls {tls['secretName']} " in README


def test_selectors_and_ports_fit(manifests: Manifests) -> None:
    for one in manifests.of_kind(*PODS):
        assert manifests.select(one["spec"]["selector"]) == {one["metadata"]["name"]}
    for service in manifests.of_kind("Service"):
        [port] = service["spec"]["ports"]
        [pod] = manifests.select({"matchLabels": service["spec"]["selector"]})
        assert port["targetPort"] in manifests.list_ports(pod)
    for budget in manifests.of_kind("PodDisruptionBudget"):
        assert manifests.select(budget["spec"]["selector"]) == {budget["metadata"]["name"]}
    for scaler in manifests.of_kind("HorizontalPodAutoscaler"):
        target = manifests.get("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
    for spread in manifests.pod("api")["topologySpreadConstraints"]:
        assert manifests.select(spread["labelSelector"]) == {"api"}
    assert "DIGITS_PORT=8000" in (ROOT / "Dockerfile").read_text()
    assert manifests.list_ports("api") == {"http": 8000}


def test_the_ingress_leads_to_the_api_under_its_name(manifests: Manifests) -> None:
    spec = manifests.get("Ingress", "api")["spec"]
    [rule], [tls] = spec["rules"], spec["tls"]
    assert [rule["host"]] == tls["hosts"]
    assert rule["host"] in manifests.read_environment("api", password="")["DIGITS_ALLOWED_HOSTS"].split(",")
    [path] = rule["http"]["paths"]
    backend = path["backend"]["service"]
    [port] = manifests.get("Service", backend["name"])["spec"]["ports"]
    assert backend["port"]["name"] == port["name"]


def test_only_who_must_reaches_a_pod(manifests: Manifests) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in manifests.of_kind("NetworkPolicy")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    into: dict[str, list[tuple[set[str], Object]]] = {name: [] for name in manifests.pods}
    out: dict[str, list[Object]] = {name: [] for name in manifests.pods}
    for policy in policies.values():
        for pod in manifests.select(policy["podSelector"]):
            for rule in policy.get("ingress", []):
                assert {port["port"] for port in rule["ports"]} <= set(manifests.list_ports(pod))
                into[pod] += [(_find_peers(manifests, peer), peer) for peer in rule["from"]]
            out[pod] += [{**peer, "ports": rule["ports"]} for rule in policy.get("egress", []) for peer in rule["to"]]
    assert [peers for peers, _ in into["redis"]] == [{"api", "worker"}]
    assert into["worker"] == []
    assert [set(peer) for _, peer in into["api"]] == [{"namespaceSelector"}] * 2  # never from everywhere
    for name, peers in out.items():
        names, *others = sorted(peers, key=lambda peer: "namespaceSelector" not in peer)
        assert {port["port"] for port in names["ports"]} == {53}
        assert [_find_peers(manifests, peer) for peer in others] == ([] if name == "redis" else [{"redis"}])


def test_pods_have_the_time_that_they_need_to_end(manifests: Manifests) -> None:
    api = manifests.pod("api")
    pause = int(manifests.container("api")["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pause + GRACE_SECONDS < api["terminationGracePeriodSeconds"]
    assert manifests.pod("worker")["terminationGracePeriodSeconds"] > DRAIN_SECONDS + 10
    assert manifests.get("Deployment", "api")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_probes_wait_long_enough(manifests: Manifests) -> None:
    container = manifests.container("api")
    assert container["readinessProbe"]["timeoutSeconds"] > ANSWER_SECONDS  # for a Redis that is silent
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert not {"livenessProbe", "readinessProbe"} & set(manifests.container("worker"))  # it listens nowhere


def test_the_api_counts_its_cores_by_the_limit(manifests: Manifests) -> None:
    resources = manifests.container("api")["resources"]
    assert resources["limits"]["cpu"] == resources["requests"]["cpu"] == "2"


def _find_peers(manifests: Manifests, peer: Object) -> set[str]:
    """The pods of this namespace that a peer of a policy means."""
    return set() if "namespaceSelector" in peer else manifests.select(peer["podSelector"])


def _list_secrets() -> dict[str, set[str]]:
    """The Secrets that the commands of the README make, and the keys of each."""
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"create secret generic (\S+) (.*)", README):
        found.setdefault(name, set()).update(re.findall(r"--from-(?:literal|file)=([\w.-]+)", rest))
    return found
