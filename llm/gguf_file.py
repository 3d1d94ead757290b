"""Writes a Llama in safetensors as one GGUF file, and reads what such a file says of itself. Knows nothing about who runs it.

Format: the GGUF specification of ggml. The tokenizer is left out unless asked for: whoever hands token ids to the model has it.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

Kind = Literal["F32", "F16", "Q8_0"]
ARCHITECTURES = ("LlamaForCausalLM",)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by GGUF's value type
_STRING, _ARRAY = 8, 9
BLOCK = 32  # weights that share a scale in Q8_0
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself; `window` is in tokens, `kind` such as "q4_1"."""

    architecture: str
    window: int
    kind: str


def read_header(path: Path) -> Header:
    """Read the first few keys of a GGUF file, which the package gguf would read whole, in seconds. Raises WeightsError."""
    said: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            magic, _, _, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                raise WeightsError(f"{path} is no GGUF file")
            for _ in range(count):
                key = _string(file).decode()
                said[key] = _value(file, *struct.unpack("<I", file.read(4)))
                architecture = str(said.get("general.architecture", ""))
                if f"{architecture}.context_length" in said and "general.file_type" in said:
                    break
    except (OSError, struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as exc:
        raise WeightsError(f"{path} is not a readable GGUF file") from exc
    import gguf

    architecture = str(said.get("general.architecture", "unknown"))
    window = int(said.get(f"{architecture}.context_length", 2048))
    try:
        kind = gguf.LlamaFileType(said.get("general.file_type", 0)).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        kind = "gguf"
    return Header(architecture, window, kind.lower())


def _string(file: IO[bytes]) -> bytes:
    return file.read(*struct.unpack("<Q", file.read(8)))


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file).decode("utf-8", "replace")
    if kind == _ARRAY:
        inner, length = struct.unpack("<IQ", file.read(12))
        return [_value(file, inner) for _ in range(length)]
    form = "<" + _NUMBERS[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def write(folder: Path, out: Path, *, kind: Kind, config: dict[str, Any], tokenizer: bool = False) -> None:
    """Write the model in `folder`, described by its `config` (config.json), to the file `out`.

    `tokenizer` adds a byte-level BPE tokenizer with its chat template, for programs that are given text. Matrices are
    stored as `kind` (Q8_0: blocks of 32 weights as int8 with a 16-bit scale), vectors as float32.
    Raises WeightsError where the model is no plain Llama.
    """
    import gguf

    if why := unsuitable(config):
        raise WeightsError(f"{folder}: {why}")
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    layers = int(config["num_hidden_layers"])
    writer = gguf.GGUFWriter(out, "llama", use_temp_file=True)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(layers)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_file_type(_FILE_TYPES[kind])
    if tokenizer:
        _add_tokenizer(writer, folder, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, tensor in _tensors(folder):
        known = names.get_name(name, try_suffixes=(".weight",))
        if known is None:
            raise WeightsError(f"{folder}: no place in a Llama for the tensor {name}")
        count = heads if ".q_proj." in name else kv_heads if ".k_proj." in name else 0
        _add(writer, known, _interleaved(tensor, count) if count else tensor, kind)
    _finish(writer)


def rewrite(source: Path, out: Path, *, kind: Kind) -> None:
    """Write the model in the GGUF file `source` to `out` in another form, without its tokenizer. Raises WeightsError."""
    import gguf

    try:
        reader = gguf.GGUFReader(source)
        architecture = str(reader.fields["general.architecture"].contents())
    except (ValueError, KeyError) as exc:  # a file cut short, or one that does not say what it is
        raise WeightsError(f"{source} cannot be read: {exc}") from exc
    writer = gguf.GGUFWriter(out, architecture, use_temp_file=True)
    for name, field in reader.fields.items():
        if name.startswith(f"{architecture}.") and field.types[0] is not gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, field.contents(), field.types[0])
    writer.add_file_type(_FILE_TYPES[kind])
    for tensor in reader.tensors:
        try:
            plain = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as exc:  # gguf knows the name of the form, and not how to undo it
            raise WeightsError(f"{source}: {tensor.name} is in a form that cannot be undone, {tensor.tensor_type.name}") from exc
        _add(writer, tensor.name, plain, kind)
    _finish(writer)


def unsuitable(config: dict[str, Any]) -> str:
    """Why a model of this config.json cannot be written; empty if it can."""
    architecture = next(iter(config.get("architectures") or ["an unknown architecture"]))
    if architecture not in ARCHITECTURES:
        return f"only {', '.join(ARCHITECTURES)} can be written as GGUF, not {architecture}"
    if config.get("quantization_config"):
        return "its weights are quantised already"
    scaling = (config.get("rope_parameters") or config.get("rope_scaling") or {}).get("rope_type", "default")
    if scaling != "default":
        return f"its positions are scaled ({scaling})"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return "its projections have biases"
    return ""


def _add_tokenizer(writer: "GGUFWriter", folder: Path, config: dict[str, Any]) -> None:
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(state["vocab"], key=state["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(int(config["bos_token_id"]))
    writer.add_eos_token_id(int(config["eos_token_id"]))
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))


def _tensors(folder: Path) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    """Each tensor as float32, one at a time, whatever 16-bit type it has on disk."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                if "rotary_emb" not in name:
                    yield name, opened.get_tensor(name).to(torch.float32).numpy()


def _add(writer: "GGUFWriter", name: str, tensor: "np.ndarray[Any, Any]", kind: Kind) -> None:
    import gguf

    form = gguf.GGMLQuantizationType[kind]
    if tensor.ndim == 1 or form is gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, tensor)
        return
    if kind == "Q8_0" and tensor.shape[-1] % BLOCK:
        raise WeightsError(f"rows of {name} do not divide into blocks of {BLOCK}; QUANTIZATION=none keeps them in 16 bits")
    writer.add_tensor(name, gguf.quantize(tensor, form), raw_dtype=form)


def _finish(writer: "GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """The two rotary halves of each head in the order in which llama.cpp keeps them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rope_theta(config: dict[str, Any]) -> float:
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10_000.0)
