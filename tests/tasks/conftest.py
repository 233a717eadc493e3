from __future__ import annotations

import pytest


@pytest.fixture
def tsv_folder(tmp_path):
    """A function that writes files (text or bytes, by name) into a folder and returns it."""

    def write(name: str = "my-task", **files: str | bytes):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for stem, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (folder / f"{stem}.tsv").write_bytes(data)
        return folder

    return write
