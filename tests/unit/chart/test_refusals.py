"""What does not fit is refused before anything is made, with a message that names the value."""

from __future__ import annotations

from typing import Any

import pytest
from support.chart_values import EXTERNAL, GPU
from support.helm_tools import RefusedError, render


def engines(**group: Any) -> dict[str, Any]:
    """Return values with one group of engines."""
    return {"engines": {"groups": [{"name": "engines", **group}]}}


MUTUAL: dict[str, Any] = {"tls": {"enabled": True, "secretName": "tls", "clientCa": True}}

OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"gateway": {"replicas": -1}}, "'/gateway/replicas': minimum: got -1, want 1"),
    ({"gateway": {"replicas": 0}}, "'/gateway/replicas': minimum: got 0, want 1"),
    (engines(replicas=-2), "'/engines/groups/0/replicas': minimum: got -2, want 0"),
    (engines(replicas="two"), "'/engines/groups/0/replicas': got string, want integer"),
    (engines(gpus=-1), "'/engines/groups/0/gpus': minimum: got -1, want 0"),
    (engines(replica=2), "'/engines/groups/0': additional properties 'replica' not allowed"),
    ({"engines": {"groups": []}}, "'/engines/groups': minItems: got 0, want 1"),
    ({"engines": {"profile": "cuda"}}, "'/engines/profile': value must be one of 'gpu', 'cpu', 'simulated'"),
    ({"engines": {"tensorParallelSize": 0}}, "'/engines/tensorParallelSize': minimum: got 0, want 1"),
    ({"model": {"name": "../secrets"}}, "'/model/name': '../secrets' does not match pattern"),
    ({"model": {"name": "unknown"}}, "'/model/name': 'unknown' does not match pattern"),
    ({"model": {"dtype": "fp8"}}, "'/model/dtype': value must be one of '', 'bfloat16', 'float32'"),
    ({"ports": {"http": 80}}, "'/ports/http': minimum: got 80, want 1,024"),
    ({"ports": {"grpc": 70000}}, "'/ports/grpc': maximum: got 70,000, want 65,535"),
    ({"service": {"port": 0}}, "'/service/port': minimum: got 0, want 1"),
    ({"config": {"replicsa": 2}}, "'/config': additional properties 'replicsa' not allowed"),
    ({"autoscaling": {"ttftObjectiveSeconds": 0}}, "'/autoscaling/ttftObjectiveSeconds': exclusiveMinimum: got 0"),
    ({"autoscaling": {"tpotObjectiveMs": 0}}, "'/autoscaling/tpotObjectiveMs': exclusiveMinimum: got 0"),
    ({"autoscaling": {"minReplicas": -1}}, "'/autoscaling/minReplicas': minimum: got -1, want 0"),
    ({"upgradeStrategy": {"type": "BlueGreen"}}, "'/upgradeStrategy/type': value must be one of '', 'NewCluster'"),
    ({"image": {"pullPolicy": "Sometimes"}}, "'/image/pullPolicy': value must be one of"),
    ({"gateway": {"image": {"digest": "latest"}}}, "'/gateway/image/digest': 'latest' does not match pattern"),
    ({"gateway": {"resources": {"limits": {"memory": "much"}}}}, "'/gateway/resources/limits/memory': 'much' does not"),
    ({"pods": {"env": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]}}, "'/pods/env/0/name': 'not' failed"),
    ({"pods": {"rayStartParams": {"num-gpus": "8"}}}, "invalid propertyName 'num-gpus'"),
    ({"redis": {"bundled": {"maxMemory": "all"}}}, "'/redis/bundled/maxMemory': 'all' does not match pattern"),
    ({"ingres": {}}, "additional properties 'ingres' not allowed"),
    (
        {"metrics": {"scrapeConfig": {"tlsConfig": {"caFile": "/ca"}}}},
        "'/metrics/scrapeConfig/tlsConfig': additional properties 'caFile' not allowed",
    ),
    ({"tls": {"enabled": "yes"}}, "'/tls/enabled': got string, want boolean"),
]

