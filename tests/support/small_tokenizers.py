"""Small tokenizers of every kind that models have, trained on a few lines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CUT = ("<|start|>", "<|end|>")
"""Special tokens as chat templates have them."""
ODD = (
    AddedToken("<l>", lstrip=True, normalized=False, special=True),
    AddedToken("<r>", rstrip=True, normalized=False, special=True),
    AddedToken("wor", single_word=True, normalized=False, special=True),
    AddedToken("<|end|>x", normalized=False, special=False),
    AddedToken("Hello", normalized=True, special=False),
    AddedToken("  ", normalized=False, special=False),
)
"""Added tokens that look at what stands beside them, or that begin as another one does."""
CORPUS = [
    "Hello world, it's 12,345 times the same words: words, worlds and worse.",
    "é日本 über naïve\n\nfor x in range(10):\n    print(x)",
    "You answer briefly. What is the river's name? The city is green.",
]


def _byte_level(**options: Any) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)


def _gpt4() -> tuple[Tokenizer, Any]:
    tokenizer, trainer = _byte_level()
    pattern = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer, trainer


def _metaspace(scheme: str, model: Any, trainer: Any) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return tokenizer, trainer


def _llama2() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False)


def _wordpiece() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]"], show_progress=False)


def _words_with_a_cut_for_unknown_ones() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=CUT[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, trainers.WordLevelTrainer(vocab_size=20, special_tokens=[CUT[1]], show_progress=False)


def _bpe() -> Any:
    return trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False)


def _unigram() -> Any:
    return trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)


KINDS: dict[str, Callable[[], tuple[Tokenizer, Any]]] = {
    "byte-level": lambda: _byte_level(add_prefix_space=False),
    "byte-level-with-prefix-space": lambda: _byte_level(add_prefix_space=True),
    "gpt-4": _gpt4,
    "metaspace-always": lambda: _metaspace("always", models.BPE(unk_token="<unk>"), _bpe()),
    "metaspace-first": lambda: _metaspace("first", models.BPE(unk_token="<unk>"), _bpe()),
    "metaspace-never": lambda: _metaspace("never", models.BPE(unk_token="<unk>"), _bpe()),
    "unigram": lambda: _metaspace("first", models.Unigram(), _unigram()),
    "llama-2": _llama2,
    "wordpiece": _wordpiece,
    "words": _words_with_a_cut_for_unknown_ones,
}


@functools.cache
def small_tokenizer(kind: str, *, odd: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer.

    Args:
        kind: one of :data:`KINDS`.
        odd: whether it has the :data:`ODD` added tokens too.
    """
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(cut, normalized=False, special=True) for cut in CUT])
    if odd:
        for token in ODD:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    begin = CUT[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
