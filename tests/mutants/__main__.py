"""Put faults into a copy of the platform, one at a time: a test must notice each.

python -m mutants [NAME ...]
"""

from __future__ import annotations

import argparse
import sys

from mutation import named, run_mutants

from mutants.tree import MUTANTS, PLATFORM


def main() -> int:
    """Run every mutant's tests; return how many runs noticed nothing."""
    parser = argparse.ArgumentParser(prog="mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="of mutants (default: all)")
    try:
        chosen = named(MUTANTS, parser.parse_args().names)
    except ValueError as error:
        parser.error(str(error))
    return run_mutants(PLATFORM, [(mutant, PLATFORM.nodes(mutant)) for mutant in chosen])


if __name__ == "__main__":
    sys.exit(main())
