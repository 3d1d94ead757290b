"""What OpenVINO runs: made from safetensors, from GGUF files and from merged adapters, once, and which engine is chosen."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from engines import wait_until

from errors import SettingsError, WeightsError
from llm import engines, gguf_file, graphs, loader
from llm.requests import Finished, Piece, Sampling
from settings import LLM

PROMPT = "<s>[user]\nWhat is the maximum power?\n[assistant]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "Tiny-Chat", window=256)


@pytest.fixture(scope="module")
def gguf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.gguf(model, tmp_path_factory.mktemp("models") / "gguf")


def greedy(llm: LLM, cache: Path) -> str:
    """The first tokens of the model's answer, by the engine that is chosen."""
    opened = engines.open(llm, cache=cache)
    events: list[Any] = []
    opened.engine.submit(PROMPT, Sampling(max_tokens=12, temperature=0), events.append)
    wait_until(lambda: events and not isinstance(events[-1], Piece))
    opened.engine.close()
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events[:-1])


def test_every_source_is_the_same_model(model: Path, gguf: Path, tmp_path: Path) -> None:
    """Safetensors and a GGUF file of the same model answer alike in OpenVINO, and as transformers does."""
    as_it_is: Any = {"device_map": "cpu", "quantization": "none"}
    folder = greedy(LLM(local_model_path=str(model), llm_engine="openvino", **as_it_is), tmp_path)
    assert folder
    assert folder == greedy(LLM(local_model_path=str(gguf), llm_engine="openvino", **as_it_is), tmp_path)
    assert folder == greedy(LLM(local_model_path=str(model), llm_engine="transformers", **as_it_is), tmp_path)


def test_activations_in_8_bits(model: Path, tmp_path: Path) -> None:
    """OpenVINO may round activations if asked to, and status says so; where transformers runs the model the start stops."""
    llm = LLM(local_model_path=str(model), device_map="cpu", llm_activations="int8")
    assert greedy(llm, tmp_path)
    opened = engines.open(llm, cache=tmp_path)
    opened.engine.close()
    assert opened.about()["dtype"] == "float32, activations int8"
    with pytest.raises(SettingsError, match="LLM_ACTIVATIONS=int8 is for OpenVINO"):
        engines.open(llm.model_copy(update={"quantization": "nf4"}), cache=tmp_path)


