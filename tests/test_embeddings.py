"""Dense vectors: what an embedding model promises, whatever runs it. The model is the real default one."""

import ctypes
import logging
import math
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes_retrieval import opened
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from test_index import write_files

import settings
from errors import SettingsError, StoreError, WeightsError
from retrievers import conversion, embeddings, vectors
from retrievers.embeddings import Converted, Dense, Transformer
from retrievers.index import Indexer

ROOT = Path(__file__).parent.parent
TEXTS = [
    "",
    " ",
    "radio",
    "How often must an amateur station identify itself?",
    "§ 15.247(b)(3)\r\n\tan output of 1\u00a0watt\n",
    "전파법 제29조, 電波法, Ω µW naïve ﬁle \U0001f4e1 \x00 \u200b é",
    "w" * 5000,
    "The station must transmit its call sign at the end of each communication. " * 3,
    "frequency " * 1000,
    "?" * 256,
]
OPEN = """
import sys
from pathlib import Path
from retrievers import embeddings
dense = embeddings.open(Path(sys.argv[1]), engine="auto", cache=Path(sys.argv[2]))
assert len(dense.embed_query("radio")) == len(dense.embed_documents(["a passage"])[0]) == dense.size
assert dense.count_tokens("radio") == 3
print([name for name in ("torch", "transformers", "sentence_transformers", "openvino_telemetry") if sys.modules.get(name)])
"""


@pytest.fixture(scope="module")
def cache() -> Path:
    """Where this machine keeps converted models."""
    return settings.load().cache.fcc_rag_cache


@pytest.fixture(scope="module")
def converted(embedding_folder: Path, cache: Path) -> Converted:
    opened = embeddings.open(embedding_folder, engine="openvino", cache=cache, name="MiniLM")
    assert isinstance(opened, Converted)
    return opened


@pytest.fixture(scope="module")
def transformer(embedding_folder: Path) -> Transformer:
    return embeddings.load(embedding_folder, name="MiniLM", device="cpu")


@pytest.fixture(scope="module", params=["converted", "transformer"])
def dense(request: pytest.FixtureRequest) -> Converted | Transformer:
    """The model as OpenVINO runs it, and as torch does."""
    chosen: Converted | Transformer = request.getfixturevalue(request.param)
    return chosen


@pytest.mark.models
def test_model_describes_itself(dense: Dense) -> None:
    """The model knows its name, its size, how much it reads, and a digest of its weights."""
    assert (dense.name, dense.size, dense.limit, len(dense.digest)) == ("MiniLM", 384, 256, 16)


@pytest.mark.models
def test_vectors_are_unit_vectors_that_mean_something(dense: Dense) -> None:
    """A question is nearer to the passage that answers it than to another, and all vectors have length one."""
    question = dense.embed_query("How much power may a transmitter use?")
    near, far = dense.embed_documents(["The maximum output power is 1 watt.", "Repeaters identify in Morse code."])
    assert math.fsum(value * value for value in near) == pytest.approx(1, abs=1e-5)
    assert _cosine(question, near) > _cosine(question, far) + 0.2


@pytest.mark.models
def test_tokens_are_counted_as_the_model_counts(dense: Dense) -> None:
    """The count includes the two special tokens, and is not cut off at what the model reads."""
    assert dense.count_tokens("radio") == 3
    assert dense.count_tokens("radio " * 500) == 502


