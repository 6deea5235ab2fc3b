"""Sets of values that the chart takes, beside the profiles in its folder ``ci``."""

from __future__ import annotations

from typing import Any

EXTERNAL: dict[str, Any] = {
    "redis": {"bundled": {"enabled": False}, "external": {"enabled": True, "secretName": "redis"}},
    "gcsFaultTolerance": {"redisAddress": "redis://redis:6379"},
}
GPU: dict[str, Any] = {"profile": "gpu", "groups": [{"name": "gpus", "replicas": 2, "gpus": 2}]}
ROUTE: dict[str, Any] = {"enabled": True, "parentRefs": [{"name": "public"}]}
POD: dict[str, Any] = {"name": "x", "image": "busybox:1.37"}

SETS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a name": {"fullnameOverride": "llm"},
    "names' part": {"nameOverride": "platform"},
    "labels that are the chart's": {
        "commonLabels": {"app.kubernetes.io/version": "9", "app.kubernetes.io/component": "x"},
        "pods": {"labels": {"app.kubernetes.io/component": "engine"}},
    },
    "labels and annotations": {"commonLabels": {"team": "ml"}, "commonAnnotations": {"owner": "ml@example.com"}},
    "a registry": {"image": {"registry": "r.example:5000/x", "tag": "1.2.3", "pullPolicy": "Always"}},
    "pull secrets": {"image": {"pullSecrets": [{"name": "registry"}]}},
    "digests": {role: {"image": {"digest": f"sha256:{'a' * 64}"}} for role in ("head", "gateway", "engines")},
    "a model of the hub": {"model": {"name": "org/model", "hfToken": {"secretName": "hub"}}},
    "a model of a volume": {"model": {"name": "/models/x", "existingClaim": "models", "subPath": "llm/a"}},
    "a cache that stays": {"model": {"cache": {"create": True, "keep": True, "storageClass": "fast"}}},
    "a cache of yours": {"model": {"cache": {"existingClaim": "cache"}}},
    "adapters": {"adapters": {"existingClaim": "adapters", "subPath": "prod", "store": {"existingClaim": "store"}}},
    "a store": {"adapters": {"store": {"create": True, "size": "5Gi"}}},
    "settings": {"config": {"max_model_len": 65536, "limits": {"acme": {"concurrency": 4}}, "tool_parser": "granite"}},
    "large numbers": {"config": {"adapter_memory_gib": 65536, "max_model_len": 1048576}},
    "cells": {"config": {"cells": 2}, "engines": {"groups": [{"name": "engines", "replicas": 4}]}},
    "a short drain": {"config": {"drain_timeout_s": 30}},
    "no drain": {"config": {"drain_timeout_s": 0}, "pods": {"terminationGracePeriodSeconds": 600}},
    "other ports": {"ports": {"http": 8443, "grpc": 8444, "metrics": 9500, "channel": 9600}},
    "without gRPC": {"grpc": {"enabled": False}},
    "TLS": {"tls": {"enabled": True, "secretName": "tls"}},
    "mutual TLS": {"tls": {"enabled": True, "secretName": "tls", "clientCa": True}},
    "mutual TLS with clients": {
        "tls": {"enabled": True, "secretName": "tls", "clientCa": True, "clientSecretName": "client"},
        "metrics": {
            "scrapeConfig": {
                "enabled": True,
                "keySecret": {"name": "key"},
                "tlsConfig": {
                    "ca": {"secret": {"name": "tls", "key": "ca.crt"}},
                    "cert": {"secret": {"name": "client", "key": "tls.crt"}},
                    "keySecret": {"name": "client", "key": "tls.key"},
                    "serverName": "llm.example.com",
                },
            }
        },
        "loadtest": {"enabled": True, "keySecret": {"name": "key"}},
    },
    "keys": {"keys": {kind: {"secretName": "keys"} for kind in ("apiKeys", "adminKeys", "pepper")}},
    "a token of yours": {"rayAuth": {"secretName": "token"}},
    "external Redis": EXTERNAL,
    "external Redis with files": EXTERNAL
    | {"redis": {**EXTERNAL["redis"], "external": {**EXTERNAL["redis"]["external"], "filesSecretName": "ca"}}},
    "external Redis of cells": EXTERNAL
    | {"redis": {**EXTERNAL["redis"], "external": {**EXTERNAL["redis"]["external"], "cellUrlsKey": "urls"}}},
    "external Redis without fault tolerance": EXTERNAL | {"gcsFaultTolerance": {"enabled": False}},
    "Redis without a disk": {"redis": {"bundled": {"persistence": {"enabled": False}}}},
    "Redis on a disk of yours": {"redis": {"bundled": {"persistence": {"existingClaim": "disk"}, "secretName": "pw"}}},
    "Redis that stays": {
        "redis": {"bundled": {"persistence": {"keep": True}, "image": {"digest": f"sha256:{'b' * 64}"}}}
    },
    "no fault tolerance": {"gcsFaultTolerance": {"enabled": False}},
    "GPUs": {"engines": GPU},
    "tensor parallelism": {"engines": GPU | {"tensorParallelSize": 2, "args": {"quantization": "fp8"}}},
    "two groups": {"engines": {"groups": [{"name": "a", "replicas": 1}, {"name": "b", "enginesPerPod": 4}]}},
    "a group of its own kind": {
        "engines": {
            "groups": [{"name": "a", "env": [{"name": "X", "value": "1"}], "shmSize": "2Gi", "sidecars": [POD]}]
        }
    },
    "where pods run": {
        "pods": {
            "nodeSelector": {"pool": "ml"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "runtimeClassName": "gvisor",
            "schedulerName": "volcano",
        }
    },
    "pods' extras": {
        "pods": {
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "envFrom": [{"secretRef": {"name": "more"}}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "initContainers": [POD],
            "rayStartParams": {"object-store-memory": "200000000"},
        }
    },
    "claims of DRA": {"engines": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}},
    "spread over zones": {
        "gateway": {
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
            ]
        }
    },
    "autoscaling": {"autoscaling": {"enabled": True}},
    "autoscaling to none": {"autoscaling": {"enabled": True, "minReplicas": 0, "maxReplicas": 64}},
    "incremental upgrades": {"autoscaling": {"enabled": True}, "upgradeStrategy": {"gatewayClassName": "istio"}},
    "no upgrades": {"upgradeStrategy": {"type": "None"}},
    "surge": {"rollout": {"gatewaySurgePercent": 50, "engineSurgePercent": 100, "replacementSeconds": 600}},
    "a load balancer": {
        "service": {
            "type": "LoadBalancer",
            "loadBalancerClass": "service.k8s.aws/nlb",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
        }
    },
    "node ports": {"service": {"type": "NodePort", "nodePort": 30080}, "grpc": {"service": {"type": "NodePort"}}},
    "an Ingress": {"ingress": {"enabled": True, "hosts": [{"host": "a.example", "paths": [{"path": "/v1"}]}]}},
    "routes": {"httpRoute": ROUTE | {"hostnames": ["a.example"]}, "grpcRoute": ROUTE},
    "budgets": {"gateway": {"podDisruptionBudget": {"minAvailable": "50%", "maxUnavailable": None}}},
    "no budgets": {role: {"podDisruptionBudget": {"enabled": False}} for role in ("gateway", "engines")},
    "an account of yours": {"serviceAccount": {"create": False, "name": "ml"}},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "narrow network policies": {
        "networkPolicy": {
            "clients": [{"namespaceSelector": {}}],
            "egressHttps": False,
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
        }
    },
    "a PodMonitor": {
        "metrics": {"podMonitor": {"enabled": True, "relabelings": [{"targetLabel": "x", "replacement": "y"}]}}
    },
    "a ScrapeConfig": {"metrics": {"scrapeConfig": {"enabled": True, "keySecret": {"name": "key"}}}},
    "Prometheus without an operator": {"metrics": {"configMap": {"enabled": True}}},
    "rules and dashboards": {"metrics": {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}},
    "traces": {"otel": {"endpoint": "http://otel:4317", "env": {"OTEL_SERVICE_NAME": "llm"}}},
    "a load test": {"loadtest": {"enabled": True, "keySecret": {"name": "key"}}},
    "more objects": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}, "data": {"a": "b"}}
        ]
    },
}
