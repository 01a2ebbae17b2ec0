"""Where networks run."""

import torch


def resolve(name: str) -> torch.device:
    """``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda`` → a device.

    Raises:
        ValueError: CUDA is asked for and this machine or this build of torch has none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ValueError("DIGITS_DEVICE=cuda, but torch finds no CUDA device here: use auto or cpu")
    return torch.device(name)
