"""The chart's promises, asked of the objects that the real Helm engine renders."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no stubs
import pytest
import yaml

from controlplane.monitor import MonitorSettings
from controlplane.policy.bundle import build, read_files, revision_of
from controlplane.settings import load
from controlplane.worker import queued

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "controlplane"
KUBERNETES = "1.33.0"
EXAMPLES = sorted((CHART / "examples").glob("values-*.yaml"))

Objects = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]


def example(name: str, **over: Any) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "examples" / f"values-{name}.yaml").read_text("utf-8"))
    return values | over


def everything() -> dict[str, Any]:
    values = example("prod", vllm=example("gpu")["vllm"], registry={"tools": []})
    values["monitor"] = values["monitor"] | {"metrics": True}
    values["models"] = {"accessMode": "ReadWriteOnce"}
    return values


def shut() -> dict[str, Any]:
    return example("dev", networkPolicy={"clients": [], "monitoring": []})


VARIATIONS = {
    **{path.stem: yaml.safe_load(path.read_text("utf-8")) for path in EXAMPLES},
    "everything": everything(),
    "nobody may call": shut(),
    "without network policies": example("dev", networkPolicy={"enabled": False}),
    "own names": example("dev", nameOverride="agents-gate", ledger={"existingClaim": "old"}),
}
EVERY_VARIATION = pytest.mark.parametrize("values", VARIATIONS.values(), ids=VARIATIONS)


def of_kind(objects: Objects, kind: str, end: str = "") -> Objects:
    return [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(end)]


def one(objects: Objects, kind: str, end: str = "") -> dict[str, Any]:
    (found,) = of_kind(objects, kind, end)
    return found


def pods(objects: Objects) -> Iterator[dict[str, Any]]:
    return (each["spec"]["template"]["spec"] for each in of_kind(objects, "Deployment"))


def containers(objects: Objects) -> Iterator[dict[str, Any]]:
    return (container for pod in pods(objects) for container in pod["containers"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_lint_finds_nothing_worth_more_than_information(helm: Any, path: Path) -> None:
    report = helm.lint(CHART, yaml.safe_load(path.read_text("utf-8")), strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@EVERY_VARIATION
def test_every_object_is_what_kubernetes_expects(render: Render, values: dict[str, Any]) -> None:
    """Kinds that Kubernetes does not know have a test of their own; anything else unknown fails here."""
    of_operators = {"ServiceMonitor", "PrometheusRule"}
    for each in render(values):
        if each["kind"] not in of_operators:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_a_faulty_object_is_found(render: Render) -> None:
    gateway = one(render(example("dev")), "Deployment", "gateway")
    gateway["spec"]["template"]["spec"]["containers"][0]["prts"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gateway, KUBERNETES, strict=True)


def test_the_rules_the_operator_gets_are_the_rules_in_the_repository(render: Render) -> None:
    rule = one(render(everything()), "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((ROOT / "dashboards" / "rules.yml").read_text("utf-8"))


@pytest.mark.real("promtool")
def test_promtool_accepts_the_rendered_rules(render: Render, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(one(render(everything()), "PrometheusRule")["spec"]))
    run = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_service_monitor_finds_the_metrics_services_and_their_port(render: Render) -> None:
    """Our own reading of the operator's contract: labels select Services, endpoints name a port of theirs."""
    objects = render(everything())
    spec = one(objects, "ServiceMonitor")["spec"]
    assert set(spec) == {"selector", "endpoints"}
    wanted = spec["selector"]["matchLabels"].items()
    found = [each for each in of_kind(objects, "Service") if wanted <= each["metadata"]["labels"].items()]
    assert {each["metadata"]["name"] for each in found} == {
        "r1-controlplane-gateway-metrics",
        "r1-controlplane-monitor-metrics",
    }
    for service in found:
        assert spec["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_board_comes_whole(render: Render) -> None:
    board = one(render(everything()), "ConfigMap", "dashboards")["data"]["controlplane-overview.json"]
    assert json.loads(board) == json.loads((ROOT / "dashboards" / "overview.json").read_text("utf-8"))


def mounted(objects: Objects, folder: Path) -> Path:
    """The policy bundle as the gateway's pod sees it."""
    data = one(objects, "ConfigMap", "policies")["data"]
    volumes = next(pods(objects))["volumes"]
    (volume,) = (each["configMap"] for each in volumes if each["name"] == "policies")
    for item in volume["items"]:
        path = folder / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]], "utf-8")
    assert {item["key"] for item in volume["items"]} == set(data)
    return folder


