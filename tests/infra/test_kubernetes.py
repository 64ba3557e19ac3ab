"""The Kubernetes manifests: valid by the API's schemas, whole, and about the same names as the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.infra.command_lines import INFRA, KNOWN, parse

from stepmesh_broker.nats.streams import Names
from stepmesh_broker.protocol.ids import Namespace

KUBERNETES = INFRA / "kubernetes"
VERSION = "1.34"
POOL_PATH = "/api/v1/pools/"
"""Of the gateway, for a pool's scaler: here, and in the scalers."""
SECRET = {"orchestrator", "gateway", "journal", "store", "worker-cpu", "worker-gpu"}


def manifests(folder: str) -> list[dict[str, Any]]:
    """What a kustomization lists, in order."""
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    files = [KUBERNETES / folder / name for name in listed if name.endswith(".yaml")]
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


BASE = manifests("base")
PODS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in BASE if one["kind"] in ("Deployment", "StatefulSet")}
SCALERS = {(folder, one["metadata"]["name"]): one for folder in ("keda-nats", "keda-kafka") for one in manifests(folder)}


def identified(one: dict[str, Any]) -> str:
    return f"{one['kind']}-{one['metadata']['name']}"


@pytest.mark.parametrize("manifest", BASE, ids=identified)
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_schemas_are_checked() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**BASE[0], "automountServiceAccountTokken": True}, VERSION, strict=True)


@pytest.mark.parametrize("folder", ["base", "keda-nats", "keda-kafka"])
def test_every_file_is_listed(folder: str) -> None:
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    files = {file.name for file in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {name for name in listed if name.endswith(".yaml")}
    assert all((KUBERNETES / folder / name).exists() for name in listed)


@pytest.mark.parametrize("name", [name for name in PODS if PODS[name]["containers"][0]["args"][0] in KNOWN])
def test_a_container_is_started_as_the_program_wants_it(name: str) -> None:
    (container,) = PODS[name]["containers"]
    parse(container["args"])
    for probe in ("startupProbe", "readinessProbe"):
        command = container.get(probe, {}).get("exec", {}).get("command")
        if command:
            assert command[0] == "stepmesh"
            parse(command[1:])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_few_rights_and_time_to_end(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["enableServiceLinks"] is False  # a service named stepmesh would set STEPMESH_PORT
    grace = dict(zip(container["args"], container["args"][1:], strict=False)).get("--grace", "10")
    assert float(grace) < pod["terminationGracePeriodSeconds"]


def test_references_lead_somewhere() -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in BASE}
    keys: set[str] = set()
    for pod in PODS.values():
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        (container,) = pod["containers"]
        assert all(("ConfigMap", one["configMapRef"]["name"]) in names for one in container["envFrom"])
        secrets = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "secretKeyRef" in one["valueFrom"]]
        assert {one["name"] for one in secrets} == {"stepmesh-addresses"}
        keys |= {one["key"] for one in secrets}
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert keys == SECRET
    told = (INFRA / "README.md").read_text()
    assert all(f"--from-literal={key}=" in told for key in SECRET)


def test_selectors_choose_pods() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in BASE if one["kind"] in ("Deployment", "StatefulSet")]
    for one in BASE:
        chosen = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector", "Service": "selector"}.get(one["kind"])
        if chosen:
            wanted = one["spec"][chosen].get("matchLabels", one["spec"][chosen])
            assert any(wanted.items() <= label.items() for label in labels), identified(one)


def test_a_gpu_is_asked_for_by_one_pool_alone() -> None:
    asked = {name for name, pod in PODS.items() if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]}
    assert asked == {"worker-gpu"}
    assert PODS["worker-gpu"]["tolerations"][0]["key"] == "nvidia.com/gpu"


@pytest.mark.parametrize(("folder", "name"), SCALERS)
def test_a_scaler_scales_by_its_pools_tasks_and_lag(folder: str, name: str) -> None:
    one = SCALERS[folder, name]
    pool = name.removeprefix("worker-")
    assert one["spec"]["scaleTargetRef"]["name"] in PODS
    tasks, lag = (trigger["metadata"] for trigger in one["spec"]["triggers"])
    assert tasks["url"] == f"http://gateway.stepmesh:7840{POOL_PATH}{pool}"
    assert tasks["valueLocation"] == "wanted"
    arguments = PODS[name]["containers"][0]["args"]
    assert tasks["targetValue"] == arguments[arguments.index("--concurrency") + 1]
    if folder == "keda-nats":
        assert (lag["account"], lag["stream"], lag["consumer"]) == ("stepmesh_default", Names(Namespace("default")).tasks, pool)
    else:
        assert lag["topic"] == lag["consumerGroup"] == Names(Namespace("default")).task_subject(pool)  # type: ignore[arg-type]


def test_no_anchor_is_used_that_kustomize_would_have_to_resolve() -> None:
    for file in KUBERNETES.rglob("*.yaml"):
        assert not re.search(r"[:\[{ ][&*]\w+\b", Path(file).read_text()), file
