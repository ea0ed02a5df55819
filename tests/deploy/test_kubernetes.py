"""The manifests for Kubernetes: valid by its schemas, and in agreement with the service and with each other."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.29", "1.31", "1.33"]


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


KUSTOMIZATION = read("kustomization.yaml")[0]
MANIFESTS = [manifest for name in KUSTOMIZATION["resources"] for manifest in read(name)]


def find(kind: str, name: str = "vampprior") -> dict[str, Any]:
    (found,) = [item for item in MANIFESTS if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


POD = find("Deployment")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SETTINGS: dict[str, str] = find("ConfigMap")["data"]


def test_every_file_is_a_resource() -> None:
    files = {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_manifests_fit_the_schemas_of_kubernetes(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_refuse_a_field_that_there_is_not() -> None:
    wrong = yaml.safe_load((FOLDER / "service.yaml").read_text(encoding="utf-8"))
    wrong["spec"]["port"] = 80
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_settings_are_settings_of_the_service() -> None:
    secrets = {variable["name"]: "k" for variable in CONTAINER["env"]}
    values = {name.removeprefix("VAMP_").lower(): value for name, value in (SETTINGS | secrets).items()}
    assert set(values) <= set(Settings.model_fields)
    Settings(**values)  # type: ignore[arg-type]


def test_a_pod_has_time_to_drain() -> None:
    needed = float(SETTINGS["VAMP_DRAIN_SECONDS"]) + float(SETTINGS["VAMP_SHUTDOWN_SECONDS"])
    assert needed < POD["terminationGracePeriodSeconds"]


def test_there_are_as_many_workers_as_cpus() -> None:
    assert SETTINGS["VAMP_WORKERS"] == CONTAINER["resources"]["requests"]["cpu"]


def test_probes_ask_what_the_service_answers() -> None:
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": Settings.model_fields["port"].default}]


def test_selectors_find_the_pods() -> None:
    for name in ("vampprior", "redis"):
        deployment = find("Deployment", name)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"].items() <= labels.items()
        assert find("Service", name)["spec"]["selector"].items() <= labels.items()
        policy = find("NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert find("PodDisruptionBudget")["spec"]["selector"] == find("Deployment")["spec"]["selector"]
    assert find("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "vampprior"


def test_no_container_may_do_more_than_it_needs() -> None:
    for name in ("vampprior", "redis"):
        pod = find("Deployment", name)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context["allowPrivilegeEscalation"]
            assert "memory" in container["resources"]["limits"]


def test_redis_is_the_one_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["redis"]
    (container,) = find("Deployment", "redis")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == compose["image"]
    assert [*container["command"], *container["args"]] == shlex.split(compose["command"])
    assert SETTINGS["VAMP_CACHE_URL"] == f"redis://redis:{container['ports'][0]['containerPort']}/0"


def test_the_user_is_the_one_of_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"USER {POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" in dockerfile
