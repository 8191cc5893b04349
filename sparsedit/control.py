"""A ControlNet beside a UNet: the map it is shown of a picture, and its residuals in every call of the UNet.

The map is the picture's Canny edges, white on black. diffusers' own ControlNet pipelines are not used: those for
inpainting encode pictures themselves, and none can stop midway for a refiner (docs/decisions.md, 22).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from sparsedit.canny import canny
from sparsedit.errors import ModelError
from sparsedit.images import to_image, to_tensor


@dataclass(frozen=True)
class Control:
    """What a ControlNet is shown, maps [P, 3, H, W] in [0, 1], and how much its residuals count."""

    maps: Tensor
    scale: float


def control_map(picture: Tensor) -> Tensor:
    """A picture [1, 3, H, W] in [-1, 1] -> its edges [1, 3, H, W] in [0, 1]."""
    return to_tensor(canny(to_image(picture))) / 2 + 0.5


def moved(a: Tensor, b: Tensor) -> Tensor:
    """Where two maps differ: bool [H, W]."""
    return torch.ne(a, b).any(1)[0]


@contextmanager
def controlled(unet: nn.Module, net: nn.Module, control: Control, halves: int) -> Iterator[None]:
    """Let every call of `unet` have the residuals that the ControlNet `net` makes of the same latents.

    A call's batch holds the pictures of the maps `halves` times over, as classifier-free guidance lays them out.
    Raises ModelError for several ControlNets in one.
    """
    if not isinstance(net, ControlNetModel):
        raise ModelError(f"an edit takes one ControlNet, not a {type(net).__name__}")
    channels: int = cast(Any, net).config.in_channels
    maps = torch.cat([control.maps] * halves)

    def add_residuals(_unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        latents, timestep = args
        down, mid = net(
            latents[:, :channels],
            timestep,
            encoder_hidden_states=kwargs["encoder_hidden_states"],
            controlnet_cond=maps.to(latents),
            conditioning_scale=control.scale,
            added_cond_kwargs=kwargs.get("added_cond_kwargs"),
            return_dict=False,
        )
        return args, kwargs | {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    hook = unet.register_forward_pre_hook(add_residuals, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
