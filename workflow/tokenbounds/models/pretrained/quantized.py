"""Checkpoints that are already quantized: recognized by their configuration, decoded to the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.models.families import Family
from tokenbounds.models.pretrained.filling import fill_model, first_line, reading
from tokenbounds.models.pretrained.lattice_layers import PublishedCodes
from tokenbounds.models.pretrained.packed import dense_tensors
from tokenbounds.models.pretrained.quip_sharp import FAMILIES, read_quip_sharp
from tokenbounds.models.pretrained.tensor_files import TensorFiles


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the weights are quantized."""
    return bool(config.get("quantization_config") or config.get("quip_params"))


def read_quantized(
    where: str, revision: str | None, config: Mapping[str, Any], family: Family
) -> tuple[PreTrainedModel, PublishedCodes | None]:
    """The dense model, float32, that a quantized checkpoint represents, and its codes if it is a QuIP# one.

    Parameters
    ----------
    where : str
        A folder or a hub name.
    revision : str, optional
        Of the hub.
    config : mapping
        The checkpoint's configuration.
    family : Family

    Raises
    ------
    ModelError
        If it cannot be found, its quantization is not read, or its tensors do not fit.
    """
    folder = local_folder(where, revision)
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "quip_params")}
    with reading(where):
        settings = getattr(transformers, family.config_class).from_dict(plain)
    settings._attn_implementation = "sdpa"
    try:
        files = TensorFiles(folder)
        codes, transposed = None, family.config_class == "GPT2Config"
        if not config.get("quip_params"):
            tensors = dense_tensors(files, config["quantization_config"], transposed)
        elif config["model_type"] not in FAMILIES:
            raise ModelError(f"a QuIP# checkpoint of the architecture {config['model_type']} is not supported.")
        else:
            with torch.device("meta"):
                model = getattr(transformers, family.model_class)(settings)
            shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
            codes, tensors = read_quip_sharp(files, config["quip_params"], shapes)
            tensors |= {name: torch.from_numpy(value) for name, value in codes.dense(shapes).items()}
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    return fill_model(settings, family, tensors, where), codes


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
