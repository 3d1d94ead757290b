"""LoRA adapters: does one belong to this base model, attach it, or merge it. Knows nothing about settings or devices.

QLoRA (Dettmers et al. 2023, arXiv:2305.14314) trains an adapter beside a base model that is held in NF4, so what was
learned also makes up for the error of NF4. Merged onto the original weights it is off by that error (9% on a synthetic
layer), merged in 4 bit by as much (7%); merged onto the base de-quantised as it was trained, it is exact. PEFT does
not write down how the base was held. The rule here: NF4 with double quantisation, made from the checkpoint's own type,
unless a `training.json` in the adapter's folder, `{"quantization": "nf4" | "none", "dtype": "bfloat16"}`, differs.
"""

import json
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from errors import AdapterError
from llm import checkpoint, quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VARIABLE = "LOCAL_ADAPTER_PATH"
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")
_DTYPES = ("float32", "float16", "bfloat16")


class Recipe(NamedTuple):
    """How the base model was held while the adapter was trained; `dtype` is what it was quantised from, if known."""

    quantization: Literal["nf4", "none"] = "nf4"
    dtype: str | None = None


def recipe(adapter: Path) -> Recipe:
    path = adapter / "training.json"
    if not path.exists():
        return Recipe()
    written = _json(path)
    quantised, dtype = written.get("quantization", "nf4"), written.get("dtype")
    if quantised not in {"nf4", "none"} or dtype not in {None, *_DTYPES}:
        raise AdapterError(f"{VARIABLE}: {path} names a quantization or a dtype that is not known here")
    return Recipe(quantised, dtype)


def check(adapter: Path, base: Path, names: Collection[str]) -> None:
    """Raise AdapterError, one line, unless the adapter in folder `adapter` belongs to the model in folder `base`.

    `names` are what the base is known by. One of them must be the name the adapter was trained on: models of one family
    have the same shapes and take each other's adapters without a word. Compared are last path components, without case,
    punctuation and a final "hf". Local copies with other names are let in by correcting `base_model_name_or_path` in
    adapter_config.json. Then each tensor's shape, read from the file's header alone, must fit its module in the base.
    """
    written = _json(adapter / "adapter_config.json")
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise AdapterError(f"{VARIABLE}: {file} is missing (pickled adapters are not read)")
    kind, task = written.get("peft_type"), written.get("task_type")
    if kind != "LORA" or task not in {None, "CAUSAL_LM"}:
        raise AdapterError(f"{VARIABLE}: {adapter} is {kind} for {task}; only LORA for CAUSAL_LM can be used")
    trained_on = str(written.get("base_model_name_or_path") or "")
    if trained_on and _plain(trained_on) not in {_plain(name) for name in names}:
        raise AdapterError(
            f"{VARIABLE}: {adapter} was trained on {trained_on}, but the base is {next(iter(names))}; if they are the "
            f"same, set base_model_name_or_path in its adapter_config.json to {next(iter(names))}"
        )
    _check_shapes(_header(file), _shapes(base), adapter, base, transposed=bool(written.get("fan_in_fan_out")))


def base_as_trained(base: Path, how: Recipe, *, dtype: "torch.dtype", variable: str, **placement: Any) -> "PreTrainedModel":
    """The base model in plain `dtype` weights that have the values the adapter saw: NF4's, if it was trained on NF4."""
    import torch

    if how.quantization == "none":
        return checkpoint.load(base, variable=variable, dtype=dtype, **placement)
    from_dtype = getattr(torch, how.dtype or checkpoint.half_dtype(base) or "float32")
    nf4 = quantization.config("nf4", "cpu")  # its compute type plays no part: nothing is computed in 4 bit
    model: Any = checkpoint.load(base, variable=variable, dtype=from_dtype, quantization_config=nf4, **placement)
    with checkpoint.quiet():
        model.dequantize(dtype)
    return cast("PreTrainedModel", model.to(dtype))


