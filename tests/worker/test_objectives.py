import math

import pytest
import torch
from torch import nn

from worker import objectives


def test_bce_of_known_probabilities() -> None:
    d_loss = objectives.bce_d_loss(torch.tensor([0.8]), torch.tensor([0.3]))
    assert d_loss.item() == pytest.approx(-math.log(0.8) - math.log(0.7))


def test_the_generator_loss_does_not_saturate() -> None:
    d_fake = torch.tensor([0.01], requires_grad=True)
    loss = objectives.bce_g_loss(d_fake)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.01))
    assert d_fake.grad is not None
    assert d_fake.grad.item() == pytest.approx(-100)  # log(1 − D) would give about −1


def test_the_critic_loss_is_fake_minus_real() -> None:
    loss = objectives.wasserstein_d_loss(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0]))
    assert loss.item() == pytest.approx(-2.5)
    assert objectives.wasserstein_g_loss(torch.tensor([1.0, 2.0])).item() == pytest.approx(-1.5)


class Slope(nn.Module):
    """D(x) = slope · x₀: its gradient has the norm |slope| everywhere."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x.flatten(1)[:, 0]


@pytest.mark.parametrize(("slope", "penalty"), [(1.0, 0.0), (3.0, 4.0), (-0.5, 0.25)])
def test_the_penalty_of_a_known_slope(slope: float, penalty: float) -> None:
    D = Slope(slope)
    found = objectives.gradient_penalty(D, torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2))
    assert found.item() == pytest.approx(penalty)


def test_the_penalty_teaches_the_critic() -> None:
    D = Slope(3.0)
    objectives.gradient_penalty(D, torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2)).backward()
    assert D.slope.grad is not None
    assert D.slope.grad.item() == pytest.approx(2 * (3 - 1))


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    seen: list[torch.Tensor] = []

    class Spy(Slope):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach())
            return super().forward(x)

    objectives.gradient_penalty(Spy(1.0), torch.ones(1000, 1, 2, 2), torch.zeros(1000, 1, 2, 2))
    (between,) = seen
    share = between.flatten(1)[:, 0]
    assert between.flatten(1).std(dim=1).max().item() == 0  # one share per image
    assert 0 <= share.min().item() < 0.02
    assert 0.98 < share.max().item() <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)


def test_logistic_losses_are_those_of_probabilities() -> None:
    real, fake = torch.tensor([0.5, -2.0]), torch.tensor([1.5, -0.3])
    expected = objectives.bce_d_loss(real.sigmoid(), fake.sigmoid())
    assert objectives.logistic_d_loss(real, fake).item() == pytest.approx(expected.item())
    assert objectives.logistic_g_loss(fake).item() == pytest.approx(objectives.bce_g_loss(fake.sigmoid()).item())
    assert objectives.logistic_g_loss(torch.tensor([-200.0])).item() == pytest.approx(200)  # no overflow


def test_the_r1_penalty_of_a_linear_judge_is_its_squared_slope() -> None:
    real, fake = torch.rand(5, 4), torch.rand(5, 4)
    D = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        D.weight.copy_(torch.tensor([[1.0, 2.0, 0.0, 2.0]]))
    penalty = objectives.r1_penalty(D, real, fake)
    assert penalty.item() == pytest.approx(9)
    penalty.backward()
    assert D.weight.grad is not None
    assert D.weight.grad.tolist() == [[2.0, 4.0, 0.0, 4.0]]


@pytest.mark.parametrize(
    ("name", "d_output", "expected"),
    [("bce", "probability", 0.5), ("logistic", "probability", 1 / (1 + math.exp(-0.5))), ("wasserstein", "score", 0.5)],
)
def test_records_tell_probabilities_or_scores(name: str, d_output: str, expected: float) -> None:
    objective = objectives.OBJECTIVES[name]
    assert objective.d_output == d_output
    assert objective.to_output(torch.tensor(0.5)).item() == pytest.approx(expected)
