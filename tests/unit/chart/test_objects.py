"""What the chart's objects mean: who is reached, by whom, for how long, and what is left behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chart_objects import COMPONENT, cluster, profile, ray_pods
from support.chart_values import EXTERNAL, SETS
from support.helm_tools import CHART, objects, of_kind, render, serve_config

from aloraserve_services.doctor.machine import WANTED_SHARED

ROOT = Path(__file__).parents[3]


def pod_specs(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specs of all pods that come of a release."""
    plain = [each["spec"] for each in found if each["kind"] == "Pod"]
    owned = [each["spec"]["template"]["spec"] for each in found if each["kind"] in ("StatefulSet", "Job")]
    return [*(template["spec"] for template in ray_pods(found).values()), *plain, *owned]


@pytest.mark.parametrize("name", ["cpu", "gpu", "autoscaling", "simulated"])
def test_no_pod_is_root_writes_its_root_or_keeps_a_capability(name: str) -> None:
    for spec in pod_specs(profile(name)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]


def test_no_pod_has_a_token_of_kubernetes_but_the_head_whose_autoscaler_needs_it() -> None:
    assert not any(spec["automountServiceAccountToken"] for spec in pod_specs(profile("cpu")))
    scaling = profile("autoscaling")
    with_token = [spec for spec in pod_specs(scaling) if spec["automountServiceAccountToken"]]
    assert with_token == [ray_pods(scaling)["head"]["spec"]]
    assert with_token[0]["serviceAccountName"] == "r-aloraserve-head"
    assert not [each for each in scaling if "Role" in each["kind"]]


def test_the_services_of_the_apis_reach_gateways_alone() -> None:
    found = profile("cpu")
    labels = {name: template["metadata"]["labels"] for name, template in ray_pods(found).items()}
    for name, port in (("r-aloraserve", "serve"), ("r-aloraserve-grpc", "serve-grpc")):
        service = of_kind(found, "Service", name)["spec"]
        reached = [role for role, its in labels.items() if service["selector"].items() <= its.items()]
        assert reached == ["gateway"]
        assert [each["targetPort"] for each in service["ports"]] == [port]
    assert of_kind(found, "Service", "r-aloraserve-grpc")["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"
    assert of_kind(found, "RayService")["spec"]["excludeHeadPodFromServeSvc"] is True


def test_no_label_of_the_values_takes_a_pod_to_another_service() -> None:
    pods = ray_pods(objects(render(SETS["labels that are the chart's"])))
    assert [pod["metadata"]["labels"][COMPONENT] for pod in pods.values()] == ["head", "gateway", "engine"]


def test_a_gateway_is_ready_when_it_says_so_and_an_engine_when_its_node_runs() -> None:
    """KubeRay's own probe would wait for a Serve proxy, which no pod has."""
    probes = {name: pod["spec"]["containers"][0]["readinessProbe"] for name, pod in ray_pods(profile("cpu")).items()}
    assert probes["gateway"]["httpGet"] == {"path": "/readyz", "port": "serve", "scheme": "HTTP"}
    assert probes["engines"]["httpGet"]["path"] == "/api/local_raylet_healthz"
    with_tls = ray_pods(profile("gpu"))["gateway"]["spec"]["containers"][0]["readinessProbe"]
    assert with_tls["httpGet"]["scheme"] == "HTTPS"
    mutual = ray_pods(objects(render(SETS["mutual TLS"])))["gateway"]["spec"]["containers"][0]["readinessProbe"]
    assert mutual["tcpSocket"] == {"port": "serve"}


def test_engines_are_never_ready_where_kuberays_own_service_carries_the_calls() -> None:
    """That of incremental upgrades has every worker that is ready."""
    found = profile("autoscaling")
    engine = ray_pods(found)["dgx"]["spec"]["containers"][0]
    port = serve_config(found)["applications"][0]["args"]["port"]
    assert engine["readinessProbe"]["tcpSocket"] == {"port": port}
    assert port not in [each["containerPort"] for each in engine["ports"]]


@pytest.mark.parametrize("case", ["nothing", "a short drain", "no drain", "surge"])
def test_kubernetes_waits_longer_than_a_drain_takes(case: str) -> None:
    found = objects(render(SETS[case]))
    arguments = serve_config(found)["applications"][0]["args"]
    drain = arguments.get("drain_timeout_s", arguments.get("call_timeout_s", 1800)) + arguments["drain_delay_s"]
    for name in ("head", "gateway", "engines"):
        spec = ray_pods(found)[name]["spec"]
        [within] = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1:]
        # Serve kills a replica ten seconds after its drain.
        assert drain + 10 <= int(within) <= spec["terminationGracePeriodSeconds"] - 30


