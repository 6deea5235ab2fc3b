"""The prompt builder of a plan, for gateways and bare engines alike."""

from __future__ import annotations

import functools
from typing import Any

import structlog

from aloraserve.adapters import AdapterRegistry
from aloraserve.adapters.served import resolved
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.tenants.shared_prefix import PublicBlocks, none_public
from aloraserve_services.models.generation_defaults import embedding_count, sampling_defaults
from aloraserve_services.plan import FleetPlan

log = structlog.get_logger(__name__)


def open_prompts(
    plan: FleetPlan, tokenizer: Any, adapters: AdapterRegistry, public_blocks: PublicBlocks = none_public
) -> PromptBuilder:
    """Return what makes requests of bodies for a plan's model.

    Args:
        plan: of the fleet.
        tokenizer: of its model, a ``transformers`` one.
        adapters: that are served.
        public_blocks: knows which blocks all tenants share.

    Raises:
        SettingsError: the model's own defaults are not accepted.
    """
    prompts = PromptBuilder(
        tokenizer,
        plan.keyspace,
        base_model=plan.served_name,
        max_model_len=plan.settings.max_model_len,
        resolve=functools.partial(resolved, adapters),
        embeddings=embedding_count(plan.model_path),
        defaults=sampling_defaults(plan.model_path, plan.settings.generation_config),
        public_blocks=public_blocks,
        tool_parser=plan.settings.tool_parser,
    )
    log.info("tool_parser", chosen=prompts.tool_format, setting=plan.settings.tool_parser)
    return prompts
