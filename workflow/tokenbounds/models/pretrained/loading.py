"""Pretrained models: a hub name, a folder, or a GGUF file, turned into a card and coded values.

The architecture is looked up by name before any weight is read; weights are read from safetensors or GGUF, or, where an
installed package ships nothing else, from a torch archive without unpickling it; no code from the model is run.
They are read where they are, one tensor at a time; quantized ones are decoded to the dense values they represent. The
model is built from the card alone, and checked against the original.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedConfig, PreTrainedModel

from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.files import check_name, check_no_pointer, parse_json, write_json
from tokenbounds.models.build import build_model, coded_parameters, coded_shapes, count_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import copy_tensors, save_checkpoint
from tokenbounds.models.families import Family, family_of
from tokenbounds.models.pretrained.filling import (
    FREE_VALUES,
    check_finite,
    fill_model,
    first_line,
    reading,
)
from tokenbounds.models.pretrained.gguf_metadata import GgufFile
from tokenbounds.models.pretrained.gguf_values import GGUF
from tokenbounds.models.pretrained.in_place import InPlace, open_plain, open_quantized
from tokenbounds.models.pretrained.probe import compare_models
from tokenbounds.models.pretrained.quantized import is_quantized, local_folder, quantization_of
from tokenbounds.models.pretrained.tensor_files import files_of
from tokenbounds.models.pretrained.torch_archive import read_tensors
from tokenbounds.models.weights import CARD_FILE, WEIGHTS_FILE, write_original
from tokenbounds.software import package_folder

_ARCHIVE = "pytorch_model.bin"
_FORMER_CODES = "codes.safetensors"
# What configurations of other families say about attention, positions and scales; a family that does not know a key
# would silently ignore it.
_COMPUTING = (
    "sliding_window", "no_rope_layers", "attention_chunk_size", "partial_rotary_factor", "rotary_pct", "rotary_dim",
    "rope_local_base_freq", "alibi", "attention_multiplier", "residual_multiplier", "embedding_multiplier",
    "logits_scaling", "logit_scale", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "use_qk_norm", "num_local_experts", "parallel_residual", "use_parallel_residual",
)  # fmt: skip

# Lists of this length are made when a configuration is read.
_MOST = {"num_hidden_layers": 1 << 16, "n_layer": 1 << 16, "num_labels": 1 << 20}


def import_pretrained(spec: PretrainedModel, directory: Path | str) -> None:
    """Check a pretrained model and make a checkpoint of it.

    Safetensors and GGUF files stay where they are, quantized ones too, and are read from there from now on:
    `original.json` names them. Of a torch archive the values are saved.

    Raises
    ------
    TokenboundsError
        If the model cannot be loaded (see `load_pretrained`), or a file cannot be written.
    """
    directory, found = Path(directory), _open(spec)
    if isinstance(found, InPlace):
        for left in (WEIGHTS_FILE, _FORMER_CODES):  # an earlier row, or release, may have left a copy or codes here
            (directory / left).unlink(missing_ok=True)
        sizes = sum(map(math.prod, found.source.shapes.values()))
        write_original(directory, found.paths, found.tensors, found.card, sizes, found.quantization)
        write_json(directory / CARD_FILE, found.card.to_dict())
        return
    model, card = found
    save_checkpoint(directory, model, card)
    parameters = coded_parameters(model)
    sizes = sum(value.numel() for value in parameters.values())
    write_original(directory, [directory / WEIGHTS_FILE], {name: name for name in parameters}, card, sizes)


def load_pretrained(spec: PretrainedModel) -> tuple[PreTrainedModel, ModelCard]:
    """Load a pretrained causal language model.

    Parameters
    ----------
    spec
        Which model.

    Returns
    -------
    model, card
        The model as `build_model(card)` makes it, float32, holding the pretrained values.

    Raises
    ------
    ModelError
        If the model cannot be found or read, its architecture is not supported, its weights are pickled or quantized
        in a way that is not read, or the rebuilt model computes something else.
    """
    found = _open(spec)
    if not isinstance(found, InPlace):
        return found
    model = build_model(found.card)
    copy_tensors(found.source, model, found.paths[0])
    return model, found.card


def _open(spec: PretrainedModel) -> InPlace | tuple[PreTrainedModel, ModelCard]:
    """A checkpoint, read and checked; one in a torch archive is loaded whole."""
    where = _locate(spec)
    check_name(Path(where, spec.gguf_file or ""), ModelError)
    if spec.gguf_file is not None:
        return _open_gguf(where, spec)
    if Path(where).is_file():
        raise ModelError(f"{where} is a file. Give its folder; of a GGUF file the folder, and the file as 'gguf_file'.")
    config = _read_config(where, spec.revision)
    family = _family(where, config)
    _check_understood(where, config, family)
    if is_quantized(config):
        return _open_quantized(where, spec, config, family)
    if spec.subfolder is not None and (Path(where) / _ARCHIVE).is_file():
        tensors = read_tensors(Path(where) / _ARCHIVE)
        with reading(where):
            settings = getattr(transformers, family.config_class).from_pretrained(where, attn_implementation="sdpa")
        return _rebuilt(fill_model(settings, family, tensors, where), spec, where)
    folder = local_folder(where, spec.revision)
    _check_folder(folder)
    with reading(where):
        settings = getattr(transformers, family.config_class).from_pretrained(folder, attn_implementation="sdpa")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    _check_size(where, settings, size, values_per_byte=2)  # a value takes two bytes or more
    return open_plain(folder, settings, _card(settings, spec, where), where)


def _open_quantized(where: str, spec: PretrainedModel, config: dict[str, Any], family: Family) -> InPlace:
    folder = local_folder(where, spec.revision)
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "quip_params")}
    with reading(where):
        settings = getattr(transformers, family.config_class).from_dict(plain)
    settings._attn_implementation = "sdpa"
    try:
        paths, quantization = files_of(folder), quantization_of(config)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    size = sum(path.stat().st_size for path in paths if path.is_file())
    _check_size(where, settings, size, values_per_byte=16)  # it takes more than a bit
    return open_quantized(paths, quantization, settings, _card(settings, spec, where), where)


def _rebuilt(original: PreTrainedModel, spec: PretrainedModel, where: str) -> tuple[PreTrainedModel, ModelCard]:
    """The model of the card alone, with the original's values, once it is known to compute the same."""
    check_finite(original.named_parameters(), where)
    card = _card(original.config, spec, where)
    with torch.no_grad():
        model = build_model(card)
        _copy_values(original, model, where)
    compare_models(original, model, where)
    return model, card


