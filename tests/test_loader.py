"""From settings to a loaded model, on a tiny Llama; the default model itself where it is at hand."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import settings
from errors import FccRagError, SettingsError, WeightsError
from llm import checkpoint, loader, quantization

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "Tiny-Chat")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(model, tmp_path / "Tiny-Chat"))


def load(folder: Path, tmp_path: Path, **values: Any) -> loader.Loaded:
    return loader.load(settings.LLM(local_model_path=str(folder), **values), cache=tmp_path / "cache")


def logits(loaded: loader.Loaded) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(loaded.model(input_ids=IDS).logits).float()


def test_merged_model(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """LOCAL_MODEL_PATH is loaded as it is, silently, and says what it is."""
    loaded = load(model, tmp_path)
    assert (loaded.name, loaded.adapter, loaded.quantization) == ("Tiny-Chat", None, "none")
    assert (loaded.device, loaded.dtype, loaded.window) == ("cpu", "float32", 2048)
    assert loaded.memory_bytes == pytest.approx(sum(weight.numel() for weight in loaded.model.parameters()) * 4, rel=0.01)
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "cache").exists()


def test_base_model(model: Path, tmp_path: Path) -> None:
    """LOCAL_BASE_MODEL_PATH is served by itself where no adapter is named."""
    loaded = loader.load(settings.LLM(local_base_model_path=str(model)), cache=tmp_path)
    assert loaded.name == "Tiny-Chat"
    assert loaded.adapter is None


@pytest.mark.parametrize("mode", ["nf4", "int8"])
def test_quantised(model: Path, tmp_path: Path, mode: str) -> None:
    """QUANTIZATION makes the weights smaller, on a CPU too, and they still compute."""
    plain, small = load(model, tmp_path), load(model, tmp_path, quantization=mode)
    assert small.quantization == mode
    assert small.memory_bytes < plain.memory_bytes * 0.7
    error = (logits(small) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < 0.6


@pytest.mark.parametrize(
    ("mode", "device", "means"),
    [("auto", "cpu", "none"), ("auto", "cuda:0", "nf4"), ("nf4", "cpu", "nf4"), ("none", "cuda:0", "none")],
)
def test_quantization_auto(mode: Any, device: str, means: str) -> None:
    """QUANTIZATION=auto is NF4 on CUDA and nothing on a CPU; a named one is taken at its word."""
    assert quantization.resolve(mode, device) == means


def test_nf4_is_qloras() -> None:
    """NF4 comes with double quantisation, as in QLoRA, and computes in float32 on a CPU."""
    config: Any = quantization.config("nf4", "cpu")
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype is torch.float32


def test_gguf_once(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A GGUF file becomes safetensors on the first start, with one line, and without a word or a wait on the next."""
    folder = tiny.gguf(model, tmp_path / "gguf")
    capfd.readouterr()
    first = load(folder, tmp_path)
    said = capfd.readouterr().err
    assert said.startswith("preparing Tiny-Chat, once")
    assert said.count("\n") == 1
    second = load(folder, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert first.name == second.name == "Tiny-Chat"
    assert torch.equal(logits(first), logits(load(model, tmp_path)))
    assert torch.equal(logits(first), logits(second))
    assert second.tokenizer.chat_template == tiny.TEMPLATE


def test_two_gguf_files(model: Path, tmp_path: Path) -> None:
    """Of two GGUF files none is guessed."""
    folder = tiny.gguf(model, tmp_path / "gguf")
    shutil.copy(folder / "Tiny-Chat.F16.gguf", folder / "Tiny-Chat.Q4_1.gguf")
    with pytest.raises(WeightsError, match=r"^LOCAL_MODEL_PATH: .* holds 2 GGUF files"):
        load(folder, tmp_path)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def bad_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (no_config, "config.json is missing"),
        (an_adapter, "belongs into LOCAL_ADAPTER_PATH"),
        (bad_config, "cannot load .*no-such-model"),
        (no_weights, "pickled weights are not read"),
        (cut_weights, "cannot load .*incomplete"),
        (more_layers, "lacks 9 of the model's tensors, such as model.layers.2"),
        (wider, "has not the shape that config.json gives it"),
        (no_tokenizer, "holds no tokenizer"),
        (bad_tokenizer, "cannot load the tokenizer in"),
        (no_template, "has no chat template; .*chat_template.jinja"),
    ],
)
def test_broken_folder(copy: Path, tmp_path: Path, spoil: Any, why: str) -> None:
    """A folder with a part missing or broken gives one line that names the variable and the folder."""
    spoil(copy)
    with pytest.raises(WeightsError, match=f"^LOCAL_MODEL_PATH: .*{why}") as caught:
        load(copy, tmp_path)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "cuda_devices", "arguments"),
    [
        ({}, 0, {"device_map": "cpu"}),
        ({}, 2, {"device_map": "cuda:0"}),
        ({"device_map": "cpu"}, 1, {"device_map": "cpu"}),
        ({"device_map": "cuda"}, 1, {"device_map": "cuda:0"}),
        ({"device_map": "auto"}, 0, {"device_map": "cpu"}),
        ({"device_map": "auto"}, 1, {"device_map": "auto"}),
        (
            {"device_map": "auto", "max_gpu_memory": "20 GiB"},
            2,
            {"device_map": "auto", "max_memory": {0: "20GiB", 1: "20GiB", "cpu": 64}},
        ),
    ],
)
def test_device_arguments(values: dict[str, Any], cuda_devices: int, arguments: dict[str, Any]) -> None:
    """DEVICE_MAP and MAX_GPU_MEMORY become the arguments that transformers and accelerate document."""
    assert loader.device_arguments(settings.LLM(**values), cuda_devices, 64) == arguments


