"""Files that a pretrained model is read from, so that editing one imports it again."""

from __future__ import annotations

from pathlib import Path

from tokenbounds.config import PretrainedModel

_SUFFIXES = {".safetensors", ".gguf", ".json"}


def checkpoint_files(spec: PretrainedModel) -> list[Path]:
    """Files of a checkpoint in a folder, sorted; none for one in a package or on the hub."""
    folder = Path(spec.name or "")
    if spec.package is not None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
