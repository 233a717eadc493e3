"""Our payloads inside Flower's records: bytes in a `ConfigRecord`, one a part of a message."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from fedquad.federation.wire import MAX_PAYLOAD_BYTES, Message, WireError, decode

_KEY = "payload"


def record(payload: bytes) -> ConfigRecord:
    """A payload (`fedquad.federation.wire.encode`) as a record.

    Equal payloads are equal objects to Flower, which stores and sends them once.
    """
    return ConfigRecord({_KEY: payload})


def records(parts: Mapping[str, bytes]) -> RecordDict:
    """A message's content: each part under its name."""
    return RecordDict({name: record(payload) for name, payload in parts.items()})


def read(content: RecordDict, name: str, max_bytes: int = MAX_PAYLOAD_BYTES) -> Message:
    """One part of a message's content, decoded.

    Parameters
    ----------
    max_bytes : int
        Looked at before anything is decoded.

    Raises
    ------
    WireError
        No such part, more than that, or bytes that are no payload.
    """
    found = content.get(name)
    payload = found.get(_KEY) if isinstance(found, ConfigRecord) else None
    if not isinstance(payload, bytes):
        value = sorted(map(str, content))[:9] if found is None else type(found).__name__
        raise WireError(f"record {name!r}", value, "a ConfigRecord with bytes as its payload")
    if len(payload) > max_bytes:
        raise WireError(f"record {name!r}", f"{len(payload)} bytes", f"at most {max_bytes}")
    return decode(payload)
