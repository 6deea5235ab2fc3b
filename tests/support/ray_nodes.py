"""A Ray cluster of several raylets on this machine, with a dashboard: ``ray_nodes.py PORT WORKERS``; ends with stdin.

It says which process ids the workers' raylets have. Gateways run on the head, which has the resource ``gateways``;
engines on the workers, which alone have CPUs.
"""

from __future__ import annotations

import json
import sys
import tempfile

CPUS = 2


def main(dashboard_port: str, workers: str) -> None:
    """Start Ray, say so, and stop it when stdin is closed."""
    from ray.cluster_utils import Cluster

    common = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    with tempfile.TemporaryDirectory(prefix="alora-ray-") as folder:
        cluster = Cluster()
        cluster.add_node(
            num_cpus=0,
            resources={"gateways": 100},
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=int(dashboard_port),
            temp_dir=folder,
            **common,
        )
        nodes = [cluster.add_node(num_cpus=CPUS, **common) for _ in range(int(workers))]
        pids = [node.all_processes["raylet"][0].process.pid for node in nodes]
        print(json.dumps({"ready": True, "raylets": pids}), flush=True)
        sys.stdin.read()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
