from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import inference, sampling, versions
from models.archs import ARCHS
from models.inference import BATCH, Inference
from tests.processes import run_in_threads

CPU = torch.device("cpu")


def shipped(arch: str) -> tuple[Inference, Callable[[range], Tensor]]:
    manifest, G = versions.read_generator(versions.PRETRAINED / arch / "1")
    draw = Inference(G, manifest.latent_shape, CPU)
    return draw, lambda seeds: draw(sampling.make_latents(seeds, manifest.latent_shape, manifest.latents))


@pytest.mark.parametrize("arch", ARCHS)
def test_an_image_is_the_same_in_every_company(arch: str) -> None:
    _, images = shipped(arch)
    together = images(range(BATCH))
    for n in range(1, BATCH + 1):
        start = BATCH - n
        assert images(range(start, BATCH)).equal(together[start:])


def test_threads_draw_the_same_bytes() -> None:
    _, images = shipped("dcgan")
    alone = [images(range(n)) for n in (1, 5, 16, 32)]
    found: list[list[Tensor]] = []

    def work() -> None:
        torch.set_num_threads(1)
        found.append([images(range(n)) for n in (1, 5, 16, 32)])

    run_in_threads(work, 4)
    assert len(found) == 4
    assert all(ours.equal(theirs) for images_ in found for ours, theirs in zip(images_, alone, strict=True))


def test_a_shape_that_draws_otherwise_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def draws(z: Tensor) -> Tensor:
        passes.append(len(z))
        odd = len(z) == 2  # as if a product of two rows is summed in another order
        return z.flatten(1)[:, :1].add(odd / 1000)

    passes: list[int] = []
    caplog.set_level("DEBUG")
    monkeypatch.setattr(inference, "_choose_fastest", lambda *_: draws)
    draw = Inference(nn.Sequential(), (3,), CPU)
    assert "passes of 2 images" in caplog.text
    passes.clear()
    for n in (1, 2, 3, 4, 5, 9, 32):
        assert len(draw(torch.rand(n, 3))) == n
    assert passes == [1, 4, 4, 4, 8, 16, 32]


def test_a_network_that_cannot_be_written_as_products_draws_itself(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 784), nn.ReLU(), nn.Tanh()).eval()
    z = torch.randn(20, 3)
    assert Inference(G, (3,), CPU)(z).equal(sampling.draw(G, z))
    assert "half the speed" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("arch", ARCHS)
def test_cuda_draws_as_the_cpu_does(arch: str) -> None:
    manifest, G = versions.read_generator(versions.PRETRAINED / arch / "1")
    z = sampling.make_latents(range(1000), manifest.latent_shape, manifest.latents)
    expected = sampling.draw(G, z)
    draw = Inference(G, manifest.latent_shape, torch.device("cuda"))
    ours = torch.cat([draw(chunk) for chunk in z.split(BATCH)])
    assert (ours.int() - expected.int()).abs().max() <= 1
