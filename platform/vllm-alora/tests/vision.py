"""A small random vision model (Idefics3 around a Llama): its pictures, and PEFT's answers on transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tiny import VOCABULARY, Answer, answering_as, with_adapters, write_tokenizer

SPECIAL = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
BORDER, IMAGE, _, GLOBAL = range(VOCABULARY, VOCABULARY + len(SPECIAL))
SIDE = 168
PATCHES = 36
PLACE = (BORDER, GLOBAL, *[IMAGE] * PATCHES, BORDER)
"""Token ids that vLLM puts in the place of one ``IMAGE``."""
TEXT_LINEARS = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""An adapter's ``target_modules``: the vision tower has projections of the same names."""


def write_vision_model(path: Path) -> Path:
    """Write the model, its tokenizer and its image processor; nothing is fetched."""
    import torch
    from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers import Idefics3ImageProcessor as ImageProcessor

    torch.manual_seed(0)
    text = {
        "model_type": "llama",
        "vocab_size": VOCABULARY + 32,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "initializer_range": 0.3,
    }
    config = Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=IMAGE, pad_token_id=1, tie_word_embeddings=False
    )
    Idefics3ForConditionalGeneration(config).save_pretrained(path)
    write_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    edge = {"longest_edge": SIDE}
    images = ImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False)
    Idefics3Processor(images, tokenizer, image_seq_len=PATCHES).save_pretrained(path)
    return path


def picture(seed: int) -> Any:
    """Return a picture of noise."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


@dataclass
class VisionReference:
    """PEFT on transformers: the next token after each, with pictures."""

    model_path: Path
    adapters_path: Path
    names: tuple[str, ...]

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForImageTextToText

        return with_adapters(AutoModelForImageTextToText, self.model_path, self.adapters_path, self.names)

    @cached_property
    def _image_processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.model_path).image_processor

    def answer(
        self, prompt: Sequence[int], pictures: Sequence[Any], adapter: str | None, said: Sequence[int]
    ) -> Answer:
        """Return PEFT's greedy tokens and their log-probabilities after a prompt and each token of an answer to it."""
        import torch

        placed = [token for one in prompt for token in (PLACE if one == IMAGE else (one,))]
        images = self._image_processor([list(pictures)], return_tensors="pt") if pictures else {}
        fields = {name: images[name] for name in ("pixel_values", "pixel_attention_mask") if name in images}
        with torch.no_grad(), answering_as(self._model, adapter):
            logits = self._model(input_ids=torch.tensor([[*placed, *said]]), **fields).logits[0, len(placed) - 1 : -1]
        best, tokens = torch.log_softmax(logits, -1).max(-1)
        return Answer(tokens.tolist(), best.tolist())