@pytest.mark.parametrize(
    ("written", "size"), [("1.5 GiB", 3 * 2**29), ("512MiB", 2**29), ("20GB", 20 * 10**9), ("500 MB", 5 * 10**8)]
)
def test_max_gpu_memory(written: str, size: int) -> None:
    """What MAX_GPU_MEMORY may be is what accelerate reads."""
    llm = settings.LLM(device_map="auto", max_gpu_memory=written)
    limit = loader.device_arguments(llm, 1, 64)["max_memory"][0]
    assert importlib.import_module("accelerate.utils.modeling").convert_file_size_to_int(limit) == size


def test_cuda_without_cuda() -> None:
    """DEVICE_MAP=cuda on a machine without one stops the start, by name."""
    with pytest.raises(SettingsError, match=r"^DEVICE_MAP=cuda"):
        loader.device_arguments(settings.LLM(device_map="cuda"), 0, 64)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models/Llama-2-13b-chat-hf", "Llama-2-13b-chat-hf"),
        ("hub/models--meta-llama--Llama-2-13b-chat-hf/snapshots/0123abcd", "Llama-2-13b-chat-hf"),
    ],
)
def test_model_name(tmp_path: Path, folder: str, name: str) -> None:
    """A model is called by its folder, or by its repository where the folder is a commit in the hub's cache."""
    (tmp_path / folder).mkdir(parents=True)
    assert checkpoint.model_name(tmp_path / folder) == name


def test_window_without_limit(copy: Path, tmp_path: Path) -> None:
    """A tokenizer that knows no limit leaves the model's window as it is, and a smaller limit counts."""
    path = copy / "tokenizer_config.json"
    written = json.loads(path.read_text())
    for limit, window in ((10**30, 2048), (512, 512)):
        path.write_text(json.dumps({**written, "model_max_length": limit}))
        assert load(copy, tmp_path).window == window


def test_import_is_cheap() -> None:
    """Importing the loader loads neither torch nor transformers, so that the command's help answers at once."""
    code = "import sys, llm.loader; sys.exit(bool({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_model(tmp_path: Path) -> None:
    """A base model that is nothing stops the start with a line that names the variable."""
    with pytest.raises(FccRagError, match=r"^LOCAL_BASE_MODEL_PATH: 'nothing' is no folder"):
        loader.load(settings.LLM(local_base_model_path="nothing"), cache=tmp_path)


@pytest.mark.models
def test_default_model() -> None:
    """With no model named, a small real one answers."""
    loaded = loader.load(settings.LLM(), cache=settings.load().cache.fcc_rag_cache)
    assert (loaded.name, loaded.window) == ("SmolLM2-135M-Instruct", 8192)
    text = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    inputs = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    model: Any = loaded.model
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in str(loaded.tokenizer.decode(answer))
