"""Whatever a replica of a fleet does wrong, its clients get their answers, and the directory is soon right again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.faulty_fleet import CLIENTS, FAULTS, REPLICAS
from support.redis_deployments import free_port

RIGHT_WITHIN_S = 45.0
"""The probe itself takes a second or two, and on a slow machine ten: a conversation on each replica in turn."""


@pytest.mark.e2e
@pytest.mark.timeout(700)
def test_no_fault_of_a_replica_fails_a_call(
    state_dir: Path, model_path: Path, adapters_dir: Path, tmp_path: Path
) -> None:
    del model_path  # made in the state folder
    script = Path(__file__).parents[1] / "support" / "faulty_fleet.py"
    out = tmp_path / "found.json"
    subprocess.run(
        [sys.executable, str(script), str(state_dir), str(adapters_dir), str(free_port()), str(out)],
        check=True,
        timeout=650,
    )
    found = json.loads(out.read_text())
    assert list(found) == list(FAULTS)
    # It has ended two engines, and the others go on without it.
    assert found["poison"]["statuses"] == [422, 422]
    assert found["poison"]["replicas"] == REPLICAS - 2
    for fault, met in found.items():
        assert met["failed"] == [], fault
        assert met["answered"] > 2 * CLIENTS, fault
        assert met["right_after_s"] < RIGHT_WITHIN_S, fault