def _card(config: PreTrainedConfig, spec: PretrainedModel, where: str) -> ModelCard:
    try:
        return card_from_config(config, start_id=spec.start_id)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def card_from_config(config: PreTrainedConfig, *, start_id: int | None = None) -> ModelCard:
    """Describe a transformers configuration by a card.

    Raises
    ------
    ModelError
        If the family is not supported, or the configuration asks for something that its card cannot express.
    """
    family = family_of(config.model_type)
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - {"full_attention"}:
        raise ModelError(f"{config.model_type}: layer_types {sorted(kinds)} are not supported.")
    # Where every layer sees everything, a window has no effect.
    fixed = {key: value for key, value in family.fixed.items() if not (kinds and key.endswith("sliding_window"))}
    for key, value in fixed.items():
        if getattr(config, key, value) != value:
            raise ModelError(f"{config.model_type}: {key} = {getattr(config, key)!r:.80} is not supported.")
    values = {key: getattr(config, key) for key in family.fields}
    if family.has_rope:
        values["rope_parameters"] = _plain_rope(values["rope_parameters"])
    _drop_implied(values)
    return ModelCard(
        family=config.model_type,
        config=values,
        vocabulary_size=config.vocab_size,
        start_id=_first_token(config) if start_id is None else start_id,
        context=getattr(config, family.context_key),
    )