def attach(model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    """The same model with the adapter's layers inside it, unmerged, in evaluation mode."""
    attached = _peft(model, adapter).base_model.model
    attached.requires_grad_(requires_grad=False)
    return cast("PreTrainedModel", attached.eval())


def merge(base: Path, adapter: Path, out: Path, *, dtype: "torch.dtype", variable: str) -> None:
    """Write base and adapter as one model of `dtype` weights, with its tokenizer, into folder `out`.

    Works in the machine's memory, not the GPU's, and needs room there for the whole model in `dtype`.
    """
    ties = checkpoint.config(base).get("tie_word_embeddings", False)
    if ties and any(m.rpartition(".")[2] in {"embed_tokens", "lm_head"} for m in _modules(adapter)):
        raise AdapterError(
            f"{VARIABLE}: {adapter} changes embeddings that the base model also uses as its output; they cannot be "
            "merged: set ADAPTER_MODE=attach"
        )
    model = base_as_trained(base, recipe(adapter), dtype=dtype, variable=variable, device_map="cpu")
    with checkpoint.quiet():
        try:
            merged = _peft(model, adapter).merge_and_unload(safe_merge=True)
        except ValueError as exc:
            raise AdapterError(f"{VARIABLE}: {adapter} cannot be merged: {exc}") from exc
    checkpoint.save(merged, tokenizer(base, adapter, variable=variable), out)


def tokenizer(base: Path, adapter: Path, *, variable: str) -> "PreTrainedTokenizerBase":
    """The tokenizer saved with the adapter if it has a chat template, for that is what it learned; else the base's."""
    if (adapter / "tokenizer_config.json").is_file():
        own = checkpoint.load_tokenizer(adapter, variable=VARIABLE)
        if own.chat_template:
            return own
    return checkpoint.load_tokenizer(base, variable=variable)


def _peft(model: "PreTrainedModel", adapter: Path) -> Any:
    from peft import PeftModel

    with checkpoint.quiet(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # PEFT would go on with untrained ones
        try:
            return PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        except UserWarning as exc:
            raise AdapterError(f"{VARIABLE}: {adapter} is incomplete: it lacks weights for modules it names") from exc
        except Exception as exc:  # PEFT's own, torch's and safetensors' alike
            raise AdapterError(f"{VARIABLE}: cannot load {adapter}: {checkpoint.first_sentence(exc)}") from exc


def _check_shapes(
    header: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
    adapter: Path,
    base: Path,
    *,
    transposed: bool,
) -> None:
    pairs: dict[tuple[str, bool], dict[str, tuple[int, ...]]] = {}
    for key, shape in header.items():
        if match := _LORA.fullmatch(key):
            pairs.setdefault((match["module"], bool(match["embedding"])), {})[match["side"]] = shape
    if not pairs:
        raise AdapterError(f"{VARIABLE}: {adapter} holds no LoRA weights")
    for (module, embedding), pair in pairs.items():
        if pair.keys() != {"A", "B"} or any(len(shape) != 2 for shape in pair.values()):
            raise AdapterError(f"{VARIABLE}: {adapter} is incomplete: {module} needs both lora_A and lora_B")
        delta = (pair["B"][0], pair["A"][1])
        wanted = shapes.get(f"{module}.weight")
        if wanted is None:
            raise AdapterError(f"{VARIABLE}: {adapter} changes {module}, which the model in {base} does not have")
        if delta != (wanted[::-1] if embedding or transposed else wanted):
            raise AdapterError(
                f"{VARIABLE}: {adapter} does not fit the model in {base}: "
                f"it changes {module} by {delta[0]} x {delta[1]}, and the base has {wanted[0]} x {wanted[1]}"
            )


def _modules(adapter: Path) -> set[str]:
    """All modules the adapter changes, low-rank or whole (`modules_to_save`)."""
    keys = _header(adapter / "adapter_model.safetensors")
    whole = {key.removeprefix("base_model.model.").removesuffix(".weight") for key in keys}
    return {match["module"] if (match := _LORA.fullmatch(key)) else key for key in whole}


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError) as exc:
        raise AdapterError(f"{VARIABLE}: {file} is broken: {exc}") from exc


def _shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """The base model's weights by name, from its config.json alone; no memory is taken."""
    model = checkpoint.outline(base, variable="LOCAL_BASE_MODEL_PATH")
    return {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}


def _json(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise AdapterError(f"{VARIABLE}: {path} is missing or unreadable") from None
    except ValueError as exc:
        raise AdapterError(f"{VARIABLE}: {path} is not JSON: {exc}") from None
    if not isinstance(written, dict):
        raise AdapterError(f"{VARIABLE}: {path} is not a JSON object")
    return written


def _plain(name: str) -> str:
    if match := re.search(r"models--[^/\\]+?--([^/\\]+)", name):  # a snapshot in the hub's cache
        name = match[1]
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0]
    return re.sub(r"[\W_]", "", last.casefold()).removesuffix("hf")