@pytest.mark.models
def test_question_is_embedded_once(dense: Converted | Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a search asks for its question's vector, the model runs once."""
    runs: list[list[str]] = []
    kind: Any = type(dense._queries)
    name = "_embed" if isinstance(dense, Transformer) else "embed"
    embed = getattr(kind, name)

    def counted(self: object, texts: list[str], *options: object) -> object:
        runs.append(texts)
        return embed(self, texts, *options)

    monkeypatch.setattr(kind, name, counted)
    first = dense.embed_query("a question nobody has asked before")
    first.clear()  # what a caller does to its copy is its own affair
    assert len(dense.embed_query("a question nobody has asked before")) == 384
    assert runs == [["a question nobody has asked before"]]


@pytest.mark.models
def test_threads_may_share_it(dense: Dense) -> None:
    """Questions, documents and counting at the same time give what they give one after the other."""
    texts = [f"passage number {number} about radio " * (number % 5 + 1) for number in range(24)]
    expected = dense.embed_query("which band?")
    wrong: list[object] = []

    def ask(number: int) -> None:
        dense.embed_query(f"question {number}")
        if dense.embed_query("which band?") != pytest.approx(expected, abs=1e-5):
            wrong.append(number)

    def count() -> None:
        wrong.extend(text for text in texts * 20 if dense.count_tokens(text) < 6)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    threads += [threading.Thread(target=count), threading.Thread(target=dense.embed_documents, args=(texts,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.models
def test_engines_agree(converted: Converted, transformer: Transformer) -> None:
    """OpenVINO gives the vectors torch gives, in the order of the texts, and one collection may know both."""
    assert _least_cosine(converted.embed_documents(TEXTS), transformer.embed_documents(TEXTS)) > 0.99999
    assert _least_cosine([converted.embed_query(text) for text in TEXTS], transformer.embed_documents(TEXTS)) > 0.99999
    assert [converted.count_tokens(text) for text in TEXTS] == [transformer.count_tokens(text) for text in TEXTS]
    assert (converted.digest, converted.size, converted.limit) == (transformer.digest, transformer.size, transformer.limit)
    assert converted.embed_documents([]) == transformer.embed_documents([]) == []


@pytest.mark.models
@trials(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), min_size=1, max_size=4))
def test_engines_agree_on_any_text(converted: Converted, transformer: Transformer, texts: list[str]) -> None:
    """There is no text that OpenVINO's side cuts, cleans or splits in another way than torch's."""
    assert _least_cosine(converted.embed_documents(texts), transformer.embed_documents(texts)) > 0.99999


@pytest.mark.models
def test_question_does_not_wait_for_documents(converted: Converted) -> None:
    """While a batch of documents is embedded, questions are answered."""
    converted.embed_documents(["the first batch also prepares the model"])
    busy = threading.Thread(target=converted.embed_documents, args=(["frequency " * 300] * 48,))
    busy.start()
    for number in range(3):
        converted.embed_query(f"question {number} in between")
    assert busy.is_alive()
    busy.join(120)


@pytest.mark.models
def test_ingestion_gives_its_memory_back(converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What embeds documents, a copy of the weights, is gone after an ingestion, also a failed one; the next has it anew."""
    made: list[weakref.ref[vectors.Runner]] = []

    class Noted(vectors.Runner):
        def __init__(self, model: vectors.Model) -> None:
            super().__init__(model)
            made.append(weakref.ref(self))

    def fail(_: object) -> None:
        raise StoreError("the disk is full")

    converted.release()
    monkeypatch.setattr(vectors, "Runner", Noted)
    write_files(tmp_path, 3)
    store = opened(tmp_path / "store", converted)
    Indexer(store).ingest([tmp_path / "001.txt"])
    assert [ref() for ref in made] == [None]
    monkeypatch.setattr(store, "upsert", fail)
    with pytest.raises(StoreError, match="full"):
        Indexer(store).ingest([tmp_path])
    assert [ref() for ref in made] == [None, None]
    assert len(converted.embed_documents(["once more"])) == 1
    store.close()


@pytest.mark.models
def test_later_start_needs_no_torch(converted: Converted, embedding_folder: Path, cache: Path) -> None:
    """Once a model is converted, a start imports neither torch nor transformers, reports nothing to anybody and is silent."""
    done = _run(OPEN, embedding_folder, cache)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_two_processes_convert_once(tmp_path: Path) -> None:
    """Two first starts at the same time convert a model once, say so in one line, and both have it."""
    folder = _tiny(tmp_path / "tiny")
    command = [sys.executable, "-c", OPEN, str(folder), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert "".join(stderr for _, stderr in ends) == "preparing tiny for OpenVINO, once\n"
    assert [stdout.strip() for stdout, _ in ends] == ["[]", "[]"]


@pytest.mark.parametrize("kind", ["cls", "prompt", "local", "decoder"])
def test_other_kinds_are_converted(tmp_path: Path, kind: str) -> None:
    """Pooling, layers behind it, prompts, local attention and padding on the left all reach OpenVINO."""
    folder, out = _tiny(tmp_path / "tiny", kind), tmp_path / "out"
    out.mkdir()
    conversion.write(folder, out)
    torch, ours = embeddings.load(folder, device="cpu"), Converted(out, name="tiny", digest="")
    texts = ["radio", "a station identify itself . " * 30, "radio station ( 1 )", ""]
    assert _least_cosine(ours.embed_documents(texts), torch.embed_documents(texts)) > 0.99999
    assert (ours.size, ours.limit) == (torch.size, torch.limit)


def test_other_vectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converted model whose vectors are not those of sentence-transformers is not used."""
    monkeypatch.setattr(conversion, "AGREEMENT", 1.1)
    with pytest.raises(ValueError, match=r"differ from those of sentence-transformers \(cosine (1.0|0.9)"):
        conversion.write(_tiny(tmp_path / "tiny"), tmp_path)


def test_model_that_openvino_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where OpenVINO fails, `openvino` stops the start with one line, and `auto` goes on with torch and says so."""
    folder = _tiny(tmp_path / "tiny")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "modules.json").write_text("[broken")
    with pytest.raises(WeightsError, match=r"^EMBEDDING_MODEL: OpenVINO cannot run .*torn: EMBEDDING_MODEL: cannot load [^\n]*$"):
        embeddings.open(tmp_path / "torn", engine="openvino", cache=tmp_path)

    def refuse(folder: Path, out: Path) -> None:
        raise WeightsError("EMBEDDING_MODEL: OpenVINO cannot run tiny: too strange")

    monkeypatch.setattr(conversion, "convert", refuse)
    monkeypatch.setattr(embeddings, "_has_cuda", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert isinstance(embeddings.open(folder, engine="auto", cache=tmp_path), Transformer)
    assert [record.message for record in caplog.records if record.name == "retrievers.embeddings"] == [
        "EMBEDDING_MODEL: OpenVINO cannot run tiny: too strange; torch runs it (EMBEDDING_ENGINE=torch saves the attempt)"
    ]


def test_changed_prompt_is_converted_anew(tmp_path: Path) -> None:
    """What lies beside the weights decides the vectors too, though not whose collection it is."""
    folder = _tiny(tmp_path / "tiny", "prompt")
    before = embeddings._digest(folder), embeddings.configuration(folder)
    file = folder / "config_sentence_transformers.json"
    file.write_text(file.read_text().replace("station : ", "radio : "))
    assert embeddings._digest(folder) == before[0]
    assert embeddings.configuration(folder) != before[1]


@pytest.mark.parametrize(("devices", "answer"), [(None, False), (0, False), (1, True)])
def test_cuda_is_found_by_its_driver(devices: int | None, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's driver is asked for devices, and torch only if it has one; no driver is no device."""
    asked: list[str] = []

    def driver(name: str) -> object:
        if devices is None:
            raise OSError(name)

        def count(reference: Any) -> int:
            reference._obj.value = devices
            return 0

        return SimpleNamespace(cuInit=int, cuDeviceGetCount=count)

    def torch_answers() -> bool:
        asked.append("torch")
        return True

    monkeypatch.setattr(ctypes, "CDLL", driver)
    monkeypatch.setattr("torch.cuda.is_available", torch_answers)
    assert embeddings._has_cuda() is answer
    assert asked == ["torch"] * answer


def test_cuda_means_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is CUDA, `auto` leaves OpenVINO alone."""
    monkeypatch.setattr(embeddings, "_has_cuda", lambda: True)
    assert isinstance(embeddings.open(_tiny(tmp_path / "tiny"), engine="auto", cache=tmp_path), Transformer)
    assert not (tmp_path / "embeddings").exists()


@given(st.lists(st.integers(0, 2000), max_size=60))
def test_batches_hold_little_padding(lengths: list[int]) -> None:
    """Each text is in one batch, of texts about as long; a batch is one text or no larger than a step."""
    batches = list(vectors._batches(lengths))
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= vectors.STEP for batch in batches)


def test_engine_is_a_setting() -> None:
    """An engine that does not exist is refused in a line that names its variable."""
    assert settings.load().retrieval.embedding_engine == "auto"
    with pytest.raises(SettingsError, match=r"^EMBEDDING_ENGINE: "):
        settings.load(embedding_engine="onnx")


def test_not_a_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused in one line that names the setting."""
    with pytest.raises(WeightsError, match=r"^EMBEDDING_MODEL: .* is no sentence-transformers model"):
        embeddings.load(tmp_path)
    (tmp_path / "modules.json").write_text("[broken")
    with pytest.raises(WeightsError, match=r"^EMBEDDING_MODEL: cannot load") as caught:
        embeddings.load(tmp_path)
    assert "\n" not in str(caught.value)


def _cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _least_cosine(some: list[list[float]], others: list[list[float]]) -> float:
    one, other = np.array(some), np.array(others)
    return float(((one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def _run(code: str, *arguments: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def _tiny(folder: Path, kind: str = "cls") -> Path:
    """A sentence-transformers folder of two random layers: BERT, BERT with a prompt, ModernBERT or Qwen3."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base import modules as base
    from sentence_transformers.sentence_transformer.modules import Pooling
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as parts

    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*marks.values(), "radio", "a", "station", "identify", "itself", ".", "(", "1", ")", ":"]
    tokenizer = Tokenizer(parts.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    size: dict[str, Any] = {"vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"intermediate_size": 64, "max_position_embeddings": 96, "pad_token_id": 0}
    transformers.set_seed(0)
    if kind == "local":
        model: Any = transformers.ModernBertModel(transformers.ModernBertConfig(**size, local_attention=8))
    elif kind == "decoder":
        model = transformers.Qwen3Model(transformers.Qwen3Config(**size, num_key_value_heads=2, head_dim=8))
    else:
        model = transformers.BertModel(transformers.BertConfig(**size))
    model.save_pretrained(folder)
    saved: Any = transformers.PreTrainedTokenizerFast
    saved(
        tokenizer_object=tokenizer,
        model_max_length=64,
        padding_side="left" if kind == "decoder" else "right",
        **marks,
    ).save_pretrained(folder)
    pooling = {"cls": "cls", "decoder": "lasttoken"}.get(kind, "mean")
    modules = [base.Transformer(str(folder)), Pooling(32, pooling_mode=pooling)]
    if kind == "cls":
        modules.append(base.Dense(32, 16))
    whole = SentenceTransformer(modules=modules, device="cpu")
    if kind == "prompt":
        whole.prompts, whole.default_prompt_name = {"any": "station : "}, "any"
    whole.save(str(folder))
    return folder
