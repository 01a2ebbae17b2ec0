"""The objects of deploy/kubernetes, for the tests that look at them."""

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
PODS = ("Deployment", "StatefulSet")  # what makes pods

Object = dict[str, Any]


class Manifests:
    """The objects of one kustomization."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of_kind(self, *kinds: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] in kinds]

    def get(self, kind: str, name: str) -> Object:
        [found] = [one for one in self.of_kind(kind) if _cut_digest(one["metadata"]["name"]) == name]
        return found

    @property
    def pods(self) -> dict[str, Object]:
        """The template of each pod, by the name of what makes it."""
        return {one["metadata"]["name"]: one["spec"]["template"] for one in self.of_kind(*PODS)}

    def pod(self, name: str) -> Object:
        spec: Object = self.pods[name]["spec"]
        return spec

    def container(self, name: str) -> Object:
        [found] = self.pod(name)["containers"]
        return dict(found)

    def select(self, selector: Object) -> set[str]:
        """The pods that a selector of labels finds."""
        return {name for name, pod in self.pods.items() if _fits(selector, pod["metadata"]["labels"])}

    def list_ports(self, name: str) -> dict[str, int]:
        """The ports of a container, by name."""
        return {port["name"]: port["containerPort"] for port in self.container(name).get("ports", [])}

    def read_environment(self, name: str, password: str) -> dict[str, str]:
        """The environment of a container, with this password of Redis."""
        container = self.container(name)
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.get("ConfigMap", _cut_digest(source["configMapRef"]["name"]))["data"]
        for variable in container["env"]:
            value = variable.get("value", password)
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
        return found


def read_base() -> list[Object]:
    """What `kubectl kustomize` makes of the base, but for the digest in the ConfigMap's name."""
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "namespace", "resources", "images", "configMapGenerator"}
    texts = [(FOLDER / "base" / name).read_text() for name in kustomization["resources"]]
    objects = [one for text in texts for one in yaml.safe_load_all(text)]
    for generated in kustomization["configMapGenerator"]:
        data = dict(line.split("=", 1) for line in generated["literals"])
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    [image] = kustomization["images"]
    for one in objects:
        if one["kind"] in PODS:
            for container in one["spec"]["template"]["spec"]["containers"]:
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return objects


def _fits(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _cut_digest(name: str) -> str:
    """The name of a ConfigMap without what kustomize adds to it."""
    return re.sub(r"-[a-z0-9]{10}$", "", name)
