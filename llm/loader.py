"""Turns settings into a model and its tokenizer, ready to answer. Knows nothing about prompts or how text is generated.

Three ways lead to a model, the first that is set wins: LOCAL_MODEL_PATH, a merged model, is loaded as it is;
LOCAL_BASE_MODEL_PATH, with the adapter in LOCAL_ADAPTER_PATH if there is one; the default model.

ADAPTER_MODE=attach serves exactly what was trained, at the price of two small products more in each adapted layer.
ADAPTER_MODE=merge makes one 16-bit model (float32 on a CPU), exact as well and faster. Quantising that again, as
QUANTIZATION=nf4 does, costs about what the adapter holds (7% on a synthetic layer): attach, or set QUANTIZATION=none.
"""

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

import settings
import weights
from errors import SettingsError, WeightsError
from llm import adapters, checkpoint, quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
NO_LIMIT = 1 << 24  # tokens; a tokenizer that has no limit says 10**30


@dataclass(frozen=True)
class Adapter:
    """The adapter in use: its folder's name, and whether it is merged into the weights or works beside them."""

    name: str
    mode: Literal["merge", "attach"]


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, without gradients, and what can be said about it.

    `window` is in tokens, prompt and answer together. `device` names all in use ("cpu", "cuda:0", "cuda:0, cpu").
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    adapter: Adapter | None
    quantization: str
    device: str
    dtype: str
    window: int
    memory_bytes: int


@dataclass(frozen=True)
class Found:
    """A folder of safetensors with its tokenizer, what the model is called, and the setting that led there."""

    folder: Path
    name: str
    variable: str


@dataclass(frozen=True)
class Base:
    """The base model as it was found: a folder, and the GGUF file in it if that is what it holds."""

    folder: Path
    gguf: Path | None
    name: str
    variable: str


def load(llm: settings.LLM, *, cache: Path) -> Loaded:
    """Load the model that `llm` names, or the default one.

    The first call may fetch, convert or merge weights into `cache`, which takes a minute; later ones take seconds.
    Raises SettingsError, WeightsError or AdapterError, one line that names the variable.
    """
    llm = llm.served()
    placement = _placement(llm)
    device = _device(placement)
    found = prepare(llm, cache=cache)
    attached = Path(llm.local_adapter_path).expanduser() if _attaches(llm) else None
    tokenizer = _tokenizer(found, attached)
    mode = _quantization(llm, found.folder, device)
    how = adapters.recipe(attached) if attached else adapters.Recipe()
    options = {"variable": found.variable, "dtype": _dtype(found.folder, device, how.dtype), **placement}
    if attached and mode == "none":
        model = adapters.base_as_trained(found.folder, how, **options)
    else:
        if not checkpoint.config(found.folder).get("quantization_config"):
            options["quantization_config"] = quantization.config(llm.quantization, device)
        model = checkpoint.load(found.folder, **options)
    if attached:
        model = adapters.attach(model, attached)
    if blunted := _blunted(llm, mode):
        _log.warning(blunted)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        name=f"{found.name}+{adapter_name(llm)}" if attached else found.name,
        adapter=Adapter(adapter_name(llm), llm.adapter_mode) if llm.local_adapter_path else None,
        quantization=mode,
        device=_devices(model),
        dtype=str(model.dtype).removeprefix("torch."),
        window=_window(model, tokenizer),
        memory_bytes=model.get_memory_footprint(),  # type: ignore[no-untyped-call]
    )


def prepare(llm: settings.LLM, *, cache: Path) -> Found:
    """Find the weights that `llm` names and bring them into a folder of safetensors, without loading them to stay.

    What other engines read, too: fetched, converted from GGUF and, with ADAPTER_MODE=merge, merged; each once.
    """
    llm = llm.served()
    found = _base(llm, cache)
    if not llm.local_adapter_path:
        return found
    adapter = Path(llm.local_adapter_path).expanduser()
    adapters.check(adapter, found.folder, _names(llm, found))
    if _attaches(llm):
        return found
    dtype = _dtype(found.folder, _device(_placement(llm)))
    source = _hash_of_merge(found.folder, adapter, dtype)
    name = f"{found.name}+{adapter_name(llm)}"

    def fill(folder: Path) -> None:
        weights.say(f"merging {adapter_name(llm)} into {found.name}, once")
        adapters.merge(found.folder, adapter, folder, dtype=dtype, variable=found.variable)

    return Found(weights.once(cache / "merged" / source[:12] / name, source, fill), name, adapters.VARIABLE)


def merge_to_folder(llm: settings.LLM, out: Path, *, cache: Path) -> Path:
    """Write the base model with its adapter merged into it to `out`, a new or empty folder, for LOCAL_MODEL_PATH."""
    if not llm.local_adapter_path:
        raise SettingsError("LOCAL_ADAPTER_PATH: no adapter is named that could be merged")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not empty; name a new folder for the merged model")
    llm = llm.model_copy(update={"local_model_path": ""})  # it may name `out`
    found, adapter = _base(llm, cache), Path(llm.local_adapter_path).expanduser()
    adapters.check(adapter, found.folder, _names(llm, found))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}~", dir=out.parent) as temporary:
            merged = Path(temporary) / out.name
            merged.mkdir()
            dtype = _dtype(found.folder, _device(_placement(llm)))
            adapters.merge(found.folder, adapter, merged, dtype=dtype, variable=found.variable)
            merged.replace(out)
    except OSError as exc:
        raise WeightsError(f"cannot write the merged model to {out}: {exc.strerror or exc}") from exc
    return out


