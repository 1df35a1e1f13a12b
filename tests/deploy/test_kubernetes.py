"""The manifests are what the API takes, name what is there, and their pods would run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from worker.cli.main import _COMMANDS
from worker.client import USUAL_STREAMS
from worker.settings.schema import Settings, load_settings
from worker.streams.shards import ShardStreams, Streams

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"
#: The oldest release of Kubernetes that still gets fixes, and the newest whose schemas are known.
VERSIONS = ("1.33", "1.36")
OURS = {"kustomize.config.k8s.io", "keda.sh"}
SECRETS = {
    line.partition("=")[0]: line.partition("=")[2]
    for line in (ROOT / "example" / "secrets.env.example").read_text().splitlines()
}


def documents() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(ROOT.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.relative_to(ROOT), document


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for _, document in documents() if document["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(document for document in of_kind(kind) if document["metadata"]["name"] == name)


WORKLOADS = of_kind("StatefulSet", "Deployment", "Job")
PODS = {one["metadata"]["name"]: one["spec"]["template"] for one in WORKLOADS}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_the_api_is_valid_and_has_no_unknown_field(version: str) -> None:
    checked = 0
    for path, document in documents():
        if document["apiVersion"].partition("/")[0] not in OURS:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
            assert path.parts[0] == "base"
    assert checked >= 12


def test_a_field_that_the_api_does_not_know_would_be_noticed() -> None:
    document = named("Deployment", "refinery-trainer")
    document["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


def test_kustomize_finds_every_file_and_leaves_none_out() -> None:
    for path, document in documents():
        if path.name == "kustomization.yaml":
            folder = (ROOT / path).parent
            listed = {(folder / name).resolve() for name in document.get("resources", [])}
            listed |= {(folder / name).resolve() for name in document.get("components", [])}
            assert all(one.exists() for one in listed)
            if folder.name != "example":
                assert {one for one in folder.glob("*.yaml") if one.name != path.name} == listed


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_right_that_it_does_not_need(name: str) -> None:
    pod = PODS[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        # What is written is written to these two.
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/refinery", "/tmp"}  # noqa: S108 - where it mounts


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_a_command_that_there_is(name: str) -> None:
    for container in PODS[name]["spec"]["containers"]:
        assert container["args"][0] in _COMMANDS
        assert {next(iter(one.values()))["name"] for one in container["envFrom"]} == {
            "refinery-settings",
            "refinery-secrets",
        }


def test_the_settings_of_the_pods_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    said = named("ConfigMap", "refinery-settings")["data"] | SECRETS
    for name, value in said.items():
        monkeypatch.setenv(name, value.replace("&sslrootcert=system", ""))
    settings = load_settings()
    assert settings.console_host == settings.metrics_host == "0.0.0.0"  # noqa: S104 - inside a pod
    assert settings.store_url is not None
    for name, pod in PODS.items():
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        assert name in ("refinery-console", "refinery-upgrade") or grace > settings.shutdown_grace_s
    ports = {"refinery-worker": settings.metrics_port, "refinery-trainer": settings.trainer_metrics_port}
    for name, port in (ports | {"refinery-console": settings.console_port}).items():
        (container,) = PODS[name]["spec"]["containers"]
        assert [one["containerPort"] for one in container["ports"]] == [port]


def test_selectors_find_their_pods() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    wanted = [one["spec"]["selector"] for one in of_kind("Service")]
    wanted += [
        one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget", "StatefulSet", "Deployment")
    ]
    for selector in wanted:
        assert any(selector.items() <= pod.items() for pod in labels), selector
    named_by_policies = {
        value
        for policy in of_kind("NetworkPolicy")
        for expression in policy["spec"]["podSelector"].get("matchExpressions", [])
        for value in expression["values"]
    }
    assert named_by_policies == {pod["app.kubernetes.io/name"] for pod in labels}


def test_workers_are_never_scaled_to_none_and_by_streams_that_they_read() -> None:
    (scaled,) = of_kind("ScaledObject")
    spec, settings = scaled["spec"], Settings()
    assert spec["minReplicaCount"] >= 1
    assert spec["scaleTargetRef"]["name"] == named("StatefulSet", "refinery-worker")["metadata"]["name"]
    triggers = [trigger["metadata"] for trigger in spec["triggers"]]
    assert {one["stream"] for one in triggers} == {settings.streams.signals_created, settings.streams.trades_closed}
    assert {one["consumerGroup"] for one in triggers} == {settings.streams.group}
    # https://keda.sh/docs/latest/scalers/redis-streams/: lagCount stands without the others.
    assert all("lagCount" in one and not {"pendingEntriesCount", "streamLength"} & one.keys() for one in triggers)


def test_the_triggers_of_shards_that_are_written_as_a_comment_name_their_streams() -> None:
    said = re.findall(r'# +stream: "(.+)"', (ROOT / "keda" / "workers.yaml").read_text())
    assert tuple(said) == Streams(ShardStreams(*USUAL_STREAMS), 2).inputs