def test_the_mounted_policy_is_the_repositorys_to_the_byte(render: Render, tmp_path: Path) -> None:
    files = read_files(mounted(render(example("dev")), tmp_path))
    assert revision_of(files) == revision_of(read_files(ROOT / "policies"))
    build(files)


def test_own_policy_files_replace_the_bundle(render: Render, tmp_path: Path) -> None:
    values = example("dev", policy={"files": {"model.conf": "m", "tenants/a/rules.yaml": "r: 1\n"}})
    files = read_files(mounted(render(values), tmp_path))
    assert files == {"model.conf": b"m", "tenants/a/rules.yaml": b"r: 1\n"}


@EVERY_VARIATION
def test_the_gateway_accepts_its_settings_file(render: Render, values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "controlplane.yaml"
    file.write_text(one(render(values), "ConfigMap", "gateway")["data"]["controlplane.yaml"])
    settings = load(file)
    assert (settings.server.host, settings.server.http_port, settings.server.grpc_port) == ("0.0.0.0", 8080, 8500)
    assert (settings.telemetry.metrics_host, settings.telemetry.metrics_port) == ("0.0.0.0", 9464)
    assert set(settings.backends) == {
        backend for part, backend in (("tfserving", "tfs"), ("vllm", "vllm")) if values.get(part, {}).get("enabled")
    }


def test_the_operators_settings_do_not_move_what_the_chart_decides(render: Render, tmp_path: Path) -> None:
    values = example("dev")
    values["settings"] = values["settings"] | {"server": {"host": "127.0.0.1", "drain_s": 3}}
    file = tmp_path / "controlplane.yaml"
    file.write_text(one(render(values), "ConfigMap", "gateway")["data"]["controlplane.yaml"])
    assert load(file).server.host == "0.0.0.0"
    assert load(file).server.drain_s == 3


def test_the_monitor_accepts_its_settings_file(render: Render) -> None:
    text = one(render(example("prod")), "ConfigMap", "monitor")["data"]["monitor.yaml"]
    settings = MonitorSettings.model_validate(yaml.safe_load(text))
    assert settings.gateway_url == "http://r1-controlplane-gateway:8080"
    assert [model.name for model in settings.models] == ["risk"]


def test_workers_train_what_the_monitor_queues(render: Render) -> None:
    objects = render(example("queue"))
    text = one(objects, "ConfigMap", "monitor")["data"]["monitor.yaml"]
    settings = MonitorSettings.model_validate(yaml.safe_load(text))
    assert set(queued(settings)) == {"risk"}
    monitor, worker = (one(objects, "Deployment", part)["spec"]["template"]["spec"] for part in ("monitor", "worker"))
    assert worker["containers"][0]["command"] == [
        "controlplane",
        "worker",
        "--config",
        "/etc/controlplane/monitor.yaml",
    ]
    password = settings.models[0].training.queue.password_file
    for pod in (monitor, worker):
        shared = {
            volume["name"]: volume for volume in pod["volumes"] if volume["name"] in ("config", "queue", "models")
        }
        assert shared["queue"]["secret"]["secretName"] == "controlplane-queue"
        assert shared["config"]["configMap"]["name"] == "r1-controlplane-monitor"
        assert shared["models"]["persistentVolumeClaim"]["claimName"] == "models"
        folders = {mount["name"]: Path(mount["mountPath"]) for mount in pod["containers"][0]["volumeMounts"]}
        assert password is not None
        assert password.parent == folders["queue"]
        assert folders["models"] == settings.models_root
    assert worker["terminationGracePeriodSeconds"] > settings.models[0].training.timeout_s


def test_a_worker_holds_no_token_and_needs_no_password(render: Render) -> None:
    values = example("queue")
    values["worker"] = {"enabled": True}
    objects = render(values)
    for part in ("monitor", "worker"):
        volumes = one(objects, "Deployment", part)["spec"]["template"]["spec"]["volumes"]
        assert "queue" not in {volume["name"] for volume in volumes}
    assert "token" not in {volume["name"] for volume in volumes}


def test_without_workers_there_is_no_trace_of_them(render: Render) -> None:
    text = yaml.safe_dump_all(render(everything()))
    assert "-worker" not in text
    assert "5432" not in text


def test_a_changed_policy_or_setting_rolls_the_gateway(render: Render) -> None:
    def checksums(values: dict[str, Any]) -> dict[str, str]:
        return dict(one(render(values), "Deployment", "gateway")["spec"]["template"]["metadata"]["annotations"])

    before = checksums(example("dev"))
    policy = checksums(example("dev", policy={"files": {"model.conf": "m"}}))
    assert {key for key in before if before[key] != policy[key]} == {"checksum/policies"}
    registry = checksums(example("dev", registry={"tools": []}))
    assert registry["checksum/registry"] != before["checksum/registry"]
    assert registry["checksum/settings"] != before["checksum/settings"]


@EVERY_VARIATION
def test_no_pod_has_more_rights_than_it_needs(render: Render, values: dict[str, Any]) -> None:
    objects = render(values)
    for pod in pods(objects):
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 10_000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod["volumes"])
    for container in containers(objects):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])
    assert not of_kind(objects, "Role") + of_kind(objects, "ClusterRole")


