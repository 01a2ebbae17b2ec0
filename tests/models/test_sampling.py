import pytest
import torch

from models import sampling, seeds
from models.archs import ARCHS
from tests.processes import run_in_threads


def draw(arch: str, wanted: list[int]) -> torch.Tensor:
    torch.manual_seed(7)
    G = ARCHS[arch].generator().eval()
    return sampling.draw(G, sampling.make_latents(wanted, ARCHS[arch].latent_shape, "uniform"))


@pytest.mark.parametrize("arch", ARCHS)
def test_an_image_depends_on_its_seed_alone(arch: str) -> None:
    together = draw(arch, list(range(100)))
    for start, end in ((0, 1), (1, 4), (3, 20), (17, 50), (99, 100)):
        assert draw(arch, list(range(start, end))).equal(together[start:end])


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_run_on_another_shape_may_differ_in_floats_but_images_do_not(arch: str) -> None:
    crowd = draw(arch, [5] * 33)
    assert all(image.equal(crowd[0]) for image in crowd)


def test_images_are_uint8_of_the_mnist_size() -> None:
    images = draw("vanilla", [1, 2, 3])
    assert images.shape == (3, 28, 28)
    assert images.dtype == torch.uint8


def test_grey_levels_are_rounded_and_kept_in_range() -> None:
    pixels = torch.tensor([-1.0, 1.0, 0.0, -1.1, 1.1, -0.98, 0.98, 0.5, -0.5])
    assert sampling.to_uint8(pixels).tolist() == [0, 255, 128, 0, 255, 0, 255, 193, 62]


@pytest.mark.parametrize("distribution", sampling.LATENTS)
def test_latents_are_a_function_of_the_seed(distribution: str) -> None:
    first, second, again = sampling.make_latents([1, 2, 1], (20,), distribution)
    assert first.equal(again)
    assert not first.equal(second)


def test_uniform_latents_fill_minus_one_to_one() -> None:
    z = sampling.make_latents(range(1000), (20,), "uniform")
    assert z.min().item() == pytest.approx(-1, abs=1e-3)
    assert z.max().item() == pytest.approx(1, abs=1e-3)
    assert z.mean().item() == pytest.approx(0, abs=0.02)


def test_normal_latents_have_unit_variance() -> None:
    assert sampling.make_latents(range(1000), (20,), "normal").std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("shape", "categories"), [((20,), 10), ((100, 1, 1), 32)])
def test_mixture_latents_are_a_category_and_noise(shape: tuple[int, ...], categories: int) -> None:
    codes, noise = sampling.make_latents(range(4000), shape, "mixture").flatten(1).tensor_split([categories], dim=1)
    assert ((codes > 0).sum(dim=1) == 1).all()
    assert codes.unique().tolist() == [0, codes.max()]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    expected = 4000 / categories
    assert (codes > 0).sum(dim=0).sub(expected).abs().max() < 5 * expected**0.5


def test_the_largest_seed_and_its_followers_differ() -> None:
    z = sampling.make_latents([seeds.MAX_SEED, seeds.MAX_SEED + 1, seeds.MAX_SEED + 1023, 0], (20,), "uniform")
    assert len({tuple(row.tolist()) for row in z}) == 4


def test_threads_draw_the_same_bytes() -> None:
    torch.manual_seed(7)
    G = ARCHS["dcgan"].generator().eval()
    alone = sampling.draw(G, sampling.make_latents(range(40), (100, 1, 1), "uniform"))
    found: list[torch.Tensor] = []

    def work() -> None:
        torch.set_num_threads(1)
        found.append(sampling.draw(G, sampling.make_latents(range(40), (100, 1, 1), "uniform")))

    run_in_threads(work, 4)
    assert len(found) == 4
    assert all(images.equal(alone) for images in found)


@pytest.mark.parametrize("distribution", sampling.LATENTS)
@pytest.mark.parametrize("shape", [(20,), (100, 1, 1)])
def test_a_way_has_exact_ends_and_one_direction(distribution: str, shape: tuple[int, ...]) -> None:
    first, last = sampling.make_latents([3, 8], shape, distribution)
    way = sampling.join_latents(first, last, [0, 0.25, 0.5, 0.75, 1], distribution)
    assert way.shape == (5, *shape)
    assert way[0].equal(first)
    assert way[-1].equal(last)
    assert (way - first).flatten(1).norm(dim=1).diff().min() > 0
    assert (way - last).flatten(1).norm(dim=1).diff().max() < 0
    back = sampling.join_latents(last, first, [1, 0.75, 0.5, 0.25, 0], distribution)
    torch.testing.assert_close(back, way)


@pytest.mark.parametrize("distribution", sampling.LATENTS)
def test_a_way_does_not_lead_through_short_latents(distribution: str) -> None:
    z = sampling.make_latents(range(200), (100,), distribution)
    for first, last in zip(z[::2], z[1::2], strict=True):
        way = sampling.join_latents(first, last, [0, 0.5, 1], distribution)
        ends, middle = way[::2].norm(dim=1), way[1].norm()
        assert ends.min() * 0.95 < middle < ends.max() * 1.05


def test_an_arc_goes_as_the_formula_says() -> None:
    first, last = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    (middle,) = sampling.join_latents(first, last, [0.5], "normal")
    torch.testing.assert_close(middle, torch.tensor([1.0, 2.0]) * 0.5**0.5)  # slerp of White 2016


@pytest.mark.parametrize("distribution", sampling.LATENTS)
def test_a_way_may_stay_where_it_is(distribution: str) -> None:
    (z,) = sampling.make_latents([5], (20,), distribution)
    torch.testing.assert_close(sampling.join_latents(z, z, [0, 0.3, 1], distribution), z.expand(3, 20))
    opposite = sampling.join_latents(z, -z, [0, 0.5, 1], distribution)
    assert opposite.isfinite().all()
    assert opposite[0].equal(z)


def test_the_codes_of_a_mixture_keep_their_size() -> None:
    z = sampling.make_latents(range(40), (100, 1, 1), "mixture")
    for first, last in zip(z[::2], z[1::2], strict=True):
        way = sampling.join_latents(first, last, [0, 0.2, 0.5, 0.9], "mixture")
        sizes = way.flatten(1)[:, :32].norm(dim=1)
        torch.testing.assert_close(sizes, first[:32].norm().expand(4))


@pytest.mark.parametrize("distribution", sampling.LATENTS)
def test_neighbours_are_near_and_of_the_same_category(distribution: str) -> None:
    z, *others = sampling.make_latents(range(9), (20,), distribution)
    near = sampling.find_neighbours(z, torch.stack(others), 0.25, distribution)
    assert near.shape == (8, 20)
    assert not any(one.equal(z) for one in near)
    for one, other in zip(near, others, strict=True):
        assert (one - z).norm() < (one - other).norm()
    if distribution == "mixture":
        torch.testing.assert_close(near[:, :10], z[:10].expand(8, 10))
