"""The published networks, restated from the description of their layers alone: names, shapes, order, formulas.

Nothing here comes from our networks; the transformer is MONAI's, with the old order of a merging put into it.
"""

# Shapes: K classes, E text embedding, spatial sizes X Y Z.

import torch
import torch.nn.functional as F
from torch import nn

NUM_CLASSES, TEXT_WIDTH = 32, 512
DOWN = {
    "down_tr64": (1, 32, 64),
    "down_tr128": (64, 64, 128),
    "down_tr256": (128, 128, 256),
    "down_tr512": (256, 256, 512),
}
UP = {"up_tr256": (512, 768, 256), "up_tr128": (256, 384, 128), "up_tr64": (128, 192, 64)}


def random_unet(seed: int = 0, num_classes: int = NUM_CLASSES) -> dict[str, torch.Tensor]:
    """The 117 tensors of a U-Net file."""
    torch.manual_seed(seed)
    state = {}
    for name, (before, first, second) in DOWN.items():
        state |= convolution(f"{name}.ops.0", before, first) | convolution(f"{name}.ops.1", first, second)
    for name, (below, joined, own) in UP.items():
        state[f"{name}.up_conv.weight"] = torch.randn(below, below, 2, 2, 2) / below**0.5
        state[f"{name}.up_conv.bias"] = torch.randn(below) / 10
        state |= convolution(f"{name}.ops.0", joined, own) | convolution(f"{name}.ops.1", own, own)
    return state | random_head(64, 512, num_classes)


def random_swin(seed: int = 0, num_classes: int = NUM_CLASSES) -> dict[str, torch.Tensor]:
    """The 170 tensors of a Swin UNETR file."""
    torch.manual_seed(seed)
    backbone = {name: value for name, value in monai_swin().state_dict().items() if not name.startswith("out.")}
    return backbone | random_head(48, 768, num_classes)


def convolution(name: str, before: int, after: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.conv1.weight": torch.randn(after, before, 3, 3, 3) / (27 * before) ** 0.5,
        f"{name}.conv1.bias": torch.randn(after) / 10,
        f"{name}.bn1.weight": 1 + torch.randn(after) / 10,
        f"{name}.bn1.bias": torch.randn(after) / 10,
        f"{name}.bn1.running_mean": torch.randn(after),  # never used
        f"{name}.bn1.running_var": torch.rand(after),
        f"{name}.bn1.num_batches_tracked": torch.tensor(7),
    }


def random_head(features: int, bottom: int, num_classes: int) -> dict[str, torch.Tensor]:
    weights = {
        "precls_conv.0": (features,),
        "precls_conv.2": (8, features, 1, 1, 1),
        "GAP.0": (bottom,),
        "GAP.3": (256, bottom, 1, 1, 1),
        "controller": (153, 512, 1, 1, 1),
        "text_to_vision": (256, TEXT_WIDTH),
    }
    state = {}
    for name, shape in weights.items():
        width = shape[1] if len(shape) > 1 else 100
        state[f"{name}.weight"] = (len(shape) == 1) + torch.randn(shape) / width**0.5
        state[f"{name}.bias"] = torch.randn(shape[0]) / 10
    state["controller.weight"] *= 3  # logits that vary
    return state | {"organ_embedding": torch.randn(num_classes, TEXT_WIDTH) * 0.4}


