"""An adapter on disk, in the format of peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, TaskType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedquad.config import InputError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Kinds of LoRA with tensors or scalings of their own.
_VARIANTS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class AdapterLayout:
    """Where a model keeps what an adapter holds; the same for all adapters of one model.

    Attributes
    ----------
    layers_path : str
        Name of the list of layers, such as ``roberta.encoder.layer``.
    head_modules : tuple of str
        Modules that are trained whole, such as ``("classifier",)``.
    scaling : float
        alpha / r of the full rank; a lower rank keeps it.
    fan_in_fan_out : bool
        The projections store (in, out) weights, as GPT-2's do.
    base_model : str
        Name or folder of the pretrained weights, empty when unknown.
    """

    layers_path: str
    head_modules: tuple[str, ...]
    scaling: float
    fan_in_fan_out: bool = False
    base_model: str = ""


def write_peft(
    folder: Path,
    lora: Mapping[int, Mapping[str, Tensor]],
    head: Mapping[str, Tensor],
    layout: AdapterLayout,
    rank: int,
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Only the projections whose tensors are there become targets, so that part
    of an adapter is a whole one to peft.
    """
    tensors = {f"{_PREFIX}{name}": tensor for name, tensor in head.items()}
    targets = set()
    for layer, weights in lora.items():
        for name, tensor in weights.items():
            place = f"{layout.layers_path}.{layer}.{name}"
            tensors[f"{_PREFIX}{place}.weight"] = tensor
            targets.add(place.rpartition(".")[0])
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        inference_mode=True,
        base_model_name_or_path=layout.base_model,
        r=rank,
        lora_alpha=layout.scaling * rank,
        target_modules=sorted(targets),
        modules_to_save=list(layout.head_modules),
        fan_in_fan_out=layout.fan_in_fan_out,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def read_peft(
    folder: Path,
) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor], AdapterLayout]:
    """Read a LoRA adapter that `write_peft` or peft itself wrote: LoRA by layer, head, layout.

    Raises
    ------
    InputError
        Files that are missing or damaged, or another kind of adapter.
    """
    accepted = f"a folder with peft's {CONFIG_FILE} and {WEIGHTS_FILE} of a LoRA adapter"
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():  # peft would ask the hub for it
            raise InputError("adapter folder", str(folder), f"{accepted}; {name} is not there")
    try:
        stated = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if stated["peft_type"] != "LORA" or any(stated.get(variant) for variant in _VARIANTS):
            raise ValueError(f"plain LoRA, without {', '.join(_VARIANTS)}")
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError("adapter folder", str(folder), f"{accepted} ({error})") from error
    lora: dict[int, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    paths = set()
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX).removesuffix(".weight")
        if not name.endswith((".lora_A", ".lora_B")):
            head[key.removeprefix(_PREFIX)] = tensor
            continue
        parts = name.split(".")
        index = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if index is None:
            raise InputError("adapter tensor", key, "LoRA inside numbered layers")
        paths.add(".".join(parts[:index]))
        lora.setdefault(int(parts[index]), {})[".".join(parts[index + 1 :])] = tensor
    if len(paths) != 1:
        accepted = f"LoRA in one list of layers, found {sorted(paths)}"
        raise InputError("adapter folder", str(folder), accepted)
    saved = dict.fromkeys(config.modules_to_save or ())  # peft names some twice
    layout = AdapterLayout(
        layers_path=paths.pop(),
        head_modules=tuple(m for m in saved if any(n.startswith(f"{m}.") for n in head)),
        scaling=config.lora_alpha / config.r,
        fan_in_fan_out=config.fan_in_fan_out,
        base_model=config.base_model_name_or_path or "",
    )
    return dict(sorted(lora.items())), head, layout