@EVERY_VARIATION
def test_every_mount_has_its_volume_and_every_volume_its_mount(render: Render, values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        (container,) = pod["containers"]
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(set(paths)) == len(paths)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@EVERY_VARIATION
def test_secrets_are_only_named(render: Render, values: dict[str, Any]) -> None:
    assert not of_kind(render(values), "Secret")


def test_liveness_asks_only_whether_the_process_turns(render: Render) -> None:
    (container,) = one(render(example("dev")), "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["command"] == ["controlplane", "gateway", "--config", "/etc/controlplane/controlplane.yaml"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "grpc": 8500, "metrics": 9464}


@EVERY_VARIATION
def test_services_select_pods_and_name_their_ports(render: Render, values: dict[str, Any]) -> None:
    objects = render(values)
    for service in of_kind(objects, "Service"):
        (deployment,) = (
            each
            for each in of_kind(objects, "Deployment")
            if service["spec"]["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        named = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


@EVERY_VARIATION
def test_every_claim_and_config_map_that_is_mounted_exists_or_is_the_operators(
    render: Render, values: dict[str, Any]
) -> None:
    objects = render(values)
    made = {(each["kind"], each["metadata"]["name"]) for each in objects}
    theirs = {("PersistentVolumeClaim", name) for name in ("models", "llm-weights", "old")}
    for pod in pods(objects):
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in made | theirs


# --- network policies: what they let through, read as Kubernetes reads them


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def lets_in(objects: Objects, target: dict[str, str], source: dict[str, str], port: int) -> bool:
    """Whether a pod of the namespace labelled ``source`` reaches ``port`` of ``target``."""
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy")]
    ours = [spec for spec in policies if selects(spec["podSelector"], target) and "Ingress" in spec["policyTypes"]]
    rules = [rule for spec in ours for rule in spec.get("ingress") or []]
    return not ours or any(
        any(each["port"] == port for each in rule["ports"])
        and any("namespaceSelector" not in peer and selects(peer["podSelector"], source) for peer in rule["from"])
        for rule in rules
    )


def labels_of(objects: Objects, part: str) -> dict[str, str]:
    return dict(one(objects, "Deployment", part)["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize(("part", "port"), [("tfserving", 8500), ("vllm", 8000)])
def test_only_the_gateway_reaches_a_model_server(render: Render, part: str, port: int) -> None:
    objects = render(everything())
    server, gateway = labels_of(objects, part), labels_of(objects, "gateway")
    assert lets_in(objects, server, gateway, port)
    for stranger in (labels_of(objects, "monitor"), {"app": "agent"}, {}, server):
        assert not lets_in(objects, server, stranger, port)


def test_a_model_server_calls_nobody(render: Render) -> None:
    objects = render(everything())
    for part in ("tfserving", "vllm"):
        specs = [
            each["spec"]
            for each in of_kind(objects, "NetworkPolicy")
            if selects(each["spec"]["podSelector"], labels_of(objects, part))
        ]
        assert len(specs) == 2
        assert all("Egress" in spec["policyTypes"] and not spec.get("egress") for spec in specs)


def test_a_worker_reaches_dns_and_the_database_and_nobody_reaches_it(render: Render) -> None:
    objects = render(example("queue"))
    worker = labels_of(objects, "worker")
    for stranger in (labels_of(objects, "gateway"), labels_of(objects, "monitor"), {"app": "agent"}, worker):
        assert not lets_in(objects, worker, stranger, 8080)
    specs = [
        each["spec"]
        for each in of_kind(objects, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], worker) and each["spec"].get("egress")
    ]
    (spec,) = specs
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53], [5432]]
    assert spec["egress"][1]["to"] == example("queue")["networkPolicy"]["database"]
    monitor = one(objects, "NetworkPolicy", "-monitor")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in monitor["egress"]] == [[53, 53], [8080], [5432]]


def test_the_gateway_goes_only_to_dns_its_model_servers_and_where_it_is_told(render: Render) -> None:
    spec = one(render(everything()), "NetworkPolicy", "-gateway")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [
        [53, 53],
        [8500],
        [8000],
        [443],
        [4318],
    ]
    dev = one(render(example("dev")), "NetworkPolicy", "-gateway")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in dev["egress"]] == [[53, 53]]


def test_by_default_the_namespace_calls_and_only_prometheus_scrapes(render: Render) -> None:
    objects = render(example("dev"))
    gateway = labels_of(objects, "gateway")
    assert lets_in(objects, gateway, {"app": "agent"}, 8080)
    assert not lets_in(objects, gateway, {"app": "agent"}, 9464)


def test_with_no_clients_named_nobody_calls(render: Render) -> None:
    objects = render(shut())
    assert not lets_in(objects, labels_of(objects, "gateway"), {"app": "agent"}, 8080)


# --- the schema refuses what cannot work


def put(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *above, last = path.split(".")
    inner = changed
    for key in above:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gateway.replicas", 2),  # the embedded ledger has one writer
        ("replicaCount", 1),  # unknown
        ("gateway.image", "x"),  # unknown, deeper
        ("settings.identity", {"issuer": "x"}),  # no audience
        ("settings.state", "/elsewhere"),  # the chart decides
        ("image.digest", "sha256:short"),
        ("tfserving.runAsUser", 0),
        ("tfserving", {"enabled": True}),  # serves nothing
        ("vllm", {"enabled": True, "model": "/weights/x"}),  # no weights
        ("monitor", {"enabled": True}),  # no token
        ("worker", {"enabled": True}),  # nobody queues
        ("worker", {"enabled": True, "replicas": 0}),
        ("ledger.size", "many"),
        ("gateway.secretMounts", [{"existingSecret": "x", "mountPath": "/etc/controlplane/more"}]),
        ("gateway.secretMounts", [{"value": "s3cret", "mountPath": "/x"}]),
        ("policy.files", {"../escape": "x"}),
        ("networkPolicy.gatewayEgress", [{"ports": [{"port": 443}]}]),  # to everywhere
    ],
)
def test_the_schema_refuses(render: Render, helm: Any, path: str, value: Any) -> None:
    render(example("dev"))
    with pytest.raises(helm.HelmValuesError):
        render(put(example("dev"), path, value))


