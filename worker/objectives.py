"""What G and D minimise: losses of the discriminator's outputs, and the gradient penalty.

Losses only compute; ``worker.step`` says when. All are functions of tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, softplus

from worker.recipes import DOutput

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """``d_loss(D(real), D(fake))`` and ``g_loss(D(fake))``, each a scalar to minimise."""

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]
    d_output: DOutput  # what records tell of D(image)
    to_output: Callable[[Tensor], Tensor] = lambda verdict: verdict  # D(image) → that


def bce_d_loss(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities in 0…1: real → 1, fake → 0 (arXiv:1406.2661)."""
    return binary_cross_entropy(d_real, torch.ones_like(d_real)) + binary_cross_entropy(
        d_fake, torch.zeros_like(d_fake)
    )


def bce_g_loss(d_fake: Tensor) -> Tensor:
    """The non-saturating generator loss, −log D(fake) (arXiv:1406.2661, section 3)."""
    return binary_cross_entropy(d_fake, torch.ones_like(d_fake))


def wasserstein_d_loss(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """mean D(fake) − mean D(real); ``worker.step`` adds the penalty (arXiv:1704.00028)."""
    return d_fake.mean() - d_real.mean()


def wasserstein_g_loss(d_fake: Tensor) -> Tensor:
    """−mean D(fake) (arXiv:1701.07875)."""
    return -d_fake.mean()


def logistic_d_loss(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """:func:`bce_d_loss` from logits, for a discriminator without Sigmoid. It cannot overflow."""
    return softplus(-d_real).mean() + softplus(d_fake).mean()


def logistic_g_loss(d_fake: Tensor) -> Tensor:
    """:func:`bce_g_loss` from logits."""
    return softplus(-d_fake).mean()


def gradient_penalty(D: Network, real: Tensor, fake: Tensor) -> Tensor:
    """mean((‖∇D(x̂)‖₂ − 1)²) on x̂ drawn uniformly between each real and fake image.

    ``real`` and ``fake`` have the same shape ``[n, …]`` and no graph. From algorithm 1 of
    arXiv:1704.00028, without its factor λ.
    """
    mix = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    norms: Tensor = _gradient(D, torch.lerp(fake, real, mix)).norm(dim=1)
    return (norms - 1).square().mean()


def r1_penalty(D: Network, real: Tensor, fake: Tensor) -> Tensor:
    """mean(‖∇D(x)‖²) on real images only: R₁ of arXiv:1801.04406, without its factor γ/2.

    ``fake`` is not used: both penalties have the same signature.
    """
    return _gradient(D, real).square().sum(dim=1).mean()


def _gradient(D: Network, images: Tensor) -> Tensor:
    """∇D at each image, ``[n, pixels]``, with a graph to the weights of D."""
    at = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(at).sum(), at, create_graph=True)
    return gradient.flatten(1)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "bce": Objective(bce_d_loss, bce_g_loss, DOutput.PROBABILITY),
        "logistic": Objective(logistic_d_loss, logistic_g_loss, DOutput.PROBABILITY, torch.sigmoid),
        "wasserstein": Objective(wasserstein_d_loss, wasserstein_g_loss, DOutput.SCORE),
    }
)

PENALTIES: Mapping[str, Callable[[Network, Tensor, Tensor], Tensor]] = MappingProxyType(
    {"gp": gradient_penalty, "r1": r1_penalty}
)