def _plain_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters without what has no effect: empty values, the older name of the type, a factor of one."""
    rope = {key: value for key, value in parameters.items() if value is not None}
    if not isinstance(rope.get("rope_type", ""), str):
        raise ModelError(f"the type of rotary scaling is {rope['rope_type']!r:.40}, which is no name.")
    older = {"longrope": ("longrope", "su"), "default": ("default", "mrope")}
    if rope.get("type") in older.get(rope.get("rope_type", ""), (rope.get("rope_type"),)):
        rope.pop("type", None)
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    return rope


def _drop_implied(values: dict[str, Any]) -> None:
    """Replace, in place, what follows from other values by None, so that cards are short and equal for equal models."""
    if "num_key_value_heads" in values and values["num_key_value_heads"] == values["num_attention_heads"]:
        values["num_key_value_heads"] = None
    if "head_dim" in values and values["head_dim"] == values["hidden_size"] // values["num_attention_heads"]:
        values["head_dim"] = None
    if "n_inner" in values and values["n_inner"] == 4 * values["n_embd"]:
        values["n_inner"] = None


def _first_token(config: PreTrainedConfig) -> int:
    for key in ("bos_token_id", "eos_token_id"):
        value = getattr(config, key, None)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and 0 <= value < config.vocab_size:
            return value
    raise ModelError(f"this {config.model_type} model names no first or end token. Set 'start_id'.")


def _locate(spec: PretrainedModel) -> str:
    """The folder or hub name of a model; a package is looked up without importing it."""
    if spec.package is None:
        return str(spec.name)
    folder = package_folder(spec.package)
    if folder is None:
        raise ModelError(f"the Python package {spec.package!r} is not installed. Install it, or correct 'package'.")
    if spec.subfolder is not None:
        return _locate_subfolder(folder, spec)
    if spec.gguf_file is None or not (folder / spec.gguf_file).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise ModelError(f"the package {spec.package} has no file {spec.gguf_file!r}; GGUF files there: {there}.")
    return str(folder)


def _locate_subfolder(package: Path, spec: PretrainedModel) -> str:
    folder = package / str(spec.subfolder)
    if not (folder / "config.json").is_file():
        there = sorted(str(path.parent.relative_to(package)) for path in package.rglob("config.json"))
        raise ModelError(
            f"the package {spec.package} has no model in {spec.subfolder!r}; there are {', '.join(there) or 'none'}."
        )
    return str(folder)


def _read_config(where: str, revision: str | None) -> dict[str, Any]:
    """Read the configuration alone."""
    try:
        if (path := Path(where) / "config.json").is_file():
            parse_json(path.read_bytes())  # transformers would take the last of two values
        config, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except Exception as error:
        raise ModelError(f"cannot read the configuration of {where}: {first_line(error)}") from error
    for key in ("quantization_config", "quip_params", "rope_parameters", "rope_scaling"):
        if not isinstance(config.get(key), dict | None):
            raise ModelError(f"{where}: its configuration has {config[key]!r:.40} under {key}, which holds keys.")
    for key, most in _MOST.items():
        if isinstance(config.get(key), int) and config[key] > most:
            raise ModelError(f"{where}: its configuration says {key} = {config[key]:,}; at most {most:,} are read.")
    return config


def _family(where: str, config: dict[str, Any]) -> Family:
    try:
        return family_of(config.get("model_type"))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _check_understood(where: str, config: dict[str, Any], family: Family) -> None:
    """Refuse a configuration that asks for a computation that the family does not do."""
    plain = getattr(transformers, family.config_class)()
    for key in _COMPUTING:
        value = config.get(key)
        neutral = value is not True and value in (None, False, 0, 1, "", [])
        if neutral or hasattr(plain, key):
            continue
        if key == "sliding_window" and isinstance(value, int) and value >= config.get(family.context_key, 0):
            continue
        raise ModelError(f"{where}: its configuration says {key} = {value!r:.80}, which {family.model_class} ignores.")


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter. Merge it into its base model and save that.")
    files = list(folder.glob("*.safetensors"))
    if not files:
        pickled = ", ".join(path.name for path in sorted(folder.glob("*.bin"))) or "no weights at all"
        raise ModelError(f"{folder} has no *.safetensors, but {pickled}. Pickled weights are not read: convert them.")
    for path in sorted(files):
        check_no_pointer(path, ModelError)


def _check_size(where: str, settings: PreTrainedConfig, size_bytes: int, values_per_byte: int) -> None:
    """Refuse a configuration of a far larger model than the files hold, before transformers builds it."""
    try:
        wanted = count_parameters(card_from_config(settings, start_id=0)).coded
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    # A smaller difference is explained later by the name of a tensor.
    if wanted > FREE_VALUES + values_per_byte * size_bytes:
        raise ModelError(
            f"{where}: its configuration describes {wanted:,} values; its files have {size_bytes:,} bytes."
        )


def _open_gguf(where: str, spec: PretrainedModel) -> InPlace:
    """A GGUF file, with the configuration in its metadata, all of which is used."""
    path = Path(where) / str(spec.gguf_file)
    if not Path(where).is_dir():
        try:
            path = Path(hf_hub_download(where, str(spec.gguf_file), revision=spec.revision))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise ModelError(f"cannot read {spec.gguf_file} of {where}: {first_line(error)}") from error
    file = GgufFile.open(path)
    said = file.config()
    family = _family(str(path), said)
    with reading(path):
        settings = getattr(transformers, family.config_class).from_dict(said)
    settings._attn_implementation = "sdpa"
    _check_size(str(path), settings, path.stat().st_size, values_per_byte=16)  # it takes more than a bit
    card = _card(settings, spec, str(path))
    file.check_tensors(coded_shapes(card))
    return open_quantized([path], {"quant_method": GGUF}, settings, card, str(path))


def _copy_values(original: PreTrainedModel, model: PreTrainedModel, where: str) -> None:
    source, target = coded_parameters(original), coded_parameters(model)
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (source, target)]
    if shapes[0] != shapes[1]:
        name = min(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise ModelError(f"{where}: the tensor {name} does not fit the model's card.")
    for name, parameter in target.items():
        parameter.copy_(source[name])
