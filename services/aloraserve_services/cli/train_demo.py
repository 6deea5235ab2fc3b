"""``make train-demo``: builds the rows of the intrinsics that ship, trains each and its LoRA twin, evaluates them, and
writes their folders. What is done already is left; a training that was ended goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aloraserve.errors import AloraserveError
from aloraserve.settings import load_settings
from aloraserve_services.cli.training_progress import TrainingBars
from aloraserve_services.intrinsics.builders import INTRINSICS
from aloraserve_services.intrinsics.train_demo import train_demo
from aloraserve_services.models.shipped_adapters import SHIPPED
from aloraserve_services.models.untrained import PIPELINE


def main() -> int:
    """Run from a command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=PIPELINE, help=f"of intrinsics; {', '.join(PIPELINE)} by default")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the adapters; the package's by default")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in INTRINSICS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not an intrinsic; {', '.join(INTRINSICS)} are")
    state_dir = load_settings().state_dir
    try:
        with TrainingBars() as progress:
            train_demo(options.names, state_dir / "train-demo", options.out, state_dir, progress)
    except AloraserveError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
