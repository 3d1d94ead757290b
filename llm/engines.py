"""Chooses the engine for a model and starts it: OpenVINO GenAI on a CPU, transformers on CUDA, or what LLM_ENGINE names."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import settings
from errors import SettingsError
from llm import graphs, loader
from llm.engine import Engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
CHUNK = 256  # tokens computed in a step; more makes running streams wait longer for a long prompt, less makes the prompt slower

Name = Literal["openvino", "transformers"]


@dataclass(frozen=True)
class Opened:
    """A running engine, and what can be said about its model; `model` is None where transformers does not run it."""

    engine: Engine
    engine_name: Name
    model: "PreTrainedModel | None"
    tokenizer: Any
    name: str
    adapter: loader.Adapter | None
    quantization: str
    device: str
    dtype: str
    memory_bytes: int

    def about(self) -> dict[str, Any]:
        """What status tells of it beside its name."""
        return {
            "engine": self.engine_name,
            "adapter": self.adapter and {"name": self.adapter.name, "mode": self.adapter.mode},
            "quantization": self.quantization,
            "device": self.device,
            "dtype": self.dtype,
            "memory_bytes": self.memory_bytes,
        }


def open(llm: settings.LLM, *, cache: Path) -> Opened:  # noqa: A001 -- it is read as `engines.open`
    """Load the model that `llm` names and start its engine. Raises SettingsError, WeightsError, AdapterError and EngineError."""
    llm = llm.served()
    if choose(llm, cache=cache) == "openvino":
        return _openvino(llm, cache)
    if llm.llm_activations != "float":
        raise SettingsError(f"LLM_ACTIVATIONS={llm.llm_activations} is for OpenVINO, and transformers runs this model here")
    return _transformers(llm, cache)


def choose(llm: settings.LLM, *, cache: Path) -> Name:
    """The engine that `llm` names; with LLM_ENGINE=auto openvino, unless there is CUDA or OpenVINO cannot run the model."""
    if llm.llm_engine != "auto":
        return llm.llm_engine
    if llm.device_map != "cpu" and (llm.device_map or _may_have_cuda()):
        import torch

        if torch.cuda.is_available() or llm.device_map == "cuda":
            return "transformers"
    if os.name == "nt":
        _log.info("OpenVINO is not used: its process is started in a way that Windows does not have")
        return "transformers"
    if why := graphs.unsuitable(llm, loader.base(llm, cache=cache)):
        _log.info("OpenVINO is not used: %s", why)
        return "transformers"
    return "openvino"


def _openvino(llm: settings.LLM, cache: Path) -> Opened:
    from llm.openvino import OpenVino

    graph = graphs.prepare(llm, cache=cache)
    tokenizer = graph.tokenizer()

    def backend() -> OpenVino:
        return OpenVino(
            graph.folder,
            end_tokens=graph.end_tokens,
            slots=llm.max_running,
            capacity=llm.kv_cache_tokens,
            chunk=CHUNK,
            activations=llm.llm_activations,
        )

    return Opened(
        engine=Engine(backend, tokenizer, window=graph.window, max_queue=llm.max_queue),
        engine_name="openvino",
        model=None,
        tokenizer=tokenizer,
        name=graph.name,
        adapter=loader.Adapter(loader.adapter_name(llm), llm.adapter_mode) if llm.local_adapter_path else None,
        quantization=graph.quantization,
        device="cpu",
        dtype="float32" if llm.llm_activations == "float" else f"float32, activations {llm.llm_activations}",
        memory_bytes=graph.memory_bytes,
    )


def _transformers(llm: settings.LLM, cache: Path) -> Opened:
    from llm.continuous import Continuous

    loaded = loader.load(llm, cache=cache)
    end_tokens = loader.end_tokens(loaded.model, loaded.tokenizer)

    def backend() -> Continuous:
        return Continuous(
            loaded.model,
            end_tokens=end_tokens,
            slots=llm.max_running,
            capacity=llm.kv_cache_tokens,
            window=loaded.window,
            chunk=CHUNK,
        )

    return Opened(
        engine=Engine(backend, loaded.tokenizer, window=loaded.window, max_queue=llm.max_queue),
        engine_name="transformers",
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        name=loaded.name,
        adapter=loaded.adapter,
        quantization=loaded.quantization,
        device=loaded.device,
        dtype=loaded.dtype,
        memory_bytes=loaded.memory_bytes,
    )


def _may_have_cuda() -> bool:
    """Whether NVIDIA's driver is there at all; asking torch means importing it, which takes seconds and half a gigabyte."""
    import shutil

    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
