"""LPIPS: how different two pictures look to a network (Zhang et al., CVPR 2018), version 0.1.

The `lpips` package brings the learned weights of the differences; the network under them is torchvision's, read from a
file that is on this machine.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import lpips
import torch
from torch import Tensor

from sparsedit.metrics.backbones import refusing

MIN_SIDE = 32
"""The smallest picture, in pixels, of which every layer of the networks leaves something."""


class Lpips:
    """LPIPS on one network. Pictures are batches [B, 3, H, W] in [-1, 1]; 0 is equal, more is more different."""

    def __init__(self, net: str, weights: Path, device: torch.device | str = "cpu") -> None:
        """Read the network `net` ("squeeze", "alex" or "vgg") from torchvision's file; ModelError if that fails."""
        # The package makes its network by torchvision's old arguments, with random weights and the global generator.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        self.model.net.load_state_dict(_backbone(weights, list(self.model.net.state_dict())))
        self.model.requires_grad_(False).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> list[float]:
        """One value per pair."""
        self.model.spatial = False
        values: list[float] = self.model(a.to(self.device), b.to(self.device)).flatten().tolist()
        return values

    @torch.inference_mode()
    def map(self, a: Tensor, b: Tensor) -> Tensor:
        """The value at every pixel, [B, H, W] on the CPU: the layers' maps, bilinearly enlarged and added."""
        self.model.spatial = True
        result: Tensor = self.model(a.to(self.device), b.to(self.device))[:, 0].cpu()
        return result


def _backbone(path: Path, names: list[str]) -> dict[str, Tensor]:
    """torchvision's weights under the package's names: `features.3.weight` is `slice2.3.weight` there."""
    with refusing(f"{path} is not a network of torchvision's that LPIPS can use"):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return {name: saved["features." + name.partition(".")[2]] for name in names}