def test_the_schema_refuses_workers_that_could_not_reach_their_queue(render: Render, helm: Any) -> None:
    values = example("queue", networkPolicy={"enabled": False})
    render(values)
    with pytest.raises(helm.HelmValuesError):
        render(values | {"networkPolicy": {"database": []}})


def test_the_schema_refuses_a_release_without_settings(render: Render, helm: Any) -> None:
    with pytest.raises(helm.HelmValuesError):
        render({})


def closed_objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    if "properties" in schema and schema.get("type") == "object":
        yield path, schema.get("additionalProperties") is False
        for name, inner in schema["properties"].items():
            if isinstance(inner, dict):
                yield from closed_objects(inner, f"{path}.{name}")


def test_the_schema_knows_every_value_and_every_value_is_described() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert {path for path, closed in closed_objects(schema) if not closed} == {".settings"}
    assert set(defaults) == set(schema["properties"]) - {"global"}
    for name, inner in schema["properties"].items():
        assert inner["description"]
        if inner.get("additionalProperties") is False:
            assert set(defaults[name]) == set(inner["properties"])
            assert all(each["description"] for each in inner["properties"].values()), name


# --- what is in the package


def test_the_package_holds_the_linked_files(helm: Any, tmp_path: Path) -> None:
    """Helm's .Files cannot leave the chart, so ``files/`` links to the folders; packaging follows the links."""
    archive = helm.package(str(CHART), destination=str(tmp_path))
    helm.expand(tmp_path / "out", archive)
    packed = tmp_path / "out" / "controlplane" / "files"
    assert not (packed / "policies").is_symlink()
    assert revision_of(read_files(packed / "policies")) == revision_of(read_files(ROOT / "policies"))
    for name in ("rules.yml", "overview.json"):
        assert (packed / "dashboards" / name).read_bytes() == (ROOT / "dashboards" / name).read_bytes()
    assert not list(packed.rglob("*.py"))


def test_the_readmes_table_is_the_generated_one() -> None:
    spec = importlib.util.spec_from_file_location("helm_generate", ROOT / "helm" / "generate_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (CHART / "README.md").read_text("utf-8")
    assert "`networkPolicy.gatewayEgress`" in readme
    assert module.rendered(readme) == readme
