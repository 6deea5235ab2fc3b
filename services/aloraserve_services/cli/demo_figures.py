"""The demo's figures: TTFT of both kinds by prompt length, tokens not prefilled, time saved."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aloraserve_services.cli.demo_player import Row
from aloraserve_services.models.untrained import TWIN_SUFFIX


@dataclass(frozen=True, slots=True)
class Comparison:
    """TTFT of both kinds at one prompt length, medians in seconds; None where no call was made."""

    prompt_tokens: int
    alora_s: float
    lora_first_s: float | None
    lora_returning_s: float | None

    @property
    def first_ratio(self) -> float | None:
        """TTFT LoRA (first) : aLoRA."""
        return None if self.lora_first_s is None else self.lora_first_s / self.alora_s

    @property
    def returning_ratio(self) -> float | None:
        """TTFT LoRA (returning) : aLoRA."""
        return None if self.lora_returning_s is None else self.lora_returning_s / self.alora_s


def comparisons(rows: list[Row]) -> Iterator[Comparison]:
    """Yield one comparison per turn that had both kinds."""
    for conversation, turn in dict.fromkeys((row.conversation, row.turn) for row in rows):
        here = [row for row in rows if (row.conversation, row.turn) == (conversation, turn)]
        alora, lora = (
            [row for row in here if row.kind == "alora"],
            [row for row in here if row.kind == "lora"],
        )
        if alora and lora:
            yield Comparison(
                prompt_tokens=round(_median([row.prompt_tokens for row in alora]) or 0),
                alora_s=_median([row.ttft_s for row in alora]) or 0.0,
                lora_first_s=_median([row.ttft_s for row in lora if row.state == "first"]),
                lora_returning_s=_median([row.ttft_s for row in lora if row.state == "returning"]),
            )


def _median(values: list[float] | list[int]) -> float | None:
    return float(statistics.median(values)) if values else None


def measured_saving_s(rows: list[Row]) -> float:
    """Return the TTFT that aLoRA calls saved against their twins, over the pairs that were both called in a turn."""
    twins = {(row.conversation, row.turn, row.adapter): row.ttft_s for row in rows if row.kind == "lora"}
    return sum(
        twins[key] - row.ttft_s
        for row in rows
        if row.kind == "alora" and (key := (row.conversation, row.turn, row.adapter + TWIN_SUFFIX)) in twins
    )


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return the demo's summary, for JSON."""
    return {
        "ttft": [
            {
                "prompt_tokens": compared.prompt_tokens,
                "alora_s": compared.alora_s,
                "lora_first_s": compared.lora_first_s,
                "lora_returning_s": compared.lora_returning_s,
                "lora_first_to_alora": compared.first_ratio,
                "lora_returning_to_alora": compared.returning_ratio,
            }
            for compared in comparisons(rows)
        ],
        "tokens_not_prefilled": {
            kind: sum(row.cached_tokens for row in rows if row.kind == kind) for kind in ("base", "alora", "lora")
        },
        "prompt_tokens": {
            kind: sum(row.prompt_tokens for row in rows if row.kind == kind) for kind in ("base", "alora", "lora")
        },
        "time_saved_s": measured_saving_s(rows),
    }