def device_arguments(llm: settings.LLM, cuda_devices: int, cpu_bytes: int) -> dict[str, Any]:
    """What `DEVICE_MAP` and `MAX_GPU_MEMORY` mean to `from_pretrained`, given the GPUs and the free bytes there are."""
    if llm.device_map == "cuda" and not cuda_devices:
        raise SettingsError("DEVICE_MAP=cuda, but PyTorch finds no CUDA device here; leave it empty to use the CPU")
    if llm.device_map == "cpu" or not cuda_devices:
        return {"device_map": "cpu"}
    if llm.device_map != "auto":
        return {"device_map": "cuda:0"}
    if not llm.max_gpu_memory:
        return {"device_map": "auto"}
    # accelerate takes a device that is not listed as one that may not be used, so the CPU has to be listed as well
    limit = llm.max_gpu_memory.replace(" ", "")
    return {"device_map": "auto", "max_memory": {**dict.fromkeys(range(cuda_devices), limit), "cpu": cpu_bytes}}


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer, by the model's generation settings and by the tokenizer."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (*several, tokenizer.eos_token_id) if token is not None}))


def adapter_name(llm: settings.LLM) -> str:
    return Path(llm.local_adapter_path).expanduser().resolve().name


def _attaches(llm: settings.LLM) -> bool:
    return bool(llm.local_adapter_path) and llm.adapter_mode == "attach"


def base(llm: settings.LLM, *, cache: Path) -> Base:
    """Find, and fetch if need be, the model that `llm` names, without converting or loading it."""
    variable = "LOCAL_MODEL_PATH" if llm.local_model_path else "LOCAL_BASE_MODEL_PATH"
    spec = llm.local_model_path or llm.local_base_model_path or weights.DEFAULT_LLM
    folder = weights.resolve(spec, variable=variable, cache=cache, hf_token=llm.hf_token.get_secret_value())
    return Base(folder, checkpoint.gguf_in(folder, variable=variable), checkpoint.model_name(folder), variable)


def _base(llm: settings.LLM, cache: Path) -> Found:
    found = base(llm, cache=cache)
    dtype = quantization.compute_dtype(_device(_placement(llm)))
    safetensors = checkpoint.converted(found.folder, cache=cache, dtype=dtype, variable=found.variable)
    return Found(safetensors, found.name, found.variable)


def _names(llm: settings.LLM, base: Found) -> list[str]:
    """All the names the base model goes by, the clearest first."""
    config = checkpoint.config(base.folder)
    spec = llm.local_base_model_path.removeprefix("wheel:").partition("==")[0]
    written = [str(config.get(key) or "") for key in ("_name_or_path", "_model_name_or_path")]
    return [name for name in (base.name, spec, str(base.folder), *written) if name]


def _placement(llm: settings.LLM) -> dict[str, Any]:
    import torch

    cuda_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return device_arguments(llm, cuda_devices, int(psutil.virtual_memory().available * 0.9))


def _device(placement: dict[str, Any]) -> str:
    """Where most of the model will be: "cpu" or a CUDA device."""
    return "cuda:0" if placement["device_map"] == "auto" else str(placement["device_map"])


def _devices(model: "PreTrainedModel") -> str:
    spread = dict.fromkeys(str(place) for place in getattr(model, "hf_device_map", {}).values())
    named = [f"cuda:{place}" if place.isdigit() else place for place in spread]
    return ", ".join(named) if len(named) > 1 else str(model.device)


def _dtype(folder: Path, device: str, trained: str | None = None) -> "torch.dtype":
    """float32 on a CPU; on CUDA the 16-bit type of the training or the checkpoint, if the card has it.

    NF4 made from another type has other values here and there: 8% off on a tiny Llama.
    """
    import torch

    best = quantization.compute_dtype(device)
    if best is torch.float32 or (trained or checkpoint.half_dtype(folder)) != "float16":
        return best
    return torch.float16


def _quantization(llm: settings.LLM, folder: Path, device: str) -> str:
    """What the loaded weights will be: the checkpoint's own kind if it is quantised, else what the setting says."""
    own = checkpoint.config(folder).get("quantization_config")
    if not own:
        return quantization.resolve(llm.quantization, device)
    return str(own.get("bnb_4bit_quant_type") if own.get("load_in_4bit") else own.get("quant_method", "unknown"))


def _tokenizer(found: Found, attached: Path | None) -> "PreTrainedTokenizerBase":
    if attached:
        tokenizer = adapters.tokenizer(found.folder, attached, variable=found.variable)
    else:
        tokenizer = checkpoint.load_tokenizer(found.folder, variable=found.variable)
    if not tokenizer.chat_template:
        raise WeightsError(
            f"{found.variable}: the tokenizer in {found.folder} has no chat template; "
            "put the chat_template.jinja the model was trained with there"
        )
    return tokenizer


def _blunted(llm: settings.LLM, mode: str) -> str:
    """Why the adapter does less than it was trained to do, if so."""
    if not llm.local_adapter_path:
        return ""
    if llm.adapter_mode == "merge" and mode == "nf4":
        return "QUANTIZATION=nf4 over a merged adapter loses part of it; ADAPTER_MODE=attach serves what was trained"
    if llm.adapter_mode == "attach" and mode == "int8":
        return "QUANTIZATION=int8 is not what the adapter was trained on; nf4 is, and with none the weights are as then"
    return ""


def _window(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int:
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=2048)


def _hash_of_merge(base: Path, adapter: Path, dtype: "torch.dtype") -> str:
    names = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    whole = [weights.sha256_of(path) for name in names if (path := adapter / name).is_file()]
    sampled = weights.fingerprint([base / "config.json", *base.glob("*.safetensors")])
    return hashlib.sha256(" ".join([sampled, *whole, str(dtype)]).encode()).hexdigest()
