PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SOURCES := platform services benchmarks tests loadtests examples docs deploy/site helm

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo up status down bench-e2e bench-routing bench-flush bench-redis-clients bench-routing-live bench-gateway bench-grpc bench-observability bench-call-cost bench-savings bench-learning bench-routers bench-adapters loadtest loadtest-full bench-plugin gpu-kit gpu-check test test-all test-fast coverage fuzz-api plugin-matrix mutants mutants-plugin test-clients images-check weekly docs chart chart-policy proto proto-release lint format lock clean bench-training bench-limits bench-fairness bench-scaling bench-autoscaling train-demo

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: ## Install everything for a CPU into .venv (some minutes once, then nothing)
	@$(PYTHON) deploy/install/install.py --venv $(VENV) --profile run

install-dev: ## Install, with what tests and checks need
	@$(PYTHON) deploy/install/install.py --venv $(VENV) --profile dev

demo: install ## Start two replicas, run a conversation with adapters, show what was reused (ARGS="...")
	@$(BIN)/aloraserve demo $(ARGS)

train-demo: install ## Train, evaluate and write the adapters that ship, on what is there of them (needs the extra train)
	@$(BIN)/python -m aloraserve_services.cli.train_demo $(ARGS)

up: install ## Start the platform and leave it running (ARGS="...")
	@$(BIN)/aloraserve up $(ARGS)

status: install ## Show what is running
	@$(BIN)/aloraserve status $(ARGS)

down: install ## Stop the platform
	@$(BIN)/aloraserve down $(ARGS)

bench-e2e: install ## Measure TTFT of aLoRA and LoRA through HTTP, 500 and 2,000 tokens (ARGS="...")
	@$(BIN)/python -m benchmarks.end_to_end $(ARGS)

bench-routing: install ## Measure block keys, lookups, ingest and memory of the directory (ARGS="...")
	@$(BIN)/python -m benchmarks.directory $(ARGS)

bench-flush: install ## Empty the directory under load: decisions without it, and the time until it is whole (ARGS="...")
	@$(BIN)/python -m benchmarks.directory_flush $(ARGS)

bench-redis-clients: install ## Compare the way to Redis with other clients (ARGS="--redis-url URL")
	@$(BIN)/python -m benchmarks.redis_clients $(ARGS)

bench-routing-live: install ## Compare this gateway with sglang-router and vllm-router on six simulated engines (ARGS="...")
	@$(BIN)/python -m benchmarks.routing_live $(ARGS)

bench-gateway: install ## Measure what the way to the engine costs, by process, with targets (ARGS="--profile FOLDER")
	@$(BIN)/python -m benchmarks.gateway $(ARGS)

bench-grpc: install ## Measure gRPC beside HTTP: TTFT and the gateway's CPU time (ARGS="--rounds 3 --calls 100")
	@$(BIN)/python -m benchmarks.grpc_edge $(ARGS)

bench-channel: install ## Measure what carries calls from a gateway to a replica, by transport (ARGS="...")
	@$(BIN)/python -m benchmarks.channel $(ARGS)

bench-observability: install ## Measure what metrics cost the gateway, interleaved pairs, 15 min (ARGS="--otlp-endpoint URL")
	@$(BIN)/python -m benchmarks.observability $(ARGS)

bench-call-cost: install ## Measure the CPU time of each step of a call in the gateway, without HTTP and engines (ARGS="...")
	@$(BIN)/python -m benchmarks.call_cost $(ARGS)

bench-savings: install ## Check estimated savings against measured ones (ARGS="--url URL" for a running platform)
	@$(BIN)/python -m benchmarks.savings $(ARGS)

bench-learning: install ## Compare what a busy engine is learned to take with what it takes alone (ARGS="--dtype float32")
	@$(BIN)/python -m benchmarks.learning $(ARGS)

bench-routers: install ## Compare routers in the simulator on windows of a trace (ARGS="--trace FILE --replicas 8,32")
	@$(BIN)/python -m benchmarks.simulated_routers $(ARGS)

