"""The Dirac-GAN (Mescheder et al. 2018), which docs/modes.md speaks of: does gradient descent reach the equilibrium?

The data are the number 0, G makes the number theta, and D is x -> psi x. Near theta = psi = 0 both players' gradient
descent is linear, so its eigenvalues say what happens: it converges if all real parts are negative, and turns around
the equilibrium for ever if they are 0. Here our losses and penalties give the eigenvalues, and the paper's formulas by
hand are the anchor.
"""

import cmath

import pytest
import torch
from torch import Tensor

from ganduel import losses
from ganduel.game import Duel
from ganduel.losses import AdversarialLoss
from ganduel.regularizers import r1, r2

PLAIN = {"smooth_real": 0.0, "smooth_fake": 0.0, "flip": 0.0, "noise": 0.0}
LOSSES = {
    "minimax": losses.minimax(**PLAIN),
    "nonsaturating": losses.nonsaturating(**PLAIN),
    "hinge": losses.hinge(),
    "wasserstein": losses.wasserstein(),
    "relativistic": losses.relativistic(),
}
SLOPES = {"minimax": 0.5, "nonsaturating": 0.5, "hinge": 1.0, "wasserstein": 1.0, "relativistic": 0.5}


def by_place(value: complex) -> tuple[float, float]:
    return round(value.real, 9), value.imag


def eigenvalues(loss: AdversarialLoss, weights: tuple[float, float]) -> list[complex]:
    """Of simultaneous gradient descent at the equilibrium, with R1 and R2 of these weights."""
    theta, psi = (torch.zeros(1, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def discriminator(x: Tensor) -> Tensor:
        return (x * psi).flatten()

    duel = Duel(
        "",
        discriminator,  # type: ignore[arg-type]
        real=torch.zeros(1, 1, dtype=torch.float64),
        source=theta,
        generator=lambda source, *_: source,
        seed=torch.zeros(1, dtype=torch.int64),
        given=theta,
    )
    of_real, of_fake = discriminator(duel.real), discriminator(duel.fake)
    of_d = loss.discriminator(of_real, of_fake, None) + weights[0] * r1(duel) + weights[1] * r2(duel)
    of_g = loss.generator(of_fake, of_real)
    (move_g,) = torch.autograd.grad(of_g, theta, create_graph=True)
    (move_d,) = torch.autograd.grad(of_d, psi, create_graph=True)
    rows = [torch.autograd.grad(-move, (theta, psi), retain_graph=True, allow_unused=True) for move in (move_g, move_d)]
    jacobian = torch.tensor([[0.0 if x is None else float(x) for x in row] for row in rows], dtype=torch.float64)
    return sorted(torch.linalg.eigvals(jacobian).tolist(), key=by_place)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.1), (0.8, 0.0)])
def test_penalties_turn_circles_into_convergence(name: str, weights: tuple[float, float]) -> None:
    """The eigenvalues are -w plus and minus the root of w^2 - slope^2, where w, the sum of the weights, is half of the
    paper's gamma."""
    total, slope = sum(weights), SLOPES[name]
    root = cmath.sqrt(total**2 - slope**2)
    by_hand = sorted((-total - root, -total + root), key=by_place)
    found = eigenvalues(LOSSES[name], weights)
    assert found == [pytest.approx(value, abs=1e-12) for value in by_hand]
    assert all(value.real < -0.05 for value in found) == (total > 0.05)
    if total == 0:
        assert [value.imag for value in found] == pytest.approx([-slope, slope])
