"""From `QUANTIZATION` and a device to what bitsandbytes is told. Knows nothing about models or files.

NF4 with double quantisation is QLoRA's (Dettmers et al. 2023, arXiv:2305.14314); int8 is LLM.int8() (arXiv:2208.07339).
"""

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

Quantization = Literal["nf4", "int8", "none"]


def resolve(mode: Literal["auto", "nf4", "int8", "none"], device: str) -> Quantization:
    """What `auto` means on `device` ("cpu", "cuda:0"): NF4 on CUDA, nothing on a CPU, where NF4 is ten times slower."""
    if mode == "auto":
        return "nf4" if device.startswith("cuda") else "none"
    return mode


def config(mode: Literal["auto", "nf4", "int8", "none"], device: str) -> "BitsAndBytesConfig | None":
    """The `quantization_config` for `from_pretrained`, or None where the weights stay as they are."""
    resolved = resolve(mode, device)
    if resolved == "none":
        return None
    from transformers import BitsAndBytesConfig

    if resolved == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # it tells of each cast, each time
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
    )


def compute_dtype(device: str) -> "torch.dtype":
    """float32 on a CPU; on CUDA bfloat16, or float16 on cards older than Ampere, which only emulate bfloat16."""
    import torch

    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
