"""Checkpoints that are already quantized, recognized by their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from tokenbounds.errors import ModelError
from tokenbounds.models.pretrained.filling import first_line
from tokenbounds.models.pretrained.quip_sharp import FAMILIES, QUIP_SHARP


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the weights are quantized."""
    return bool(config.get("quantization_config") or config.get("quip_params"))


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of a quantized checkpoint hold, from its configuration, as `decoded.open_values` takes it.

    Raises
    ------
    ModelError
        If it is a QuIP# checkpoint of an architecture that those are not read of.
    """
    if not config.get("quip_params"):
        return dict(config["quantization_config"])
    if config["model_type"] not in FAMILIES:
        raise ModelError(f"a QuIP# checkpoint of the architecture {config['model_type']} is not supported.")
    return {**config["quip_params"], "quant_method": QUIP_SHARP}


def local_folder(where: str, revision: str | None) -> Path:
    """The folder of a checkpoint; one on the hub is downloaded, without anything that could be run.

    Raises
    ------
    ModelError
        If it cannot be downloaded.
    """
    if Path(where).is_dir():
        return Path(where)
    try:
        return Path(snapshot_download(where, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"cannot download {where}: {first_line(error)}") from error