def test_made_once(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A graph is made by the first start and found by the next; the GGUF file between is not kept."""
    llm = LLM(local_model_path=str(model), device_map="cpu")
    first = graphs.prepare(llm, cache=tmp_path)
    assert "preparing Tiny-Chat for OpenVINO, once" in capfd.readouterr().err
    assert graphs.prepare(llm, cache=tmp_path) == first
    assert capfd.readouterr().err == ""
    assert (first.name, first.quantization, first.window, first.end_tokens) == ("Tiny-Chat", "q8_0", 256, (2,))
    assert not list(first.folder.glob("*.gguf"))
    changed = tmp_path / "changed" / "Tiny-Chat"
    shutil.copytree(model, changed)
    (changed / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (changed / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    other = graphs.prepare(LLM(local_model_path=str(changed), device_map="cpu"), cache=tmp_path)
    assert other.end_tokens == (2, 7)
    assert other.tokenizer().apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"
    assert first.memory_bytes > 10_000


def test_lossy_form_is_rewritten(gguf: Path, tmp_path: Path) -> None:
    """A GGUF file in a form that OpenVINO would round is dequantised and written as Q8_0, close to what it was."""
    import gguf as library
    import numpy as np

    source = next(gguf.glob("*.gguf"))
    q4 = tmp_path / "q4" / "Tiny-Chat.Q4_1.gguf"
    q4.parent.mkdir()
    _as_q4_1(source, q4)
    assert gguf_file.read_header(q4) == gguf_file.Header("llama", 256, "q4_1")
    out = tmp_path / "rewritten.gguf"
    gguf_file.rewrite(q4, out, kind="Q8_0")
    before, after = ({t.name: t for t in library.GGUFReader(path).tensors} for path in (q4, out))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        wanted = library.dequantize(tensor.data, tensor.tensor_type)
        got = library.dequantize(after[name].data, after[name].tensor_type)
        assert np.abs(wanted - got).max() <= np.abs(wanted).max() / 127
    assert gguf_file.read_header(out).window == 256


def _as_q4_1(source: Path, out: Path) -> None:
    """The file with its matrices in 4 bits with a minimum; its header is copied key by key."""
    import gguf as library

    reader, writer = library.GGUFReader(source), library.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if name.startswith("llama."):
            writer.add_key_value(name, field.contents(), field.types[0])
    writer.add_file_type(3)
    for tensor in reader.tensors:
        plain = library.dequantize(tensor.data, tensor.tensor_type)
        form = library.GGMLQuantizationType.Q4_1
        if plain.ndim == 1:
            writer.add_tensor(tensor.name, plain)
        else:
            writer.add_tensor(tensor.name, library.quantize(plain, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_merged_adapter(model: Path, tmp_path: Path) -> None:
    """An adapter is merged and answers in OpenVINO as it does in transformers; the answer is not the base model's."""
    adapter = tiny.adapter(model, tmp_path / "fcc")
    settings: Any = {"local_base_model_path": str(model), "device_map": "cpu", "quantization": "none"}
    merged = LLM(local_adapter_path=str(adapter), **settings)
    assert engines.choose(merged, cache=tmp_path) == "openvino"
    answer = greedy(merged, tmp_path)
    assert answer[:8] == greedy(merged.model_copy(update={"llm_engine": "transformers"}), tmp_path)[:8]
    assert answer != greedy(LLM(**settings), tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised already"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "positions are scaled"),
        ({"attention_bias": True}, "biases"),
    ],
)
def test_what_openvino_cannot_run(model: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """A model that cannot be written as GGUF is left to transformers; asking for OpenVINO says why it cannot be."""
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((model / "config.json").read_text()) | change
    (other / "config.json").write_text(json.dumps(config))
    assert engines.choose(LLM(local_model_path=str(other), device_map="cpu"), cache=tmp_path) == "transformers"
    with pytest.raises(SettingsError, match=f"LLM_ENGINE=openvino cannot run this model: .*{why}"):
        graphs.prepare(LLM(local_model_path=str(other), llm_engine="openvino"), cache=tmp_path)


@pytest.mark.parametrize(
    "setting",
    [{"quantization": "nf4"}, {"local_adapter_path": ".", "adapter_mode": "attach"}],
)
def test_settings_that_need_transformers(model: Path, tmp_path: Path, setting: Any) -> None:
    """NF4 and an attached adapter are what transformers does."""
    llm = LLM(local_base_model_path=str(model), device_map="cpu", **setting)
    assert engines.choose(llm, cache=tmp_path) == "transformers"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 40, b"PK\x03\x04" + b"0" * 60])
def test_rubbish_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    """A file that is no GGUF file is said to be none, in one line."""
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match="GGUF file"):
        gguf_file.read_header(tmp_path / "model.gguf")


def test_rows_that_are_no_blocks(tmp_path: Path) -> None:
    """A model whose rows cannot be quantised says which setting helps."""
    odd = tiny.make(tmp_path / "odd", hidden=48)
    with pytest.raises(WeightsError, match="QUANTIZATION=none"):
        graphs.prepare(LLM(local_model_path=str(odd), device_map="cpu"), cache=tmp_path)


def test_unknown_architecture(tmp_path: Path, gguf: Path) -> None:
    """A GGUF file of a kind that OpenVINO builds no graph of is left to transformers."""
    content = next(gguf.glob("*.gguf")).read_bytes().replace(b"llama", b"whale")
    (tmp_path / "model.gguf").write_bytes(content)
    base = loader.Base(tmp_path, tmp_path / "model.gguf", "model", "LOCAL_MODEL_PATH")
    assert "whale" in graphs.unsuitable(LLM(), base)
