"""The first GAN: two multilayer perceptrons (Goodfellow et al. 2014)."""

from torch import Tensor, nn

from ganduel import game
from ganduel.models.layers import Norm, Output, norm1d, output_layer


class Generator(game.Generator):
    """Latents (N, latent) to images (N, image_channels, resolution, resolution) in (-1, 1). `widths` are the sizes of
    the hidden layers. With `norm_last`, a hidden layer normalises the output of its activation, otherwise the input.
    """

    def __init__(
        self, *, resolution: int, image_channels: int, latent: int, widths: list[int], norm: Norm, norm_last: bool
    ):
        super().__init__()
        self.latent = latent
        layers: list[nn.Module] = []
        for before, after in zip([latent, *widths], widths, strict=False):
            activation, normalisation = nn.LeakyReLU(0.2, inplace=True), norm1d(norm, after, running=True)
            pair = (activation, normalisation) if norm_last else (normalisation, activation)
            layers += [nn.Linear(before, after), *pair]
        layers += [
            nn.Linear([latent, *widths][-1], image_channels * resolution**2),
            nn.Tanh(),
            nn.Unflatten(1, (image_channels, resolution, resolution)),
        ]
        self.layers = nn.Sequential(*layers)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        return self.layers(w)


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,), or to probabilities if `output` is sigmoid.

    `widths` are the sizes of the hidden layers. Each one has dropout.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        widths: list[int],
        norm: Norm,
        dropout: float,
        output: Output,
    ):
        super().__init__()
        self.output = output
        sizes = [image_channels * resolution**2, *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for i, (before, after) in enumerate(zip(sizes, widths, strict=False)):
            layers += [
                nn.Linear(before, after),
                norm1d(norm if i else "none", after, running=False),  # as in DCGAN, never after the first layer
                nn.LeakyReLU(0.2, inplace=True),
                nn.Dropout(dropout),
            ]
        layers += [nn.Linear(sizes[-1], 1), output_layer(output)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
