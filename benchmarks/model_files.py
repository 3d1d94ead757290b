"""The default model's weights in each form that a server likes best. Knows nothing about servers or speed.

All forms come from the one Q4_1 file, de-quantised: F16 and float32 hold the same numbers, Q8_0 rounds them once more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings
import weights

if TYPE_CHECKING:  # heavy
    import gguf

KINDS = ("q4_1", "q8_0", "f16")


@dataclass(frozen=True)
class Weights:
    """`gguf` names a file for each of KINDS; `folder` holds float32 safetensors, the tokenizer and the chat template."""

    name: str
    gguf: dict[str, Path]
    folder: Path


def prepare() -> Weights:
    """The default model in every form, fetched and converted into the cache folder the first time (a minute)."""
    cache = settings.load().cache.fcc_rag_cache
    fetched = weights.resolve(weights.DEFAULT_LLM, variable="LOCAL_BASE_MODEL_PATH", cache=cache)
    original = next(fetched.glob("*.gguf"))
    name = original.stem.removesuffix(".Q4_1")
    return Weights(name, {kind: _gguf(original, kind, cache) for kind in KINDS}, _safetensors(fetched, name, cache))


def _gguf(original: Path, kind: str, cache: Path) -> Path:
    if kind == "q4_1":
        return original
    name = original.name.replace("Q4_1", kind.upper())
    source = f"{weights.fingerprint([original])} {kind}"
    folder = weights.once(cache / "benchmarks" / name, source, lambda out: _requantise(original, out / name, kind))
    return folder / name


def _safetensors(fetched: Path, name: str, cache: Path) -> Path:
    for folder in cache.glob(f"models/*-float32/{name}"):  # as the server leaves it; loading torch to find it takes seconds
        if (folder / ".manifest.json").is_file():
            return folder
    import torch

    from llm import checkpoint

    return checkpoint.converted(fetched, cache=cache, dtype=torch.float32, variable="LOCAL_BASE_MODEL_PATH")


def _requantise(original: Path, target: Path, kind: str) -> None:
    import gguf
    from gguf.quants import dequantize, quantize

    to = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "f16": gguf.GGMLQuantizationType.F16}[kind]
    reader = gguf.GGUFReader(original)
    architecture = str(_value(reader.fields["general.architecture"]))
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        _copy(writer, field)
    file_type = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "f16": gguf.LlamaFileType.MOSTLY_F16}[kind]
    writer.add_file_type(int(file_type))
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) > 1:  # norms stay float32, as llama.cpp's own converter leaves them
            writer.add_tensor(tensor.name, quantize(values, to), raw_dtype=to)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(writer: "gguf.GGUFWriter", field: "gguf.ReaderField") -> None:
    if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
        return  # the writer sets these itself
    writer.add_key_value(field.name, _value(field), field.types[0], field.types[-1] if len(field.types) > 1 else None)


def _value(field: "gguf.ReaderField") -> Any:
    return field.contents()
