"""The controller: text embedding and image feature of a (case, class) pair -> the 153 dynamic parameters."""

# Shapes: B cases, K classes, P pairs, E text embedding, T projected text, F image feature.

import math

import torch
from torch import Tensor, nn

from nnunetv2_clip.networks.head import CHANNELS, LAYER_SIZES, NUM_DYNAMIC_PARAMETERS
from nnunetv2_clip.networks.pairs import Pairs

# Bias of the last convolution at the start: most voxels belong to no class (a probability of 5 %).
BACKGROUND_PRIOR = -3.0


class ImageFeature(nn.Module):
    """The global image feature f: normalisation, non-linearity, average over all voxels, projection."""

    def __init__(self, num_channels: int, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(16, num_channels), num_channels)
        self.projection = nn.Linear(num_channels, width)

    def forward(self, bottleneck: Tensor) -> Tensor:
        """(B, channels, *spatial) -> (B, F)."""
        return self.projection(self.norm(bottleneck).relu().flatten(2).mean(2))


class Controller(nn.Module):
    """theta_k = MLP(w_k concatenated with f).

    Args:
        text_width, image_width, hidden_width: E, F and T.
        has_hidden_layer: False: one linear layer in place of the MLP, as the authors' weights need it.

    Source: paper, section 3.2. The last layer starts as a He initialisation of the three convolutions that all
    classes share (its bias) plus a smaller part that depends on text and image, so that the generated layers neither
    vanish nor explode at the first iteration.
    """

    def __init__(self, text_width: int, image_width: int, hidden_width: int = 256, has_hidden_layer: bool = True):
        super().__init__()
        self.text_projection = nn.Linear(text_width, hidden_width)
        joined_width = hidden_width + image_width
        self.hidden = nn.Linear(joined_width, hidden_width) if has_hidden_layer else None
        self.dynamic_parameters = nn.Linear(hidden_width if self.hidden else joined_width, NUM_DYNAMIC_PARAMETERS)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        he, last = math.sqrt(2 / CHANNELS), math.sqrt(1 / CHANNELS)
        scales = torch.cat(
            [torch.full((size,), scale) for size, scale in zip(LAYER_SIZES, (he, 0, he, 0, last, 0), strict=True)]
        )
        nn.init.normal_(self.dynamic_parameters.weight, std=0.05)
        self.dynamic_parameters.bias.copy_(torch.randn_like(scales) * scales)
        self.dynamic_parameters.bias[-1] = BACKGROUND_PRIOR

    def forward(self, text_embedding: Tensor, image_feature: Tensor, pairs: Pairs) -> Tensor:
        """(K, E) embeddings, (B, F) image features, P pairs -> (P, 153)."""
        # Of the wanted pairs alone: which other classes the table holds must not change a bit (see `extensions`).
        text = self.text_projection(text_embedding[pairs.classes] * math.sqrt(text_embedding.shape[1])).relu()
        joined = torch.cat((text, image_feature[pairs.cases]), dim=1)
        return self.dynamic_parameters(self.hidden(joined).relu() if self.hidden else joined)
