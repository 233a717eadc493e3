"""Load any encoder for classification, and find its transformer layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from fedquad.config import InputError, require_choice, require_int
from fedquad.model.pretrained import (
    HUB_NAMES,
    Pretrained,
    architecture,
    find_pretrained,
    model_identity,
    read_config,
)

__all__ = [
    "HUB_NAMES",
    "Backbone",
    "architecture",
    "find_layers",
    "load_backbone",
    "model_identity",
    "num_layers",
]


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder with a fresh head, ready to be fine-tuned.

    Attributes
    ----------
    name : str
        ``embedded``, ``minilm``, the name on the hub, or the folder.
    model : transformers.PreTrainedModel
        ``…ForSequenceClassification`` in fp32, in eval mode, all weights trainable.
    tokenizer : transformers.PreTrainedTokenizerBase
    fresh_modules : tuple of str
        The head: the largest modules none of whose weights are in the
        checkpoint (the classifier, and the pooler where it is fresh).
    fingerprint : str
        SHA-256 of the weights file.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fresh_modules: tuple[str, ...]
    fingerprint: str

    @property
    def max_length(self) -> int:
        """Most tokens a row can have, special ones included."""
        for name, module in self.model.base_model.named_modules():
            # RoBERTa counts positions from the padding index on, so its first rows are never used.
            is_table = isinstance(module, nn.Embedding) and module.padding_idx is not None
            if is_table and name.endswith("position_embeddings"):
                return module.num_embeddings - module.padding_idx - 1
        return self.model.config.max_position_embeddings


def load_backbone(model: str, *, num_labels: int, seed: int, attention: str = "eager") -> Backbone:
    """Load pretrained weights and put a classification head on them.

    Parameters
    ----------
    model : str
        ``embedded``, ``minilm``, a folder in Hugging Face format or a name on
        the hub. Weights are read from safetensors only.
    num_labels : int
        Classes of the task, at least 2.
    seed : int
        Of the fresh weights; the same seed gives the same bytes.
    attention : {"eager", "sdpa"}
        Implementation of attention in transformers.

    Raises
    ------
    InputError
        The files are missing or damaged, are no classification encoder, lack
        weights of the encoder itself, or come without a tokenizer that fits.
    """
    require_int("num_labels", num_labels, 2)
    require_int("seed", seed, 0)
    require_choice("attention", attention, ("eager", "sdpa"))
    source = find_pretrained(model)
    read_config(source.folder)
    with _quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, loading = _load_network(source, num_labels, attention)
        tokenizer = _load_tokenizer(source)
    absent = set(loading["missing_keys"])
    absent |= {name for name, *_ in loading["mismatched_keys"]}  # a head for other labels
    fresh = _wholly_absent(network, absent)
    _require_whole_encoder(source, network, absent)
    vocabulary = network.get_input_embeddings().num_embeddings
    if len(tokenizer) > vocabulary:
        accepted = f"a tokenizer of at most {vocabulary} tokens, found one of {len(tokenizer)}"
        raise InputError("model", model, accepted)
    if tokenizer.pad_token is None:  # decoders have none; their classifiers look for one
        tokenizer.pad_token = tokenizer.eos_token
        network.config.pad_token_id = tokenizer.pad_token_id
    network.name_or_path = source.name  # adapters state it: a name, not where this machine keeps it
    network.eval()
    return Backbone(source.name, network, tokenizer, fresh, source.sha256)


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The transformer layers of a model, wrapped by peft or not.

    They are the one `nn.ModuleList` of blocks of one class, with linear maps
    inside, that is as long as the configuration's ``num_hidden_layers``.

    Raises
    ------
    InputError
        There is no such list (layers that share weights, as in ALBERT), or more
        than one (encoder and decoder, as in BART).
    """
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)  # experts, say
        if isinstance(module, nn.ModuleList) and not inside and _repeats_a_block(module):
            found[name] = module
    expected = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if expected is not None:
        found = {name: layers for name, layers in found.items() if len(layers) == expected}
    if len(found) != 1:
        what = f"several: {', '.join(found)}" if found else "none"
        count = "" if expected is None else f" of length {expected}"
        accepted = f"a model with exactly one list{count} of identical blocks, found {what}"
        raise InputError("model", type(model).__name__, accepted)
    return next(iter(found.values()))


def num_layers(model: nn.Module) -> int:
    """L: how many transformer layers `find_layers` finds."""
    return len(find_layers(model))


def _repeats_a_block(modules: nn.ModuleList) -> bool:
    if not len(modules) or len({type(module) for module in modules}) != 1:
        return False
    linear = [any(isinstance(m, (nn.Linear, Conv1D)) for m in block.modules()) for block in modules]
    return not isinstance(modules[0], (nn.Linear, Conv1D)) and all(linear)


def _load_network(
    source: Pretrained, num_labels: int, attention: str
) -> tuple[PreTrainedModel, dict]:
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            source.folder,
            num_labels=num_labels,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        accepted = f"safetensors weights in {source.folder}, found a damaged file ({error})"
        raise InputError("model", source.name, accepted) from error
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        accepted = f"an encoder that transformers can load for classification ({error})"
        raise InputError("model", source.name, accepted) from error


def _load_tokenizer(source: Pretrained) -> PreTrainedTokenizerBase:
    accepted = f"a tokenizer in {source.folder} (tokenizer.json, vocab.txt or the like)"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception from Rust
        raise InputError("model", source.name, f"{accepted} that can be read ({error})") from error
    # Where the files are missing, transformers returns a tokenizer of special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError("model", source.name, accepted)
    return tokenizer


def _wholly_absent(model: nn.Module, absent: set[str], prefix: str = "") -> tuple[str, ...]:
    """Names of the largest modules below ``model`` all of whose parameters are in ``absent``."""
    names: list[str] = []
    for child_name, child in model.named_children():
        name = f"{prefix}{child_name}"
        weights = [f"{name}.{weight}" for weight, _ in child.named_parameters()]
        if weights and absent.issuperset(weights):
            names.append(name)
        elif not absent.isdisjoint(weights):
            names.extend(_wholly_absent(child, absent, f"{name}."))
    return tuple(names)


def _require_whole_encoder(source: Pretrained, model: PreTrainedModel, absent: set[str]) -> None:
    """Only a head may be fresh: every weight of the encoder but its pooler is in the checkpoint."""
    encoder = model.base_model
    pooler = getattr(encoder, "pooler", None)
    may_be_fresh = set() if pooler is None else {id(weight) for weight in pooler.parameters()}
    inside = {id(weight) for weight in encoder.parameters()} - may_be_fresh
    lost = [n for n, weight in model.named_parameters() if n in absent and id(weight) in inside]
    if lost and encoder is not model:
        accepted = (
            f"a checkpoint with every weight of {type(encoder).__name__} in its shape; "
            f"{len(lost)} are not there, such as {lost[0]}"
        )
        raise InputError("model", source.name, accepted)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence the report on new weights and the progress bar; errors are raised, not logged."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
