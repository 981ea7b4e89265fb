"""The universal network: a backbone of nnU-Net, the controller and the text-driven head.

Named by its dotted path in the plans that a model folder holds, so that nnU-Net builds it from the plans alone.
"""

# Shapes: B cases, K classes, P pairs, E text embedding.

from __future__ import annotations

import copy
import pydoc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.controller import Controller, ImageFeature
from nnunetv2_clip.networks.head import CHANNELS, text_driven_head
from nnunetv2_clip.networks.pairs import Pairs, send

# What a class gets that the network was never trained on: a probability of 2e-9 after the sigmoid.
UNTRAINED_LOGIT = -20.0


class ClassEmbedding(nn.Module):
    """Everything in the network whose size depends on the number of classes: their text embeddings, and which of
    them the training supervised.

    It stands below a module called `seg_layers`, because nnU-Net's -pretrained_weights skips exactly the keys with
    `.seg_layers.` in them: so weights move between class lists with the stock flag.
    """

    def __init__(self, part_of: Sequence[int], text_width: int):
        super().__init__()
        self.seg_layers: Any = nn.Module()  # a holder of buffers
        self.seg_layers.register_buffer("text_embedding", torch.zeros(len(part_of), text_width))
        self.seg_layers.register_buffer("trained", torch.ones(len(part_of), dtype=torch.bool))
        # For each class 0, if it belongs to the network's own head, or n for the n-th extension. In main memory.
        self.part = torch.tensor(part_of)

    @property
    def vectors(self) -> Tensor:
        """(K, E), each of unit length but in imported models (published/)."""
        return self.seg_layers.text_embedding

    @property
    def trained(self) -> Tensor:
        """(K,) bool."""
        return self.seg_layers.trained

    def keep(self, index: Sequence[int]) -> None:
        """Only these classes, in this order."""
        rows = torch.tensor(index)
        self.part = self.part[rows]
        rows = rows.to(self.vectors.device)
        self.seg_layers.text_embedding = self.vectors[rows].clone()
        self.seg_layers.trained = self.trained[rows].clone()


class ExtensionPart(nn.Module):
    """What classes that were added to a frozen network have of their own; it starts as a copy of the network's."""

    def __init__(self, feature_layers: nn.ModuleList, controller: Controller):
        super().__init__()
        self.feature_layers = copy.deepcopy(feature_layers)
        self.controller = copy.deepcopy(controller)


