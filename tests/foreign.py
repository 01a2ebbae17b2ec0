"""A script as readers of the chapter have it: it makes the files that ``digits import`` takes. Run as ``__main__``.

python tests/foreign.py FOLDER
"""

import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.serialization
from torch import Tensor, nn


def make_vanilla_generator() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("fc_g0", nn.Linear(20, 100))
    model.add_module("relu_g0", nn.LeakyReLU())
    model.add_module("fc_g1", nn.Linear(100, 784))
    model.add_module("tanh_g", nn.Tanh())
    return model


def make_vanilla_discriminator() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("fc_d0", nn.Linear(784, 100, bias=False))
    model.add_module("relu_d0", nn.LeakyReLU())
    model.add_module("dropout", nn.Dropout(p=0.5))
    model.add_module("fc_d1", nn.Linear(100, 1))
    model.add_module("sigmoid", nn.Sigmoid())
    return model


def make_generator(norm: Any, slope: float = 0.2, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(100, 128, 4, 1, 0, bias=False),
        norm(128),
        nn.LeakyReLU(slope),
        nn.ConvTranspose2d(128, 64, 3, stride, 1, bias=False),
        norm(64),
        nn.LeakyReLU(slope),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        norm(32),
        nn.LeakyReLU(slope),
        nn.ConvTranspose2d(32, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


class Discriminator(nn.Module):
    def __init__(self, norm: Any = nn.BatchNorm2d, sigmoid: bool = True) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1, bias=False),
            norm(64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 3, 2, 1, bias=False),
            norm(128),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 1, 4, 1, 0, bias=False),
            *([nn.Sigmoid()] if sigmoid else []),
        )

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images)
        return output.view(-1, 1).squeeze(0)


class DiscriminatorWGAN(Discriminator):
    def __init__(self, sigmoid: bool = True) -> None:
        super().__init__(nn.InstanceNorm2d, sigmoid)


def save_generators(folder: Path) -> None:
    """Every form of the generators that fits."""
    for arch, G in {
        "vanilla": make_vanilla_generator(),
        "dcgan": make_generator(nn.BatchNorm2d),
        "wgan": make_generator(nn.InstanceNorm2d),
    }.items():
        weights = G.state_dict()
        forms: dict[str, Any] = {
            "whole": G,
            "weights": weights,
            "parallel": nn.DataParallel(G),
            "parallel_weights": nn.DataParallel(G).state_dict(),
            "other_prefix": OrderedDict((f"main.net.{name}", tensor) for name, tensor in weights.items()),
            "in_state_dict": {"epoch": 3, "loss": [0.5], "state_dict": weights},
            "in_generator": {"generator": weights, "discriminator": {"x": torch.zeros(1)}},
            "in_model": {"model": {"state_dict": weights}},
            "whole_in_dict": {"generator": G},
            "plain_dict": dict(weights),
            "double": {name: tensor.double() for name, tensor in weights.items()},
            "half": {name: tensor.half() for name, tensor in weights.items()},
            "transposed": {name: tensor.mT.contiguous().mT for name, tensor in weights.items() if tensor.dim() > 1}
            | {name: tensor for name, tensor in weights.items() if tensor.dim() < 2},
            "views": {name: torch.stack([tensor, tensor])[1] for name, tensor in weights.items()},
        }
        for form in ("whole", "weights", "in_state_dict"):
            torch.save(forms[form], folder / f"{arch}_{form}_old.pt", _use_new_zipfile_serialization=False)
        for form, value in forms.items():
            if arch == "vanilla" or form in ("whole", "weights"):  # the others are alike, and large
                torch.save(value, folder / f"{arch}_{form}.pt")
        tag, torch.serialization.location_tag = torch.serialization.location_tag, lambda storage: "cuda:0"
        torch.save(weights, folder / f"{arch}_gpu.pt")
        torch.save(weights, folder / f"{arch}_gpu_old.pt", _use_new_zipfile_serialization=False)
        torch.serialization.location_tag = tag


def save_discriminators(folder: Path) -> None:
    """Every form of the discriminators that fits."""
    for arch, D in {
        "vanilla": make_vanilla_discriminator(),
        "dcgan": Discriminator(),
        "wgan": DiscriminatorWGAN(),
        "wgan_open": DiscriminatorWGAN(sigmoid=False),
        "dcgan_inner": Discriminator().network,
    }.items():
        torch.save(D, folder / f"d_{arch}.pt")
        torch.save(D.state_dict(), folder / f"d_{arch}_weights.pt")
        torch.save(D, folder / f"d_{arch}_old.pt", _use_new_zipfile_serialization=False)


def save_misfits(folder: Path) -> None:
    """Networks and weights that do not fit wgan."""
    plain = nn.InstanceNorm2d
    weights = make_generator(plain).state_dict()

    def change(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
        return {one: value for one, value in (dict(weights) | {name: tensor}).items() if value is not None}

    odd = make_generator(plain)
    odd[10] = nn.Sigmoid()
    eps = make_generator(lambda channels: nn.InstanceNorm2d(channels, eps=1e-3))
    relu = make_generator(plain)
    relu[2] = nn.ReLU()
    padded = make_generator(plain)
    padded[3] = nn.ConvTranspose2d(128, 64, 3, 2, 1, output_padding=1, bias=False)
    forms: dict[str, Any] = {
        "slope": make_generator(plain, slope=0.1),
        "stride": make_generator(plain, stride=1),
        "eps": eps,
        "affine": make_generator(lambda channels: nn.InstanceNorm2d(channels, affine=True)),
        "relu": relu,
        "sigmoid": odd,
        "output_padding": padded,
        "long": nn.Sequential(*make_generator(plain), nn.Tanh()),
        "short": make_generator(plain)[:-1],
        "shape": change("3.weight", torch.zeros(64, 128, 3, 3)),
        "missing": change("3.weight", None),
        "more": change("12.weight", torch.zeros(3)),
        "nan": change("3.weight", torch.full((128, 64, 3, 3), float("nan"))),
        "infinite": change("9.weight", torch.full((32, 1, 4, 4), 3e38)),
        "integers": change("3.weight", torch.ones(128, 64, 3, 3, dtype=torch.int64)),
        "vast": change("3.weight", torch.zeros(1).expand(10**6, 10**6)),
        "dcgan": make_generator(nn.BatchNorm2d).state_dict(),
        "discriminator": DiscriminatorWGAN().state_dict(),
        "number": {"epoch": 3},
        "no_tensor": {**weights, "epoch": 3},
        "tensor": torch.zeros(3),
        "empty": {},
        "escape": {**weights, "\x1b[2J": torch.zeros(1)},
        "linear": nn.Linear(3, 3),
    }
    for form, value in forms.items():
        torch.save(value, folder / f"bad_{form}.pt")
    (folder / "bad_pickle.pt").write_bytes(pickle.dumps(make_generator(plain)))


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(sys.argv[1])
    save_generators(target)
    save_discriminators(target)
    save_misfits(target)
