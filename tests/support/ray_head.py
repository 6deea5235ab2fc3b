"""A Ray cluster of one node with a dashboard, for ``serve deploy``: ``ray_head.py DASHBOARD_PORT``; ends with stdin."""

from __future__ import annotations

import sys
import tempfile


def main(dashboard_port: str) -> None:
    """Start Ray, say so and where, and stop it when stdin is closed."""
    import ray

    with tempfile.TemporaryDirectory(prefix="alora-ray-") as folder:
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            num_cpus=4,
            # What the chart's pods have: one gateway or engine each.
            resources={"aloraserve_gateway": 2, "aloraserve_engine": 2},
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=int(dashboard_port),
            log_to_driver=False,
            object_store_memory=128 << 20,
            _temp_dir=folder,
        )
        print("ready", ray.get_runtime_context().gcs_address, flush=True)
        sys.stdin.read()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