bench-scaling: install ## Compare autoscalers in the simulator: violations, replica-hours, hits (ARGS="--shape bursty --seeds 3")
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

bench-training: install ## Compare our training loop with PEFT's own, for an aLoRA and a LoRA (ARGS="--examples 8")
	@$(BIN)/python -m benchmarks.training $(ARGS)

bench-limits: install ## Measure what a call of a limited tenant costs in Redis, with targets (ARGS="--tenants 1,1000")
	@$(BIN)/python -m benchmarks.limits $(ARGS)

bench-fairness: install ## Measure how engines share prefill between two tenants over two gateways, simulated (ARGS="...")
	@$(BIN)/python -m benchmarks.fairness $(ARGS)

bench-autoscaling: install ## Grow and shrink a live fleet on several Ray nodes under load: failures, reuse (ARGS="...")
	@$(BIN)/python -m benchmarks.autoscaling $(ARGS)

loadtest: install-dev ## Compare LoRA with aLoRA under locust on a local platform in ten minutes, with a report (ARGS="--minutes 30")
	@$(BIN)/python -m loadtests $(ARGS)

loadtest-full: install-dev ## The same with more samples, conversations, rates and a full KV cache (an hour or more)
	@$(BIN)/python -m loadtests --profile full $(ARGS)

bench-adapters: install ## Measure the catalog, registrations, alias switches and intrinsics, with targets (ARGS="--part catalog")
	@$(BIN)/python -m benchmarks.adapters $(ARGS)

bench-plugin: install-dev ## Measure what aLoRA costs and saves in one vLLM process, with targets (ARGS="...")
	@$(BIN)/python platform/vllm-alora/benchmarks/bench_plugin.py --model "$$($(BIN)/python -m benchmarks.plugin_model)" $(ARGS)

gpu-kit: install-dev ## Pack vLLM's CUDA build, the plugin and its tests for a GPU machine without a network (ARGS="--out DIR")
	@$(BIN)/python platform/vllm-alora/gpu/kit.py $(ARGS)

gpu-check: ## Check the plugin on a GPU and measure it, ten minutes; needs an unpacked kit (ARGS="--site DIR/site --out DIR")
	@$(PYTHON) platform/vllm-alora/gpu/check.py $(ARGS)

test: install-dev ## Run every test, real engines and the whole platform included (ARGS="...")
	@$(BIN)/python tests/lanes.py $(ARGS)

test-all: install-dev ## Run every test, the slow ones too (engines with several workers)
	@$(BIN)/python tests/lanes.py --all $(ARGS)