def test_the_head_ends_after_the_nodes_that_end_with_it() -> None:
    """Serve's controller, which stops replicas when their answers have ended, is on the head."""
    command = ray_pods(profile("cpu"))["head"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[2:4] == ["aloraserve_services.node_drain", "--head"]


def test_each_role_has_its_own_pods_and_the_engines_their_gpus() -> None:
    found = profile("autoscaling")
    groups = {group["groupName"]: group for group in cluster(found)["workerGroupSpecs"]}
    assert groups["gateway"]["rayStartParams"]["resources"] == '"{\\"aloraserve_gateway\\":1}"'
    # Eight GPUs, four per engine.
    assert groups["dgx"]["rayStartParams"]["resources"] == '"{\\"aloraserve_engine\\":2}"'
    assert groups["dgx"]["rayStartParams"]["num-gpus"] == "8"
    assert groups["dgx"]["rayStartParams"]["num-cpus"] == "2"
    engine = groups["dgx"]["template"]["spec"]["containers"][0]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "8"
    gateway, engines = serve_config(found)["applications"][0]["deployments"]
    assert gateway["ray_actor_options"] == {"num_cpus": 0, "resources": {"aloraserve_gateway": 1}}
    assert engines["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 4, "resources": {"aloraserve_engine": 1}}
    arguments = serve_config(found)["applications"][0]["args"]
    assert arguments["engine_args"] == {"tensor_parallel_size": 4}
    assert (arguments["min_replicas"], arguments["max_replicas"], arguments["max_gateways"]) == (2, 8, 8)
    assert cluster(found)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_with_autoscaling_an_upgrade_does_not_set_the_number_of_pods_back() -> None:
    groups = cluster(profile("autoscaling"))["workerGroupSpecs"]
    assert not any("replicas" in group for group in groups)
    assert cluster(profile("autoscaling"))["autoscalerOptions"]["version"] == "v2"
    assert {pod["spec"]["restartPolicy"] for pod in ray_pods(profile("autoscaling")).values()} == {"Never"}


def test_pods_do_not_change_with_the_chart_s_version() -> None:
    """Any change of them makes a second Ray cluster."""
    for template in ray_pods(profile("cpu")).values():
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(template["metadata"]["labels"])


def test_callers_keys_are_in_the_environment_of_the_head_alone_and_the_pepper_on_gateways_alone() -> None:
    pods = ray_pods(profile("gpu"))

    def has(name: str) -> list[str]:
        return [role for role, pod in pods.items() if name in yaml.safe_dump(pod)]

    assert has("ALORASERVE_API_KEYS") == has("ALORASERVE_ADMIN_KEYS") == ["head"]
    assert has("aloraserve-pepper") == ["gateway"]
    assert has("ALORASERVE_REDIS_URL") == ["head", "gateway"]
    assert not {"api_keys", "admin_keys", "redis_url"} & set(serve_config(profile("gpu"))["applications"][0]["args"])


def test_ray_asks_for_a_token_of_the_release_s_own() -> None:
    found = profile("cpu")
    assert cluster(found)["authOptions"] == {"mode": "token", "secretName": "r-aloraserve-ray-token"}
    assert "auth_token" in of_kind(found, "Secret", "r-aloraserve-ray-token")["data"]
    given = profile("gpu")
    assert cluster(given)["authOptions"]["secretName"] == "ray-token"
    assert not [each for each in given if each["kind"] == "Secret"]


def test_the_head_s_state_is_in_the_redis_of_the_release_or_in_that_of_the_operator() -> None:
    options = cluster(profile("cpu"))["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis://r-aloraserve-redis:6379"
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "r-aloraserve-redis", "key": "password"}
    external = cluster(profile("gpu"))["gcsFaultToleranceOptions"]
    assert external["redisAddress"] == "rediss://redis.internal:6380"
    assert external["redisUsername"]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "username"}
    assert "gcsFaultToleranceOptions" not in cluster(objects(render(SETS["no fault tolerance"])))


def test_uninstalling_leaves_nothing_but_what_is_to_be_kept() -> None:
    kept = [
        each for each in profile("cpu") if (each["metadata"].get("annotations") or {}).get("helm.sh/resource-policy")
    ]
    assert kept == []
    # Claims are the release's, not the StatefulSet's: Helm deletes them.
    assert "volumeClaimTemplates" not in of_kind(profile("cpu"), "StatefulSet")["spec"]
    # Nobody waits for a clean-up in a Redis that goes as well.
    assert of_kind(profile("cpu"), "RayService")["metadata"]["annotations"] == {"ray.io/gcs-ft-deletion-timeout": "10"}
    stays = objects(render(SETS["a cache that stays"]))
    claim = of_kind(stays, "PersistentVolumeClaim", "r-aloraserve-cache")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def opened(policy: dict[str, Any], direction: str) -> set[tuple[int, int]]:
    """Return the ranges of ports that a NetworkPolicy opens."""
    rules = policy["spec"].get(direction, [])
    ports = [port for rule in rules for port in rule.get("ports", [])]
    return {(port["port"], port.get("endPort", port["port"])) for port in ports}


def test_nothing_is_reached_that_no_policy_opens() -> None:
    found = profile("cpu")
    deny = of_kind(found, "NetworkPolicy", "r-aloraserve-default-deny")["spec"]
    assert (deny["policyTypes"], deny.get("ingress"), deny.get("egress")) == (["Ingress", "Egress"], None, None)
    labels = [template["metadata"]["labels"] for template in ray_pods(found).values()]
    labels.append(of_kind(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"])
    labels.append(of_kind(found, "Pod")["metadata"]["labels"])
    assert all(deny["podSelector"]["matchLabels"].items() <= its.items() for its in labels)


def test_the_policies_open_the_ports_that_the_documents_list_and_no_others() -> None:
    page = (ROOT / "docs" / "reference" / "ports.md").read_text()
    table = page.partition("### On Kubernetes")[2]
    listed = re.findall(r"^\| `([\d-]+)` \| ([a-z, ]+) \|", table, re.MULTILINE)
    documented = {tuple(int(part) for part in (ports.split("-") * 2)[:2]): who.split(", ") for ports, who in listed}
    policies = {each["metadata"]["name"]: each for each in profile("cpu") if each["kind"] == "NetworkPolicy"}
    into = {"ray": ["head", "gateways", "engines"], "head": ["head"], "gateway": ["gateways"], "redis": ["redis"]}
    for name, roles in into.items():
        for ports in opened(policies[f"r-aloraserve-{name}"], "ingress"):
            assert ports in documented, f"{ports} of {name} is not on the page"
            assert set(documented[ports]) & set(roles), f"{ports}: {documented[ports]} on the page"
    everything = {ports for name in into for ports in opened(policies[f"r-aloraserve-{name}"], "ingress")}
    assert set(documented) == everything
    # Each process of a pod takes the next port, and no more than these.
    assert (9100, 9115) in documented


def test_ray_s_own_ports_are_those_that_the_policies_open() -> None:
    ports = opened(of_kind(profile("cpu"), "NetworkPolicy", "r-aloraserve-ray"), "ingress")
    for group in cluster(profile("cpu"))["workerGroupSpecs"]:
        given = {name: int(value) for name, value in group["rayStartParams"].items() if name.endswith("port")}
        assert len(given) == 8
        assert all(any(low <= port <= high for low, high in ports) for port in given.values()), given


def test_calls_may_be_allowed_from_a_namespace_alone() -> None:
    rule = of_kind(profile("autoscaling"), "NetworkPolicy", "r-aloraserve-gateway")["spec"]["ingress"][0]
    assert rule["from"][0] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    everybody = of_kind(profile("cpu"), "NetworkPolicy", "r-aloraserve-gateway")["spec"]["ingress"][0]
    assert "from" not in everybody


def test_an_external_redis_leaves_no_trace_of_the_bundled_one() -> None:
    found = objects(render(EXTERNAL))
    assert not [each for each in found if each["metadata"]["name"].endswith("-redis")]
    egress = of_kind(found, "NetworkPolicy", "r-aloraserve-ray")["spec"]["egress"]
    assert {"ports": [{"port": 6379, "protocol": "TCP"}]} in egress


def test_what_runs_in_pods_of_the_chart_is_python(tmp_path: Path) -> None:
    for file in sorted((CHART / "files").glob("*.py")):
        compile(file.read_text(), file.name, "exec")
    check = of_kind(profile("cpu"), "Pod")["spec"]["containers"][0]["args"][0]
    assert check.strip() == (CHART / "files" / "check.py").read_text().strip()


def test_every_pod_has_the_shared_memory_that_the_doctor_asks_for() -> None:
    for pod in ray_pods(profile("cpu")).values():
        [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == "dshm"]
        size = volume["emptyDir"]["sizeLimit"]
        assert size.endswith("Gi")
        assert int(size.removesuffix("Gi")) << 30 >= WANTED_SHARED


def test_the_clients_of_a_release_with_mutual_tls_have_a_certificate() -> None:
    found = objects(render(SETS["mutual TLS with clients"]))
    config = of_kind(found, "ScrapeConfig")["spec"]["httpSDConfigs"][0]["tlsConfig"]
    assert config["cert"] == {"secret": {"name": "client", "key": "tls.crt"}}
    jobs = [each["spec"]["template"]["spec"] for each in found if each["kind"] == "Job"]
    clients = [of_kind(found, "Pod")["spec"], *jobs]
    assert len(clients) == 3
    for spec in clients:
        [container] = spec["containers"]
        [mount] = [each for each in container["volumeMounts"] if each["name"] == "client"]
        assert mount["mountPath"] in [each.get("value") for each in container["env"]]
        assert {"name": "client", "secret": {"secretName": "client", "defaultMode": 0o440}} in spec["volumes"]
