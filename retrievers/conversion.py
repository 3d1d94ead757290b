"""Makes what `vectors` runs out of a sentence-transformers model, and checks that both give the same vectors."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from errors import WeightsError
from retrievers import vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORMAT = 1  # raise it when something else is written: then models are converted again
AGREEMENT = 1 - 1e-5  # the least cosine between a vector and what sentence-transformers makes of the text
_TEXTS = (  # of many lengths, for a traced model may know only the one it was traced with
    "",
    "radio",
    "How often must an amateur station identify itself?",
    "§ 15.247(b)(3)\n전파법 — naïve Ωμ 📡",
    "The maximum conducted output power is 1 watt. " * 20,
    "frequency " * 600,
)


def convert(folder: Path, out: Path) -> None:
    """Write into `out` what `vectors.Model` reads.

    Done in a process of its own, for torch and the tracing take memory that would not come back. Raises WeightsError, one
    line, if OpenVINO cannot run the model or gives other vectors.
    """
    done = subprocess.run(  # noqa: S603 -- ourselves
        [sys.executable, "-m", __spec__.name, str(folder.absolute()), str(out.absolute())],
        cwd=Path(__file__).parent.parent,  # where it is found, whether installed or not
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2] or f"the process that converts it ended with {done.returncode}"
        raise WeightsError(f"EMBEDDING_MODEL: OpenVINO cannot run {folder}: {why}")


def write(folder: Path, out: Path) -> None:
    """Convert in this process. Raises whatever torch, sentence-transformers and OpenVINO raise, and ValueError."""
    from transformers.utils import logging

    from retrievers import embeddings

    dense = embeddings.load(folder, device="cpu")
    model = dense.model
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    transformer: Any = model[0]
    transformer.auto_model.set_attn_implementation("eager")  # sdpa's masks hide rows of padding wholly, which gives NaN
    openvino = vectors.openvino()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing tells of each size it takes for a constant; the check below looks closer
        features = model.preprocess(["two texts", "of different lengths"], prompt=prompt or None)
        openvino.save_model(_graph(openvino, model, features), out / vectors.GRAPH, compress_to_fp16=False)
    model.tokenizer.backend_tokenizer.save(str(out / vectors.TOKENIZER))  # as preprocess has set it: cut and padded
    about = vectors.About(size=dense.size, limit=dense.limit, prompt=prompt)
    (out / vectors.ABOUT).write_text(about.model_dump_json(), encoding="utf-8")
    _compare(vectors.Runner(vectors.Model(out)).embed(_TEXTS), np.array(dense.embed_documents(list(_TEXTS))))


def _graph(openvino: Any, model: "SentenceTransformer", features: dict[str, Any]) -> Any:
    """All modules of the model and a normalisation at their end, as one graph of text's tensors of any shape."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            tensors = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                tensors["token_type_ids"] = token_type_ids
            return torch.nn.functional.normalize(self.model(constants | tensors)["sentence_embedding"], p=2, dim=1)

    example = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    constants = {name: value for name, value in features.items() if name not in example}
    with torch.no_grad():
        return openvino.convert_model(Whole(), example_input=example)


def _compare(ours: Any, theirs: Any) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"its vectors have {ours.shape[1]} dimensions instead of {theirs.shape[1]}")
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    if not cosines.min() >= AGREEMENT:  # also if it is not a number
        raise ValueError(f"its vectors differ from those of sentence-transformers (cosine {cosines.min():.6f})")


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as failure:  # noqa: BLE001 -- a model can be unfit in as many ways as there are libraries that read it
        sys.exit(str(failure).strip().partition("\n")[0] or type(failure).__name__)
