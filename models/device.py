"""Where networks run."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where it is used: the supervisor of the API does without its 150 MB
    import torch


class UnavailableDeviceError(Exception):
    """This machine or this build of torch lacks the requested device; choose another one."""


def resolve(name: str) -> "torch.device":
    """``auto`` (CUDA if there is one, else the CPU), ``cpu`` or ``cuda`` → a device.

    Raises:
        UnavailableDeviceError: CUDA is asked for and this machine or this build of torch has none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise UnavailableDeviceError("DIGITS_DEVICE=cuda, but torch finds no CUDA device here: use auto or cpu")
    return torch.device(name)


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether ``device`` has bfloat16 instructions; without them bfloat16 is slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