NOT_FITTING: list[tuple[dict[str, Any], str]] = [
    (
        EXTERNAL | {"redis": {"external": {"enabled": True, "secretName": "redis"}}},
        "redis.bundled.enabled and redis.external.enabled are both true",
    ),
    ({"redis": {"bundled": {"enabled": False}}}, "redis.bundled.enabled and redis.external.enabled are both false"),
    (
        {"redis": {"bundled": {"enabled": False}, "external": {"enabled": True}}},
        "redis.external.secretName is empty: the name of the Secret with the Redis' URL is needed",
    ),
    (EXTERNAL | {"gcsFaultTolerance": {}}, "gcsFaultTolerance.redisAddress is empty"),
    ({"gcsFaultTolerance": {"redisAddress": "redis:6379"}}, "it is for an external Redis"),
    (engines(gpus=1), "engines.groups[0].gpus is 1 with engines.profile cpu: GPUs are for the profile gpu"),
    ({"engines": {"profile": "gpu"}}, "engines.groups[0].gpus is 0 with engines.tensorParallelSize 1"),
    (
        {"engines": GPU | {"tensorParallelSize": 4}},
        "engines.groups[0].gpus is 2 with engines.tensorParallelSize 4: a multiple of it, and at least it, is accepted",
    ),
    ({"engines": {"tensorParallelSize": 2}}, "engines.tensorParallelSize is 2 with engines.profile cpu"),
    (
        {"engines": GPU | {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
        "engines.groups[0].resources has nvidia.com/gpu: gpus decides how many there are",
    ),
    (
        {"engines": {"profile": "simulated", "args": {"enforce_eager": True}}},
        "engines.args is set with engines.profile",
    ),
    ({"engines": {"args": {"tensor_parallel_size": 2}}}, "engines.args.tensor_parallel_size is set by another value"),
    (engines(replicas=0), "engines.groups have replicas 0 together"),
    ({"engines": {"groups": [{"name": "gateway"}]}}, 'engines.groups[0].name is "gateway", which another group'),
    ({"engines": {"groups": [{"name": "a"}, {"name": "a"}]}}, 'engines.groups[1].name is "a", which another group'),
    (
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}},
        "autoscaling.minReplicas is 5 with autoscaling.maxReplicas 4: at most that is accepted",
    ),
    (
        {"autoscaling": {"enabled": True, "minGateways": 5}},
        "autoscaling.minGateways is 5 with autoscaling.maxGateways 4: at most that is accepted",
    ),
    (engines(minReplicas=3, maxReplicas=2), "engines.groups[0].minReplicas is 3 with maxReplicas 2"),
    (
        {"autoscaling": {"enabled": True, "maxReplicas": 2}, **engines(minReplicas=9)},
        "engines.groups[0].minReplicas is 9 with maxReplicas 2, which follows from autoscaling.maxReplicas 2",
    ),
    (
        {"autoscaling": {"enabled": True}, **engines(maxReplicas=3)},
        "autoscaling.maxReplicas is 4, and engines.groups have room for 3: raise their maxReplicas",
    ),
    (
        {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}},
        "upgradeStrategy.gatewayClassName is empty: NewClusterWithIncrementalUpgrade needs a GatewayClass",
    ),
    ({"upgradeStrategy": {"gatewayClassName": "istio"}}, "autoscaling.enabled is false: upgradeStrategy.type"),
    (
        {"upgradeStrategy": {"type": "NewCluster", "gatewayClassName": "istio"}},
        'upgradeStrategy.gatewayClassName is "istio" with type NewCluster',
    ),
    (
        {
            "autoscaling": {"enabled": True},
            "upgradeStrategy": {"gatewayClassName": "istio", "stepSizePercent": 50, "maxSurgePercent": 20},
        },
        "upgradeStrategy.stepSizePercent is 50 with maxSurgePercent 20",
    ),
    ({"ports": {"grpc": 8000}}, "ports.grpc: its ports 8000 to 8000 meet those of ports.http, 8000 to 8000"),
    ({"ports": {"http": 9250}}, "ports.channel: its ports 9200 to 9299 meet those of ports.http, 9250 to 9250"),
    ({"ports": {"metrics": 19_100}}, "ports.metrics: its ports 19100 to 19115 meet those of Ray, 10001 to 19999"),
    ({"ports": {"http": 8265}}, "ports.http: its ports 8265 to 8265 meet those of Ray, 8265 to 8265"),
    (
        {"ports": {"http": 40_000}},
        "ports.http: its ports 40000 to 40000 meet those of the system's choice, 32768 to 60999",
    ),
    ({"ports": {"channel": 32_700}}, "ports.channel: its ports 32700 to 32799 meet those of the system's choice"),
    ({"ports": {"channel": 65500}}, "ports.channel is 65500: the ports up to 65599 are beyond 65535"),
    ({"config": {"port": 9}}, "config.port is set by another value: ports.http"),
    ({"config": {"api_keys": {"acme": "k" * 20}}}, "config.api_keys is set by another value: keys.apiKeys"),
    ({"config": {"redis_url": "redis://u:p@h"}}, "config.redis_url is set by another value: redis"),
    ({"tls": {"enabled": True}}, "tls.secretName is empty"),
    ({"ingress": {"enabled": True}}, "ingress.hosts is empty"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
    (
        {"grpc": {"enabled": False}, "grpcRoute": {"enabled": True, "parentRefs": [{"name": "x"}]}},
        "gateways have no gRPC",
    ),
    ({"metrics": {"scrapeConfig": {"enabled": True}}}, "metrics.scrapeConfig.keySecret.name is empty"),
    (
        {"metrics": {"podMonitor": {"enabled": True}, "scrapeConfig": {"enabled": True, "keySecret": {"name": "k"}}}},
        "every process would be scraped twice",
    ),
    ({"loadtest": {"enabled": True}}, "loadtest.keySecret.name is empty"),
    ({"gateway": {"podDisruptionBudget": {"minAvailable": 1}}}, "gateway.podDisruptionBudget: one of minAvailable and"),
    (
        {"gateway": {"terminationGracePeriodSeconds": 30}},
        "gateway.terminationGracePeriodSeconds is 30: running answers need ",
    ),
    (
        {"head": {"terminationGracePeriodSeconds": 60}},
        "head.terminationGracePeriodSeconds is 60: running answers need ",
    ),
    ({"model": {"name": "/models/x"}}, "model.existingClaim is empty"),
    ({"model": {"name": "/other/x", "existingClaim": "m"}}, 'model.name is "/other/x", which is not below'),
    ({"model": {"name": "/modelsX/a", "existingClaim": "m"}}, 'model.name is "/modelsX/a", which is not below'),
    (
        MUTUAL | {"metrics": {"scrapeConfig": {"enabled": True, "keySecret": {"name": "k"}}}},
        "metrics.scrapeConfig.tlsConfig.cert is empty: with tls.clientCa",
    ),
    (
        MUTUAL | {"loadtest": {"enabled": True, "keySecret": {"name": "k"}}},
        "tls.clientSecretName is empty: with tls.clientCa",
    ),
    ({"fullnameOverride": "a" * 41}, "has 41 characters; at most 40 are accepted"),
    ({"fullnameOverride": "1llm"}, 'the name "1llm" is not a DNS label that begins with a letter'),
]


@pytest.mark.parametrize(("values", "fault"), OUT_OF_RANGE, ids=[fault for _, fault in OUT_OF_RANGE])
def test_the_schema_names_a_value_that_is_not_accepted(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render(values)
    assert fault in str(refused.value)


@pytest.mark.parametrize(("values", "fault"), NOT_FITTING, ids=[fault[:60] for _, fault in NOT_FITTING])
def test_the_templates_name_values_that_do_not_fit_each_other(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render(values)
    assert fault in str(refused.value)


def test_a_long_release_name_is_refused_before_kubernetes_cuts_it() -> None:
    with pytest.raises(RefusedError, match="at most 40 are accepted"):
        render(release="a-release-with-quite-a-long-name-indeed")


def test_an_old_kubernetes_is_refused() -> None:
    with pytest.raises(RefusedError, match="kubeVersion"):
        render(kube="1.29.0")
