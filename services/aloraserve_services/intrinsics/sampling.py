"""Several answers of the base model to each of many conversations, sampled in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aloraserve_services.extras import require

MAX_ANSWER_TOKENS = 12
TEMPERATURE = 0.5
_BATCH_CHATS = 64
_BATCH_TOKENS = 4096
Chat = list[dict[str, str]]


class _Begun(NamedTuple):
    """An answer that is not at its end, as many times as it was drawn.

    Args:
        chat: number of the conversation.
        ids: of its tokens.
        times: that it was drawn.
    """

    chat: int
    ids: tuple[int, ...]
    times: int


class AnswerSampler:
    """Samples answers of a base model: their first lines, cut at :data:`MAX_ANSWER_TOKENS`.

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
        texts = self._tokenizer.batch_decode([[number] for number in range(len(self._tokenizer))])
        self._ends = {number for number, text in enumerate(texts) if "\n" in text} | {self._tokenizer.eos_token_id}

    def answers(self, chats: Sequence[Chat], count: int) -> list[list[str]]:
        """Return so many answers to each conversation, equal ones side by side.

        Args:
            chats: that end with a user message.
            count: of the answers to each.
        """
        prompts = [
            self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
        ]
        lengths = [len(ids) for ids in self._tokenizer(prompts, add_special_tokens=False).input_ids]
        found: list[list[str]] = [[] for _ in chats]
        for numbers in _batches(lengths):
            with self._torch.no_grad():
                drawn = self._sampled([prompts[number] for number in numbers], count)
            for number, answers in zip(numbers, drawn, strict=True):
                texts = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
                found[number] = [text.strip() for text in texts]
        return found

    def _sampled(self, prompts: Sequence[str], count: int) -> list[list[tuple[int, ...]]]:
        """Return the ids of so many answers to each prompt. Answers that begin alike are computed once."""
        torch, model = self._torch, self._model.model
        read = self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        ids, mask = (tensor.to(self._model.device) for tensor in (read.input_ids, read.attention_mask))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        cache, positions = out.past_key_values, positions[:, -1:]
        begun = [_Begun(number, (), count) for number in range(len(prompts))]
        ended: list[list[tuple[int, ...]]] = [[] for _ in prompts]
        while True:
            parents, begun = self._continued(begun, self._drawn(out.last_hidden_state[:, -1], count), ended)
            if not begun:
                return ended
            rows = torch.tensor(parents, device=mask.device)
            cache.batch_select_indices(rows)
            mask = torch.cat([mask[rows], mask.new_ones(len(rows), 1)], 1)
            positions = positions[rows] + 1
            last = torch.tensor([[answer.ids[-1]] for answer in begun], device=mask.device)
            out = model(
                input_ids=last, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )

    def _drawn(self, hidden: Any, count: int) -> list[list[int]]:
        """Return so many next ids per row."""
        chances = self._torch.softmax(self._model.lm_head(hidden).float() / TEMPERATURE, -1)
        drawn: list[list[int]] = self._torch.multinomial(chances, count, True, generator=self._generator).tolist()
        return drawn

    def _continued(
        self, begun: Sequence[_Begun], drawn: Sequence[Sequence[int]], ended: list[list[tuple[int, ...]]]
    ) -> tuple[list[int], list[_Begun]]:
        """Return answers that go on, after the rows that they go on from; the others are added to those that ended."""
        parents, longer = [], []
        for row, (answer, ids) in enumerate(zip(begun, drawn, strict=True)):
            for last, times in Counter(ids[: answer.times]).items():
                now = (*answer.ids, last)
                if last in self._ends or len(now) == MAX_ANSWER_TOKENS:
                    ended[answer.chat] += [now] * times
                else:
                    parents.append(row)
                    longer.append(_Begun(answer.chat, now, times))
        return parents, longer


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of conversations, those of similar length together."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batch and (len(batch) == _BATCH_CHATS or (len(batch) + 1) * lengths[number] > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
