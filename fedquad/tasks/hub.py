"""The Hugging Face hub, with an answer within seconds where it is out of reach."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from fedquad.config import InputError

CONNECT_TIMEOUT_S = 5.0


def require_hub(field: str, value: str, offline_ways: str) -> None:
    """Raise `InputError` naming ``offline_ways`` unless the hub answers at all.

    Asked first because `huggingface_hub` itself retries for about 25 s before
    it says that there is no network.
    """
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=CONNECT_TIMEOUT_S)
    # The error's type depends on the HTTP library of the hub's version (requests, httpx, httpx2).
    except Exception as error:
        reason = f"{constants.ENDPOINT} does not answer ({error})"
        raise InputError(field, value, f"{offline_ways}; {reason}") from error


def hub_file(
    repo_id: str, filename: str, revision: str, *, field: str, value: str, offline_ways: str
) -> Path:
    """Path of a data set's file at a pinned revision, from the local cache or downloaded.

    Raises
    ------
    InputError
        Not in the cache, and the hub cannot be reached or does not give it.
    """
    file = {"repo_id": repo_id, "filename": filename, "revision": revision, "repo_type": "dataset"}
    try:
        return Path(huggingface_hub.hf_hub_download(**file, local_files_only=True))
    except LocalEntryNotFoundError:
        require_hub(field, value, offline_ways)
    try:
        return Path(huggingface_hub.hf_hub_download(**file))
    except OSError as error:  # every error of the hub is one
        reason = f"the hub did not give {repo_id}/{filename} ({error})"
        raise InputError(field, value, f"{offline_ways}; {reason}") from error
