"""Decoder features of predicted classes, and their map in the plane (t-SNE; paper, Figure 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.universal import bare_network
from nnunetv2_clip.runner import require_all, run_cases

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

# Shapes: C decoder channels, K classes, N sampled voxels.

MIN_VOXELS = 5  # of a class, to be worth a place in the map
LABEL_DISTANCE = 0.035  # between two numbers, as a part of the map


class FeatureSampler:
    """Collects the features of the finest decoder stage at voxels that the network assigns to a class.

    Args:
        network: a CLIPUniversalNet without deep supervision.
        per_class: at most so many voxels of each class and patch.
    """

    def __init__(self, network: nn.Module, per_class: int, seed: int = 0):
        self.network, self.per_class = network, per_class
        self.features: dict[str, list[np.ndarray]] = {name: [] for name in network.class_names}
        self._rng = np.random.default_rng(seed)

    @torch.inference_mode()
    def add(self, patch: Tensor) -> None:
        """Sample one (1, channels, *spatial) patch. A voxel belongs to every class whose probability is above 0.5."""
        caught: list[Tensor] = []
        layer = self.network.feature_layers[-1]
        handle = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            logits = self.network(patch)
        finally:
            handle.remove()
        features = caught[0][0].flatten(1)
        for k, name in enumerate(self.network.class_names):
            voxels = (logits[0, k].flatten() > 0).nonzero()[:, 0].cpu().numpy()
            if voxels.size:
                chosen = self._rng.choice(voxels, min(self.per_class, voxels.size), replace=False)
                self.features[name].append(features[:, torch.from_numpy(chosen)].T.float().cpu().numpy())

    def result(self, per_class: int) -> dict[str, np.ndarray]:
        """Class -> (N, C), at most `per_class` voxels of each; classes with too few are left out."""
        found = {}
        for name, parts in self.features.items():
            rows = np.concatenate(parts) if parts else np.zeros((0, 0))
            if len(rows) >= MIN_VOXELS:
                found[name] = rows[self._rng.permutation(len(rows))[:per_class]]
        return found


def sample_cases(predictor: nnUNetPredictor, images: Sequence[Path], per_class: int) -> dict[str, np.ndarray]:
    """Class -> (N, C) decoder features over all tiles of the images.

    Raises:
        UserError: fewer than two classes are predicted anywhere.
        CasesFailed: images that cannot be read.
    """
    network = bare_network(predictor.network).to(predictor.device).eval()
    network.load_state_dict(predictor.list_of_parameters[0])
    network.decoder.deep_supervision = False
    sampler = FeatureSampler(network, per_class)

    def sample(image: Path) -> None:
        for tile in _tiles(predictor, image):
            sampler.add(tile.to(predictor.device))

    require_all(run_cases(sample, images, "Sampling features"), "feature-map")
    found = sampler.result(per_class)
    if len(found) < 2:
        raise UserError("-i", f"{len(found)} classes are predicted in these images", "two or more", "give other images")
    return found


def project(features: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Class -> (N, 2): t-SNE of the standardised features of all classes together."""
    from sklearn.manifold import TSNE

    rows = np.concatenate(list(features.values()))
    rows = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-6)
    perplexity = min(30, (len(rows) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    ends = np.cumsum([len(part) for part in features.values()])[:-1]
    return dict(zip(features, np.split(plane, ends), strict=True))


def map_figure(plane: dict[str, np.ndarray]) -> Figure:
    """Every voxel as a dot in its class's colour; each class as a number near the median of its dots, with a legend."""
    from matplotlib import colormaps

    from nnunetv2_clip.evaluation.figures import new_figure

    figure, axis = new_figure(8, 7)
    # Strong colours first: neighbours in the list, often left and right of an organ, get different hues.
    colours = (*colormaps["tab20"].colors[::2], *colormaps["tab20"].colors[1::2], *colormaps["tab20b"].colors)
    extent = np.ptp(np.concatenate(list(plane.values())), axis=0).max()
    places = spread(np.array([np.median(dots, axis=0) for dots in plane.values()]), LABEL_DISTANCE * extent)
    for number, (name, dots) in enumerate(plane.items(), start=1):
        colour = colours[(number - 1) % len(colours)]
        axis.plot(*dots.T, ".", color=colour, markersize=3, alpha=0.6, label=f"{number}  {name.replace('_', ' ')}")
        axis.annotate(
            str(number),
            places[number - 1],
            fontsize=8,
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "alpha": 0.9},
        )
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), markerscale=4, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("t-SNE of decoder features, voxels sampled per predicted class", fontsize=10)
    return figure


def spread(places: np.ndarray, distance: float) -> np.ndarray:
    """(K, 2) places moved apart until no two are nearer than about `distance`."""
    places = places.astype(float)
    for _ in range(100):
        apart = places[:, None] - places[None]
        lengths = np.linalg.norm(apart, axis=2)
        near = np.triu(lengths < 0.99 * distance, 1)
        if not near.any():
            break
        for i, j in np.argwhere(near):
            direction = apart[i, j] / lengths[i, j] if lengths[i, j] else np.array([-1.0, 0.0])
            push = direction * (distance - lengths[i, j]) / 2
            places[i], places[j] = places[i] + push, places[j] - push
    return places


def _tiles(predictor: nnUNetPredictor, image: Path) -> Iterator[Tensor]:
    """Non-overlapping (1, channels, *patch) tiles of the preprocessed image."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image

    configuration = predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data = preprocessor.run_case([str(image)], None, predictor.plans_manager, configuration, predictor.dataset_json)[0]
    data = pad_nd_image(np.asarray(data), tuple(configuration.patch_size), "constant", {"constant_values": 0})
    predictor.tile_step_size = 1.0
    for part in predictor._internal_get_sliding_window_slicers(data.shape[1:]):
        yield torch.from_numpy(np.ascontiguousarray(data[part]))[None].float()
