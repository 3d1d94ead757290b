"""LoRA adapters on a tiny Llama: which belong to a base, and that merging keeps what was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import settings
from errors import AdapterError, SettingsError
from llm import adapters, checkpoint, loader

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "Tiny-Chat")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.adapter(base, tmp_path_factory.mktemp("adapters") / "fcc")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(adapter, tmp_path / "fcc"))


def llm(base: Path, adapter: Path | None, **values: Any) -> settings.LLM:
    return settings.LLM(local_base_model_path=str(base), local_adapter_path=str(adapter or ""), **values)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=IDS).logits).float()


def distance(model: Any, reference: Any) -> float:
    return float((logits(model) - logits(reference)).norm() / logits(reference).norm())


def rewrite(adapter: Path, **values: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def trained(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> loader.Loaded:
    """The model as it was when training ended: the adapter beside a base in NF4.

    In training mode, for else bitsandbytes computes in bfloat16 on a CPU that can.
    """
    loaded = loader.load(llm(base, adapter, adapter_mode="attach", quantization="nf4"), cache=tmp_path_factory.mktemp("c"))
    loaded.model.train()
    return loaded


def test_attached(trained: loader.Loaded, base: Path, tmp_path: Path) -> None:
    """ADAPTER_MODE=attach serves the base with the adapter beside it, and says so."""
    assert (trained.name, trained.adapter) == ("Tiny-Chat+fcc", loader.Adapter("fcc", "attach"))
    assert trained.quantization == "nf4"
    assert not any(weight.requires_grad for weight in trained.model.parameters())
    plain = loader.load(llm(base, None, quantization="nf4"), cache=tmp_path)
    assert distance(plain.model, trained.model) > 0.1


def test_merged(trained: loader.Loaded, base: Path, adapter: Path, tmp_path: Path) -> None:
    """A merged QLoRA adapter answers as it did when it was trained; merged onto the original weights it would not."""
    loaded = loader.load(llm(base, adapter), cache=tmp_path)
    assert (loaded.name, loaded.adapter) == ("Tiny-Chat+fcc", loader.Adapter("fcc", "merge"))
    assert distance(loaded.model, trained.model) < 1e-5
    plain = adapters.Recipe(quantization="none")
    original = adapters.base_as_trained(base, plain, dtype=torch.float32, variable="", device_map="cpu")
    assert distance(adapters.attach(original, adapter), trained.model) > 0.05


def test_attached_without_quantisation(trained: loader.Loaded, base: Path, adapter: Path, tmp_path: Path) -> None:
    """Attached with QUANTIZATION=none, a QLoRA adapter still meets the weights it was trained on."""
    loaded = loader.load(llm(base, adapter, adapter_mode="attach", quantization="none"), cache=tmp_path)
    assert loaded.quantization == "none"
    assert distance(loaded.model, trained.model) < 1e-5


def test_merged_once(base: Path, copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Merging is done on the first start and not on the next, and done again for another adapter."""
    for lines in ("merging fcc into Tiny-Chat, once\n", ""):
        loader.load(llm(base, copy), cache=tmp_path / "cache")
        assert capfd.readouterr().err == lines
    rewrite(copy, lora_alpha=32)
    loader.load(llm(base, copy), cache=tmp_path / "cache")
    assert capfd.readouterr().err == "merging fcc into Tiny-Chat, once\n"


def test_trained_without_quantisation(base: Path, tmp_path: Path) -> None:
    """An adapter whose training.json says that the base was not quantised is merged onto the original weights."""
    adapter = tiny.adapter(base, tmp_path / "lora", nf4=False)
    (adapter / "training.json").write_text('{"quantization": "none"}')
    merged = loader.load(llm(base, adapter), cache=tmp_path / "cache").model
    original = checkpoint.load(base, variable="", dtype=torch.float32)
    assert distance(merged, adapters.attach(original, adapter)) < 1e-5


def test_merge_to_folder(trained: loader.Loaded, base: Path, adapter: Path, tmp_path: Path) -> None:
    """What is merged into a folder can be served as LOCAL_MODEL_PATH, and a folder in use is left alone."""
    out = loader.merge_to_folder(llm(base, adapter), tmp_path / "out" / "Merged", cache=tmp_path / "cache")
    loaded = loader.load(settings.LLM(local_model_path=str(out)), cache=tmp_path / "cache")
    assert loaded.name == "Merged"
    assert loaded.tokenizer.chat_template == tiny.TEMPLATE
    assert distance(loaded.model, trained.model) < 1e-5
    assert [path.name for path in out.parent.iterdir()] == ["Merged"]
    with pytest.raises(SettingsError, match="is not empty"):
        loader.merge_to_folder(llm(base, adapter), out, cache=tmp_path / "cache")
    with pytest.raises(SettingsError, match=r"^LOCAL_ADAPTER_PATH: "):
        loader.merge_to_folder(llm(base, None), tmp_path / "other", cache=tmp_path / "cache")