class CLIPUniversalNet(nn.Module):
    """One network for all classes.

    Args:
        input_channels: of the image.
        num_classes: output channels as nnU-Net counts them; must equal the number of class names.
        backbone_class: dotted path of an encoder-decoder with `encoder` and `decoder` as nnU-Net's U-Nets have them.
        class_names: the classes in channel order.
        text_width: E.
        image_width: size of the global image feature f.
        hidden_controller_layer: see `Controller`.
        deep_supervision: logits at every decoder stage, the finest first.
        extensions: classes that were added later, one list for each time (nnunetv2_clip extend): they get feature
            layers and a controller of their own, and the logits of all others stay as they are, to the bit.
        backbone_kwargs: arguments of the backbone, as the stock plans name them.

    Source: paper, section 3.2 and Figure 2.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        backbone_class: str,
        class_names: Sequence[str],
        text_width: int,
        image_width: int = 256,
        hidden_controller_layer: bool = True,
        deep_supervision: bool = True,
        extensions: Sequence[Sequence[str]] = (),
        **backbone_kwargs,
    ):
        super().__init__()
        if num_classes != len(class_names):
            raise ValueError(
                f"The plans name {len(class_names)} classes, dataset.json {num_classes}. The two files come from "
                f"different models; take plans.json and dataset.json from one model folder."
            )
        backbone = build_backbone(input_channels, backbone_class, deep_supervision, backbone_kwargs)
        self.class_names = tuple(class_names)
        self.encoder: Any = backbone.encoder  # of any class that has what nnU-Net's have
        self.decoder: Any = backbone.decoder
        self.feature_layers = release_seg_layers(self.decoder)
        self.image_feature = ImageFeature(self.encoder.output_channels[-1], image_width)
        part_of = {name: number for number, added in enumerate(extensions, start=1) for name in added}
        self.class_embedding = ClassEmbedding([part_of.get(name, 0) for name in class_names], text_width)
        self.controller = Controller(text_width, image_width, has_hidden_layer=hidden_controller_layer)
        self.extensions: Any = nn.ModuleList(ExtensionPart(self.feature_layers, self.controller) for _ in extensions)

    def set_classes(self, vectors: Tensor, trained: Tensor) -> None:
        """Fill the buffers with (K, E) text embeddings and (K,) bool, in the order of `class_names`."""
        assert vectors.shape == self.class_embedding.vectors.shape, (vectors.shape, self.class_embedding.vectors.shape)
        self.class_embedding.vectors.copy_(vectors)
        self.class_embedding.trained.copy_(trained)

    def keep_classes(self, names: Sequence[str]) -> None:
        """Restrict the network to some of its classes, in the given order: the head computes no others."""
        self.class_embedding.keep([self.class_names.index(name) for name in names])
        self.class_names = tuple(names)

    # torch.compile takes `_features`, where the time is. What holds pairs, whose number changes with every batch, would
    # be compiled again and again until the compiler gives up.
    @torch.compiler.disable(recursive=False)
    def forward(self, image: Tensor, pairs: Pairs | None = None) -> Tensor | list[Tensor]:
        """Logits.

        Args:
            image: (B, input_channels, *spatial).
            pairs: compute only these. None: all classes of all cases;
                those never trained get UNTRAINED_LOGIT.

        Returns:
            (B, K, *spatial) logits without `pairs`, (P, *spatial) with them;
            with deep supervision a list over the decoder's scales, the finest first.
        """
        logits = self._logits(*self._features(image), pairs)  # pyright: ignore[reportCallIssue] its decorator hides it
        return logits if self.decoder.deep_supervision else logits[0]

    def _features(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The decoder's features, the finest first, and the (B, F) image feature."""
        skips = self.encoder(image)
        features = self.decoder(skips)
        return list(features) if self.decoder.deep_supervision else [features], self.image_feature(skips[-1])

    @torch.compiler.disable
    def _logits(self, features: list[Tensor], image_feature: Tensor, pairs: Pairs | None) -> list[Tensor]:
        """For each scale, of the pairs or of all classes."""
        wanted = self._trained_pairs(len(image_feature)) if pairs is None else pairs
        if self.extensions:
            logits = self._logits_of_all_parts(features, image_feature, wanted)
        else:
            logits = self._logits_of_part(self, features, image_feature, wanted)
        return [self._all_classes(logit, len(image_feature)) for logit in logits] if pairs is None else logits

    def _logits_of_part(
        self, part: CLIPUniversalNet | ExtensionPart, features: list[Tensor], image_feature: Tensor, pairs: Pairs
    ) -> list[Tensor]:
        """(P, *spatial) for each scale; `part` has the feature layers and the controller of these pairs."""
        layers = list(part.feature_layers)[::-1] if self.decoder.deep_supervision else [part.feature_layers[-1]]
        theta = part.controller(self.class_embedding.vectors, image_feature, pairs)
        counts = pairs.counts(len(image_feature))
        return [
            text_driven_head(layer(x), theta, pairs.cases, counts) for layer, x in zip(layers, features, strict=True)
        ]

    def _logits_of_all_parts(self, features: list[Tensor], image_feature: Tensor, pairs: Pairs) -> list[Tensor]:
        """As `_logits_of_part`, each pair by the part of its class.

        The pairs of a part are computed apart from all others: the same products in the same order as in the network
        without the later parts, hence the same bits.
        """
        logits: list[Tensor] = []
        part_of_pair = self.class_embedding.part[pairs.on_cpu[:, 1]]
        for number, part in enumerate((self, *self.extensions)):
            rows = (part_of_pair == number).nonzero()[:, 0]
            if len(rows) == 0 and len(pairs) > 0 and not torch.is_grad_enabled():
                continue  # in training an empty part still reaches its parameters, with zero gradient
            for scale, own in enumerate(self._logits_of_part(part, features, image_feature, pairs[rows])):
                if len(logits) == scale:
                    logits.append(own.new_empty((len(pairs), *own.shape[1:])))
                logits[scale][send(rows, own.device)] = own
        return logits

    def _trained_pairs(self, num_cases: int) -> Pairs:
        """Every trained class in every case."""
        classes = self.class_embedding.trained.cpu().nonzero()[:, 0]
        table = torch.cartesian_prod(torch.arange(num_cases), classes)
        return Pairs.of(table, self.class_embedding.trained.device)

    def _all_classes(self, logits: Tensor, num_cases: int) -> Tensor:
        """(B * trained, *spatial) -> (B, K, *spatial)."""
        trained = self.class_embedding.trained
        num_trained = logits.shape[0] // num_cases
        logits = logits.view(num_cases, num_trained, *logits.shape[1:])
        if num_trained == len(trained):
            return logits
        full = logits.new_full((num_cases, len(trained), *logits.shape[2:]), UNTRAINED_LOGIT)
        full[:, trained] = logits
        return full


def bare_network(network: nn.Module) -> CLIPUniversalNet:
    """The network inside what DDP and torch.compile have made of it."""
    network = network.module if isinstance(network, DistributedDataParallel) else network
    network = network._orig_mod if isinstance(network, OptimizedModule) else network
    assert isinstance(network, CLIPUniversalNet)
    return network


def build_backbone(input_channels: int, dotted_path: str, deep_supervision: bool, kwargs: dict) -> nn.Module:
    """The network that the stock plans name, with 8 output channels and its own initialisation.

    Raises:
        UserError: the class cannot be found.
        ValueError: the network has no encoder or decoder as nnU-Net's U-Nets have.
    """
    backbone_class: Any = pydoc.locate(dotted_path)
    if backbone_class is None:
        raise UserError(f"backbone {dotted_path}", "cannot be found", remedy="install the package that holds it")
    backbone = backbone_class(
        input_channels=input_channels, num_classes=CHANNELS, deep_supervision=deep_supervision, **kwargs
    )
    if not hasattr(getattr(backbone, "decoder", None), "seg_layers") or not hasattr(backbone, "encoder"):
        raise ValueError(
            f"Backbone {dotted_path!r} has no encoder and decoder with seg_layers. Expected: a U-Net of "
            f"dynamic_network_architectures such as PlainConvUNet or ResidualEncoderUNet."
        )
    if hasattr(backbone, "initialize"):
        backbone.apply(backbone.initialize)
    return backbone


def release_seg_layers(decoder: Any) -> nn.ModuleList:
    """Take the 1x1x1 convolutions out of the decoder, which then returns the features of its stages.

    Outside the decoder their names have no `.seg_layers.`, so that they move along with pretrained weights:
    they make 8 channels whatever the number of classes.
    """
    layers = decoder.seg_layers
    decoder.seg_layers = nn.ModuleList(nn.Identity() for _ in layers)
    return layers
