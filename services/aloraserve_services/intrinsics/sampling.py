"""Several answers of the base model to each of many conversations, sampled at temperature 1 in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aloraserve_services.extras import require

MAX_ANSWER_TOKENS = 16
Chat = list[dict[str, str]]


class AnswerSampler:
    """Samples answers of a base model; answers that are longer than :data:`MAX_ANSWER_TOKENS` are cut.

    Args:
        model_path: of the base model, with its tokenizer.
        seed: equal seeds give equal answers on equal machines.

    Raises:
        StartError: the extra ``train`` is not installed, or the model cannot be loaded.
    """

    def __init__(self, model_path: Path, seed: int) -> None:
        require("train", "sampling the base model", "torch", "transformers")
        import torch
        from transformers import AutoTokenizer

        from aloraserve_services.training.base_weights import chosen_dtype, load_base

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            str(model_path), local_files_only=True, padding_side="left"
        )
        self._model: Any = load_base(model_path, chosen_dtype("auto")).eval()
        self._generator = torch.Generator(self._model.device).manual_seed(seed)

    def answers(self, chats: Sequence[Chat], count: int) -> list[list[str]]:
        """Return so many answers to each conversation.

        Args:
            chats: that end with a user message.
            count: of the answers to each.
        """
        with self._torch.no_grad():
            ids = self._sampled(self._prompts(chats), count)
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [[text.strip() for text in texts[at : at + count]] for at in range(0, len(texts), count)]

    def _prompts(self, chats: Sequence[Chat]) -> Any:
        rendered = [
            self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
        ]
        prompts = self._tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
        return prompts.to(self._model.device)

    def _sampled(self, prompts: Any, count: int) -> Any:
        """Return the sampled ids, a row per answer; behind its end an answer has end tokens alone."""
        torch, end = self._torch, self._tokenizer.eos_token_id
        mask = prompts.attention_mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        # The head runs over the last tokens alone: a slice of all logits would cost more than the layers.
        out = self._model.model(
            input_ids=prompts.input_ids, attention_mask=mask, position_ids=positions, use_cache=True
        )
        cache, last = out.past_key_values, out.last_hidden_state[:, -1].repeat_interleave(count, 0)
        cache.batch_repeat_interleave(count)
        mask, position = mask.repeat_interleave(count, 0), positions[:, -1:].repeat_interleave(count, 0)
        drawn: list[Any] = []
        ended = mask.new_zeros(len(mask), dtype=torch.bool)
        for _ in range(MAX_ANSWER_TOKENS):
            chances = torch.softmax(self._model.lm_head(last).float(), -1)
            ids = torch.multinomial(chances, 1, generator=self._generator).masked_fill(ended[:, None], end)
            drawn.append(ids)
            ended |= ids[:, 0] == end
            if bool(ended.all()):
                break
            mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), position + 1
            last = self._model.model(
                input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
        return torch.cat(drawn, 1)