def test_merged_folder_wins(base: Path, adapter: Path, tmp_path: Path) -> None:
    """With LOCAL_MODEL_PATH set beside the adapter, `merge` writes there and the server adds no second adapter."""
    out = tmp_path / "Merged"
    both = llm(base, adapter, local_model_path=str(out))
    with pytest.raises(SettingsError, match=r"^LOCAL_MODEL_PATH: .*fcc-rag merge"):
        loader.load(both, cache=tmp_path / "cache")
    loader.merge_to_folder(both, out, cache=tmp_path / "cache")
    loaded = loader.load(both, cache=tmp_path / "cache")
    assert (loaded.name, loaded.adapter) == ("Merged", None)


def test_adapters_own_tokenizer(base: Path, copy: Path, tmp_path: Path) -> None:
    """A chat template that was saved with the adapter is used, for it is the one the adapter was trained on."""
    tiny.tokenizer(copy)
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }} of the adapter")
    for mode in ("merge", "attach"):
        loaded = loader.load(llm(base, copy, adapter_mode=mode), cache=tmp_path / "cache")
        assert str(loaded.tokenizer.chat_template).endswith("of the adapter")


def no_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()


def bad_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")


def no_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def cut_weights(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def other_kind(adapter: Path) -> None:
    rewrite(adapter, peft_type="IA3")


def other_task(adapter: Path) -> None:
    rewrite(adapter, task_type="SEQ_CLS")


def other_base(adapter: Path) -> None:
    rewrite(adapter, base_model_name_or_path="meta-llama/Tiny-hf")


def half_a_pair(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if "lora_B" in key)]
    save_file(tensors, path)


def one_layer_less(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if ".layers.1." not in key}, path)


def bad_recipe(adapter: Path) -> None:
    (adapter / "training.json").write_text('{"quantization": "fp2"}')


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (no_config, "adapter_config.json is missing"),
        (bad_config, "adapter_config.json is not JSON"),
        (no_weights, "pickled adapters are not read"),
        (cut_weights, "is broken"),
        (other_kind, "is IA3 for CAUSAL_LM; only LORA"),
        (other_task, "is LORA for SEQ_CLS; only LORA"),
        (other_base, "was trained on meta-llama/Tiny-hf, but the base is Tiny-Chat"),
        (half_a_pair, "needs both lora_A and lora_B"),
        (one_layer_less, "is incomplete: it lacks weights"),
        (bad_recipe, "names a quantization or a dtype"),
    ],
)
def test_broken_adapter(base: Path, copy: Path, tmp_path: Path, spoil: Any, why: str) -> None:
    """An adapter that is broken, or not for this base, stops the start with one line that names it."""
    spoil(copy)
    for mode in ("merge", "attach"):
        with pytest.raises(AdapterError, match=f"^LOCAL_ADAPTER_PATH: .*{why}") as caught:
            loader.load(llm(base, copy, adapter_mode=mode), cache=tmp_path / "cache")
        assert str(copy) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"hidden": 128}, r"does not fit .*: it changes .*_proj by \d+ x \d+, and the base has \d+ x \d+"),
        ({"layers": 1}, r"changes model\.layers\.1\..*, which the model in .* does not have"),
    ],
)
def test_other_shapes(adapter: Path, tmp_path: Path, other: dict[str, int], why: str) -> None:
    """An adapter for a model of another size is refused from its header alone, even under the same name."""
    with pytest.raises(AdapterError, match=why):
        adapters.check(adapter, tiny.make(tmp_path / "Tiny-Chat", **other), ["Tiny-Chat"])


@pytest.mark.parametrize(
    "trained_on",
    [
        "Tiny-Chat",
        "org/tiny_chat-hf",
        "/elsewhere/models/Tiny-Chat/",
        "C:\\models\\Tiny-Chat",
        "/root/hub/models--org--Tiny-Chat/snapshots/0123abcd",
        None,
    ],
)
def test_same_base_elsewhere(base: Path, copy: Path, trained_on: str | None) -> None:
    """The same base under another path, or in another spelling, is taken for what it is."""
    rewrite(copy, base_model_name_or_path=trained_on)
    adapters.check(copy, base, ["Tiny-Chat"])


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # PEFT, as the test's adapter is saved
def test_tied_embeddings(base: Path, tmp_path: Path) -> None:
    """An adapter on embeddings that are the output as well is not merged, for that would change both."""
    tied = Path(shutil.copytree(base, tmp_path / "Tiny-Chat"))
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    adapter = tiny.adapter(base, tmp_path / "fcc", target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(AdapterError, match="set ADAPTER_MODE=attach"):
        loader.load(llm(tied, adapter), cache=tmp_path / "cache")


def test_blunted(base: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Quantising a merged model again is done where it is asked for, with a word on what it costs."""
    loader.load(llm(base, adapter, quantization="nf4"), cache=tmp_path)
    assert "ADAPTER_MODE=attach serves what was trained" in caplog.text
