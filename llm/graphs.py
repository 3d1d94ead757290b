"""From weights to the folder that OpenVINO GenAI runs: a graph, a tokenizer, and what both mean. Made once, kept in the cache.

Safetensors, also those of a merged adapter, are written as GGUF first, and so are GGUF files in a form that OpenVINO would not
keep: it rounds the minimum of each block of Q4_1 to a whole step, which costs the default model 19% of its perplexity.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings
import weights
from errors import SettingsError, WeightsError
from llm import checkpoint, gguf_file, loader, openvino

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # of GGUF files, those that OpenVINO GenAI 2026.4 builds a graph of
KEPT = ("f16", "q8_0")  # forms that OpenVINO computes with as they are; files of other kinds may hold several
_ABOUT = "fcc-rag.json"
_SMALL = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "chat_template*")


@dataclass(frozen=True)
class Graph:
    """A folder with openvino_model.xml. `window` is in tokens, `end_tokens` are those that end an answer."""

    folder: Path
    name: str
    quantization: str
    window: int
    end_tokens: tuple[int, ...]

    @property
    def memory_bytes(self) -> int:
        """The weights, as they lie on disk and in memory."""
        return (self.folder / "openvino_model.bin").stat().st_size

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer, without importing torch."""
        from transformers import PreTrainedTokenizerFast

        with checkpoint.quiet():
            tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(self.folder, local_files_only=True)
        return tokenizer


def unsuitable(llm: settings.LLM, base: loader.Base) -> str:
    """Why OpenVINO cannot run these weights with these settings, as a sentence; empty if it can."""
    if llm.quantization == "nf4":
        return "QUANTIZATION=nf4 is bitsandbytes' form"
    if llm.local_adapter_path and llm.adapter_mode == "attach":
        return "ADAPTER_MODE=attach keeps the adapter beside the weights"
    if base.gguf and not llm.local_adapter_path:
        architecture = gguf_file.read_header(base.gguf).architecture
        return "" if architecture in ARCHITECTURES else f"it builds no graph of a GGUF file of the architecture {architecture}"
    # an adapter is merged into what transformers makes of a GGUF file, which is a plain Llama if the file was
    return "" if base.gguf else gguf_file.unsuitable(checkpoint.config(base.folder))


def prepare(llm: settings.LLM, *, cache: Path) -> Graph:
    """The graph of the model that `llm` names, made if it is not there yet. Raises SettingsError and WeightsError."""
    llm = llm.served()
    base = loader.base(llm, cache=cache)
    if why := unsuitable(llm, base):
        raise SettingsError(f"LLM_ENGINE=openvino cannot run this model: {why}; LLM_ENGINE=transformers can")
    if base.gguf and not llm.local_adapter_path:
        kind = gguf_file.read_header(base.gguf).kind
        kind = kind if kind in KEPT else _kind(llm)
        return _graph(base.folder, base.gguf, base.name, kind, base.variable, cache)
    found = loader.prepare(llm, cache=cache)
    return _graph(found.folder, None, found.name, _kind(llm), found.variable, cache)


def _kind(llm: settings.LLM) -> str:
    return "f16" if llm.quantization == "none" else "q8_0"


def _graph(folder: Path, gguf: Path | None, name: str, kind: str, variable: str, cache: Path) -> Graph:
    small = [path for name in _SMALL for path in folder.glob(name)]
    source = f"{weights.fingerprint([gguf] if gguf else [*folder.glob('*.safetensors'), *small])} {kind}"

    def fill(out: Path) -> None:
        weights.say(f"preparing {name} for OpenVINO, once (half a minute for a small model)")
        _fill(out, folder, gguf, kind, variable)

    made = weights.once(cache / "openvino" / f"{source[:12]}-{kind}" / name, source, fill)
    about = json.loads((made / _ABOUT).read_text(encoding="utf-8"))
    return Graph(made, name, kind, about["window"], tuple(about["end_tokens"]))


def _fill(out: Path, folder: Path, gguf: Path | None, kind: str, variable: str) -> None:
    options = {"gguf_file": gguf.name} if gguf else {}
    tokenizer: Any = checkpoint.load_tokenizer(folder, variable=variable, **options)
    if not tokenizer.chat_template:
        raise WeightsError(f"{variable}: the tokenizer in {folder} has no chat template; put its chat_template.jinja there")
    with checkpoint.quiet():
        tokenizer.save_pretrained(out)
    if not (out / "tokenizer.json").is_file():
        raise WeightsError(f"{variable}: {folder} has a tokenizer that cannot be saved as tokenizer.json")
    written = out / "model.gguf"
    try:
        form: gguf_file.Kind = "F16" if kind == "f16" else "Q8_0"
        if gguf and gguf_file.read_header(gguf).kind == kind:
            written.symlink_to(gguf.resolve())
        elif gguf:
            gguf_file.rewrite(gguf, written, kind=form)
        else:
            gguf_file.write(folder, written, kind=form, config=checkpoint.config(folder))
        _write_graph(written, folder, variable)
    finally:
        written.unlink(missing_ok=True)
    config = checkpoint.config(folder)
    window = gguf_file.read_header(gguf).window if gguf else int(config.get("max_position_embeddings") or 2048)
    limit = tokenizer.model_max_length
    about = {
        "window": min(window, limit) if limit and limit < loader.NO_LIMIT else window,
        "end_tokens": _end_tokens(folder, config, tokenizer),
    }
    (out / _ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _write_graph(gguf: Path, folder: Path, variable: str) -> None:
    """In a process of its own, whose memory goes with it."""
    if openvino.start("graph", str(gguf)).wait() or not (gguf.parent / "openvino_model.xml").is_file():
        raise WeightsError(f"{variable}: OpenVINO cannot read {folder}; LLM_ENGINE=transformers may")


def _end_tokens(folder: Path, config: dict[str, Any], tokenizer: Any) -> list[int]:
    generation: dict[str, Any] = {}
    if (folder / "generation_config.json").is_file():
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    found: set[int] = set()
    for named in (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id):
        found.update(token for token in (named if isinstance(named, list) else [named]) if token is not None)
    return sorted(found)
