"""From a folder of weights to a transformers model and tokenizer; GGUF files become safetensors first.

Knows nothing about settings, devices or adapters. Whatever transformers raises leaves here as one line, a WeightsError.
"""

import contextlib
import io
import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import weights
from errors import WeightsError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
_GGUF_KIND = re.compile(r"[.-](?:I?Q\d\w*|B?F16|F32)$", re.IGNORECASE)
_HALF = ("float16", "bfloat16")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load(folder: Path, *, variable: str, **kwargs: Any) -> "PreTrainedModel":
    """The causal language model in `folder`, in evaluation mode, without gradients; `kwargs` go to `from_pretrained`.

    Only safetensors are read: a pickle could run code. Raises WeightsError if anything is missing or broken.
    """
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # its type says that it returns no loading info
    _check_files(folder, variable)
    with quiet(), _one_line(folder, variable):
        model, info = auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    # transformers would warn, and answer from random numbers
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{variable}: {folder} lacks {len(missing)} of the model's tensors, such as {missing[0]}")
    if other := sorted(info["mismatched_keys"]):
        raise WeightsError(f"{variable}: in {folder}, {other[0][0]} has not the shape that config.json gives it")
    model.eval()
    model.requires_grad_(requires_grad=False)
    return cast("PreTrainedModel", model)


def load_tokenizer(folder: Path, *, variable: str, **kwargs: Any) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if not (kwargs or any((folder / name).is_file() for name in _TOKENIZERS)):
        raise WeightsError(f"{variable}: {folder} holds no tokenizer (one of {', '.join(_TOKENIZERS)})")
    with quiet(), _one_line(folder, variable, "the tokenizer in "):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **kwargs)


def outline(folder: Path, *, variable: str) -> "PreTrainedModel":
    """The model that config.json describes, without weights: names and shapes only."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    with quiet(), _one_line(folder, variable), torch.device("meta"):
        described = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return cast("PreTrainedModel", auto.from_config(described, trust_remote_code=False))


def config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(read, dict):
            return read
    return {}


def half_dtype(folder: Path) -> str | None:
    """The checkpoint's own 16-bit type, "float16" or "bfloat16", or None where it has another."""
    settings = config(folder)
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    return str(dtype) if dtype in _HALF else None


def model_name(folder: Path) -> str:
    """What a model is called after: its GGUF file less the kind of quantisation, its hub repository, or its folder."""
    if gguf := sorted(folder.glob("*.gguf")):
        return _GGUF_KIND.sub("", gguf[0].stem)
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.resolve().name


def gguf_in(folder: Path, *, variable: str) -> Path | None:
    """The folder's GGUF file, if it holds one; raises WeightsError if it holds several."""
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise WeightsError(f"{variable}: {folder} holds {len(found)} GGUF files; leave the one to be used")
    return found[0] if found else None


def converted(folder: Path, *, cache: Path, dtype: "torch.dtype", variable: str) -> Path:
    """`folder` itself, or, where it holds a GGUF file, a folder in `cache` with the same model as safetensors.

    De-quantising takes tens of seconds and is done once; the second call returns at once.
    """
    gguf = gguf_in(folder, variable=variable)
    if gguf is None:
        return folder
    source = weights.fingerprint([gguf])
    kind = str(dtype).removeprefix("torch.")
    target = cache / "models" / f"{source[:12]}-{kind}" / model_name(folder)
    return weights.once(target, f"{source} {kind}", lambda out: _convert(gguf, out, dtype, variable))


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and advice off the terminal, unless `LOG_LEVEL` asks for everything."""
    import transformers

    noise: Any = transformers.utils.logging
    if _log.isEnabledFor(logging.DEBUG):
        yield
        return
    level, bars = noise.get_verbosity(), noise.is_progress_bar_enabled()
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()


def first_sentence(exc: Exception) -> str:
    """What these libraries say at length, as far as it fits into a line."""
    return re.sub(r"\s+", " ", str(exc)).strip().partition(". ")[0][:300] or type(exc).__name__


def _check_files(folder: Path, variable: str) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise WeightsError(f"{variable}: {folder} holds an adapter, not a model; it belongs into LOCAL_ADAPTER_PATH")
        raise WeightsError(f"{variable}: {folder} holds no model: config.json is missing")
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(f"{variable}: {folder} holds no *.safetensors file (pickled weights are not read)")


def _convert(gguf: Path, out: Path, dtype: "torch.dtype", variable: str) -> None:
    import transformers

    weights.say(f"preparing {model_name(gguf.parent)}, once (half a minute for a small model)")
    with (
        quiet(),
        _one_line(gguf, variable),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # its bar cannot be switched off
        tokenizer = load_tokenizer(gguf.parent, variable=variable, gguf_file=gguf.name)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype)
    # it says that it is still GGUF, and could not be saved
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    try:
        save(model, tokenizer, out)
    except OSError:
        shutil.rmtree(out, ignore_errors=True)
        raise


@contextlib.contextmanager
def _one_line(what: Path, variable: str, part: str = "") -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as exc:  # OSError, ValueError, KeyError, SafetensorError, ImportError, RuntimeError: all of them
        said = first_sentence(exc)
        if type(exc).__name__ == "OutOfMemoryError":
            said = "it does not fit into the GPU's memory; try QUANTIZATION=nf4, or DEVICE_MAP=auto with MAX_GPU_MEMORY"
        raise WeightsError(f"{variable}: cannot load {part}{what}: {said}") from exc
