"""Small encoders of the paper's three architectures, and their tokenizer, before pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from fedquad.config import require_choice, require_int, require_positive
from fedquad.tasks.microworld import MICRO_TASKS, make_task
from fedquad.tasks.microworld.corpus import passage

ARCHITECTURES = ("roberta", "bert", "deberta-v2")  # `model_type` in transformers
VOCABULARY_PASSAGES = 60_000
# The number of special tokens is the same, so a word has the same id in every architecture.
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_BERT_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
NUM_SPECIAL_TOKENS = len(_ROBERTA_TOKENS)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of one pretraining run; the defaults made the encoder ``embedded``, see `RECIPES`.

    Parameters
    ----------
    architecture : {"roberta", "bert", "deberta-v2"}
        Of the encoder, as transformers names it.
    num_layers, hidden_size, num_heads : int
        Of the encoder; the feed-forward width is four times ``hidden_size``.
    max_length : int
        Tokens a row at most, special ones included.
    num_steps, warmup_steps : int
        Optimizer steps, and how many of them the rate rises for; then it falls as a cosine.
    batch_size : int
        Rows a step.
    learning_rate, weight_decay : float
        Of AdamW; the rate at its peak.
    seed : int
        Initial weights, text and masks.
    """

    num_layers: int = 12
    hidden_size: int = 128
    num_heads: int = 4
    max_length: int = 126
    num_steps: int = 8000
    warmup_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 7e-4
    weight_decay: float = 0.01
    seed: int = 0
    architecture: str = "roberta"

    def __post_init__(self) -> None:
        for field in ("num_layers", "hidden_size", "num_heads", "num_steps", "batch_size"):
            require_int(field, getattr(self, field), 1)
        require_int("warmup_steps", self.warmup_steps, 0, self.num_steps)
        require_int("max_length", self.max_length, 8)
        require_int("seed", self.seed, 0)
        require_positive("learning_rate", self.learning_rate)
        require_choice("architecture", self.architecture, ARCHITECTURES)


# The encoders that ship, by their folder in data/encoders. The second and third saw half as much
# text as the first: a step of DeBERTaV3 costs 1.4 times one of RoBERTa on a CPU.
RECIPES = {
    "embedded": PretrainConfig(),
    "embedded-bert": PretrainConfig(architecture="bert", num_steps=4000),
    "embedded-deberta": PretrainConfig(architecture="deberta-v2", num_steps=4000),
}


def make_tokenizer(architecture: str = "roberta") -> PreTrainedTokenizerFast:
    """One token a word: the words of the micro-world, in the row format of an architecture.

    RoBERTa's rows are ``<s> a </s></s> b </s>``; BERT's and DeBERTaV3's
    ``[CLS] a [SEP] b [SEP]``, with token types 0 and 1.
    """
    is_roberta = architecture == "roberta"
    special_tokens = _ROBERTA_TOKENS if is_roberta else _BERT_TOKENS
    vocabulary = {word: i for i, word in enumerate((*special_tokens, *_words()))}
    if is_roberta:
        begin, padding, end, unknown, mask = special_tokens
        processor = processors.RobertaProcessing
    else:
        padding, begin, end, unknown, mask = special_tokens
        processor = processors.BertProcessing
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processor((end, vocabulary[end]), (begin, vocabulary[begin]))
    segments = [] if is_roberta else ["token_type_ids"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **({"bos_token": begin, "eos_token": end} if is_roberta else {}),
        cls_token=begin,
        pad_token=padding,
        sep_token=end,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=128,
        model_input_names=["input_ids", *segments, "attention_mask"],
    )


def _words() -> list[str]:
    rng = Random("vocabulary")
    texts = [text for _ in range(VOCABULARY_PASSAGES) for text in passage(rng) if text]
    for name in MICRO_TASKS:
        split = make_task(name).train
        texts += [*split.texts_a, *(split.texts_b or ())]
    return sorted({word for text in texts for word in text.split()})


def make_model(config: PretrainConfig, vocabulary_size: int) -> PreTrainedModel:
    """An encoder of random weights with a head that guesses words, drawn from the config's seed."""
    torch.manual_seed(config.seed)
    shape = {
        "vocab_size": vocabulary_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": 4 * config.hidden_size,
        # Fresh text at every step cannot be overfitted, and masks cost a third of a CPU step.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    num_positions = config.max_length + 2
    if config.architecture == "roberta":
        return RobertaForMaskedLM(
            RobertaConfig(
                **shape,
                max_position_embeddings=num_positions + 2,  # it counts from padding_idx + 1
                type_vocab_size=1,
                pad_token_id=1,
                bos_token_id=0,
                eos_token_id=2,
            )
        )
    if config.architecture == "bert":
        return BertForMaskedLM(
            BertConfig(
                **shape, max_position_embeddings=num_positions, type_vocab_size=2, pad_token_id=0
            )
        )
    return DebertaV2ForMaskedLM(
        DebertaV2Config(
            **shape,
            max_position_embeddings=num_positions,
            type_vocab_size=0,
            pad_token_id=0,
            # As microsoft/deberta-v3-large: positions enter attention alone, relative, both ways,
            # through the projections of the content, in buckets that widen with the distance.
            relative_attention=True,
            position_biased_input=False,
            pos_att_type="p2c|c2p",
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            max_relative_positions=-1,
            # 256 of 512 there, for rows of hundreds of tokens; ours have twenty: distances up to
            # 16 have a bucket each.
            position_buckets=num_positions // 4,
            layer_norm_eps=1e-7,
        )
    )