def unet_features(state: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 64, X, Y, Z) of the decoder and (1, 512, X/8, Y/8, Z/8) of the bottom."""

    def two(name: str, x: torch.Tensor) -> torch.Tensor:
        for number in (0, 1):
            layer = f"{name}.ops.{number}"
            x = F.conv3d(x, state[f"{layer}.conv1.weight"], state[f"{layer}.conv1.bias"], padding=1)
            x = F.batch_norm(x, None, None, state[f"{layer}.bn1.weight"], state[f"{layer}.bn1.bias"], training=True)
            x = F.relu(x)
        return x

    skips = []
    for name in DOWN:
        skips.append(two(name, F.max_pool3d(skips[-1], 2) if skips else image))
    x = skips[-1]
    for name, skip in zip(UP, skips[-2::-1], strict=True):
        up = F.conv_transpose3d(x, state[f"{name}.up_conv.weight"], state[f"{name}.up_conv.bias"], stride=2)
        x = two(name, torch.cat((up, skip), 1))
    return x, skips[-1]


class OldMerging(nn.Module):
    """Of MONAI 0.9.0 to 1.4.0: 000 100 010 001 101 010 001 111."""

    def __init__(self, dim: int, norm_layer=nn.LayerNorm, spatial_dims: int = 3):
        super().__init__()
        self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = slice(0, None, 2), slice(1, None, 2)
        corners = [
            x[:, even, even, even], x[:, odd, even, even], x[:, even, odd, even], x[:, even, even, odd],
            x[:, odd, even, odd], x[:, even, odd, even], x[:, even, even, odd], x[:, odd, odd, odd],
        ]  # fmt: skip
        return self.reduction(self.norm(torch.cat(corners, -1)))


def monai_swin() -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(1, 14, feature_size=48, downsample=OldMerging).eval()


def swin_features(state: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 48, X, Y, Z) of the decoder and (1, 768, X/32, Y/32, Z/32) of the bottom."""
    network, bottom = monai_swin(), []
    left_over = network.load_state_dict(state, strict=False)
    assert all(name.startswith("out.") for name in left_over.missing_keys)
    network.out = nn.Identity()
    network.encoder10.register_forward_hook(lambda module, given, result: bottom.append(result))
    return network(image), bottom[0]


@torch.no_grad()
def logits(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """(1, 1, X, Y, Z) -> (K, X, Y, Z), in the order of the rows of organ_embedding."""
    backbone = unet_features if "down_tr64.ops.0.conv1.weight" in state else swin_features
    x, bottom = backbone(state, image)
    f = F.relu(F.group_norm(bottom, 16, state["GAP.0.weight"], state["GAP.0.bias"])).mean((2, 3, 4), keepdim=True)
    f = F.conv3d(f, state["GAP.3.weight"], state["GAP.3.bias"])
    x = F.relu(F.group_norm(x, 16, state["precls_conv.0.weight"], state["precls_conv.0.bias"]))
    x = F.conv3d(x, state["precls_conv.2.weight"], state["precls_conv.2.bias"])
    text = F.relu(F.linear(state["organ_embedding"], state["text_to_vision.weight"], state["text_to_vision.bias"]))
    found = []
    for row in text:
        joined = torch.cat((f, row.view(1, -1, 1, 1, 1)), 1)
        theta = F.conv3d(joined, state["controller.weight"], state["controller.bias"]).flatten()
        w1, w2, w3, b1, b2, b3 = theta.split((64, 64, 8, 8, 8, 1))
        y = F.relu(F.conv3d(x, w1.view(8, 8, 1, 1, 1), b1))
        y = F.relu(F.conv3d(y, w2.view(8, 8, 1, 1, 1), b2))
        found.append(F.conv3d(y, w3.view(1, 8, 1, 1, 1), b3)[0, 0])
    return torch.stack(found)


def in_layout(state: dict[str, torch.Tensor], module: bool, backbone: bool) -> dict[str, torch.Tensor]:
    """As a training on several GPUs saves it (`module.`), and with the backbone apart from the head (`backbone.`)."""
    of_head = ("organ_embedding", "precls_conv.", "GAP.", "controller.", "text_to_vision.")
    inner = lambda name: name if not backbone or name.startswith(of_head) else f"backbone.{name}"  # noqa: E731
    return {("module." if module else "") + inner(name): value for name, value in state.items()}


def checkpoint(state: dict[str, torch.Tensor], **more) -> dict:
    """As the authors save it."""
    return {"net": state, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "epoch": 3, **more}
