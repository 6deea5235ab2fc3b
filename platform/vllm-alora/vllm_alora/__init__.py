"""Activated LoRA (aLoRA, arXiv 2504.12397) for stock vLLM.

vLLM loads :func:`register` through the ``vllm.general_plugins`` entry point, in every process and possibly more than
once. It teaches vLLM to load PEFT aLoRA adapters, to apply them from their activation point on, and to key the KV
blocks before that point as the base model's own.
"""

from vllm_alora.activation import find_activation

__all__ = ["find_activation", "register"]
__version__ = "0.1.0"


def register() -> None:
    """Patch vLLM's seams, each at most once per process, and see what comes out.

    Raises:
        UnsupportedVllmError: the installed vLLM is not as this version of the plugin knows it.
    """
    from vllm_alora.patches import apply_all
    from vllm_alora.self_check import check
    from vllm_alora.versions import check_version

    check_version()
    apply_all()
    check()