coverage: install-dev ## Run what test-fast runs and show which lines it covers
	@$(BIN)/python -m coverage run -m pytest -q -m "not ray and not engine and not e2e" $(ARGS)
	@$(BIN)/python -m coverage report
	@for room in platform/aloraserve services/aloraserve_services; do \
	  echo "$$room: $$($(BIN)/python -m coverage report --include="$$room/*" --format=total) % of lines covered"; done

test-fast: install-dev ## Run the tests that start neither an engine nor the platform
	@$(BIN)/python -m pytest -q -m "not ray and not engine and not e2e" $(ARGS)

fuzz-api: install-dev ## Send a running platform requests made from its own description, right and wrong ones (ARGS="--url URL --cases 3000")
	@PYTHONPATH=tests $(BIN)/python -m support.api_fuzz $(ARGS)

plugin-matrix: ## Run vllm-alora's tests against each vLLM it supports (ARGS="--versions 0.31.0 -- -m 'not engine'")
	@$(PYTHON) deploy/install/plugin_matrix.py $(ARGS)

mutants: install-dev ## Put faults into directory, routing and simulator, one at a time: a test must notice each (ARGS="NAME")
	@PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

mutants-plugin: install-dev ## Put faults into vllm-alora, one at a time: a test must notice each (ARGS="--live")
	@$(BIN)/python platform/vllm-alora/tests/mutants.py $(ARGS)

test-clients: install-dev ## Run other projects' clients, unchanged, in environments of their own (ARGS="litellm guidellm")
	@PYTHONPATH=tests:. $(BIN)/python -m clients $(ARGS)

images-check: install-dev ## Run the steps of an image's Dockerfile on this machine, kept apart from it; needs root (ARGS="gateway cpu")
	@PYTHONPATH=tests $(BIN)/python -m support.image_root $(ARGS)

chart-policy: install-dev ## Run checkov over the chart's profiles, in an environment of its own
	@test -x .checkov/bin/checkov || ($(PYTHON) -m venv .checkov && .checkov/bin/pip install -q checkov==3.3.30)
	@PYTHONPATH=tests $(BIN)/python -m support.chart_policy .checkov/bin/checkov

weekly: install-dev ## Run what takes too long for every change: all tests, all mutants, the plugin's matrix (hours)
	@$(BIN)/python tests/lanes.py --all --coverage; tests=$$?; \
	PYTHONPATH=tests $(BIN)/python -m mutants; mutants=$$?; \
	$(BIN)/python platform/vllm-alora/tests/mutants.py --live; plugin=$$?; \
	$(PYTHON) deploy/install/plugin_matrix.py --keep-going; matrix=$$?; \
	PYTHONPATH=tests $(BIN)/python -m support.image_root cpu; images=$$?; \
	$(MAKE) chart-policy; policy=$$?; \
	$(MAKE) test-clients; clients=$$?; \
	echo "weekly, exit codes: tests $$tests, mutants $$mutants, the plugin's $$plugin, matrix $$matrix, images $$images, chart $$policy, clients $$clients"; \
	[ "$$tests $$mutants $$plugin $$matrix $$images $$policy $$clients" = "0 0 0 0 0 0 0" ]

docs: install-dev ## Build the documentation into site/, every link and anchor checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-fields: install-dev ## Write the page of all request fields from the request models
	$(BIN)/python -m aloraserve.wire.field_table > docs/reference/openai-fields.md

chart: install-dev ## Write the chart's README from its values, and the settings that its schema accepts
	$(BIN)/python helm/write_readme.py

proto: install-dev ## Generate the messages of the gRPC API from their .proto files
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -I platform --python_out=platform \
	  --mypy_out=quiet:platform platform/aloraserve/v1/*.proto
	$(BIN)/buf lint
	$(BIN)/buf breaking --against platform/aloraserve/v1/released.binpb

proto-release: install-dev ## Note the .proto files as released: no later change may break their clients
	$(BIN)/buf build -o platform/aloraserve/v1/released.binpb

lint: install-dev ## Check style, types and the walls between rooms
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev ## Format the sources and fix what can be fixed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lock: install-dev ## Pin the requirement lists again (deploy/install/*.txt, deploy/images/locks/*.txt)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q uv
	cd deploy/install && for list in cpu dev $$(ls clients/*.in | sed 's/\.in$$//'); do \
	  $(abspath $(BIN))/uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet \
	    --overrides overrides.txt --no-emit-package torch $$list.in -o $$list.txt && \
	  sed -i.never "/sys_platform == 'never'/d" $$list.txt && rm $$list.txt.never || exit 1; \
	done
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --no-index -w build/plugin platform/vllm-alora
	cd deploy/images/locks && compile() { $(abspath $(BIN))/uv pip compile --python-version 3.11 --no-annotate --no-header \
	    --quiet --generate-hashes --find-links ../../../build/plugin --no-emit-package vllm-alora "$$@"; } && \
	  extras="--extra object-stores --extra oci" && \
	  compile --universal ../../../pyproject.toml $$extras -c ../../install/cpu.txt -o gateway.txt && \
	  compile --python-platform x86_64-manylinux_2_28 ../../../pyproject.toml $$extras --extra gpu -c gateway.txt -o cuda.txt && \
	  compile --universal --no-deps ../../install/cpu.txt ../../install/cpu-nodeps.txt -o cpu.txt && \
	  compile --universal tools.in -c ../../install/cpu.txt -o tools.txt && \
	  echo uv | compile --no-deps --universal - -c tools.txt -o uv.txt

clean: ## Delete caches and build outputs; .venv and the state folder stay
	rm -rf .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build site
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
