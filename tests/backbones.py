"""Networks with random weights in the files and layouts of the pretrained ones: real loading, no download."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from sparsedit.metrics.backbones import BACKBONES, HubModel, TorchvisionFile
from sparsedit.models.silence import silence
from sparsedit.models.tokenizer import VOCABULARY

_TORCHVISION = {"lpips": "squeezenet1_1", "lpips-alex": "alexnet", "lpips-vgg": "vgg16"}


def save_backbone(name: str, folder: Path) -> Path:
    """Write the backbone into `folder` as its cache would hold it, seeded, and return where it is."""
    torch.manual_seed(0)
    match BACKBONES[name]:
        case TorchvisionFile(file_name=file):
            torch.save(getattr(torchvision.models, _TORCHVISION[name])(weights=None).state_dict(), folder / file)
            return folder / file
        case HubModel(hub_id=hub_id, texts=texts):
            place = folder / hub_id.partition("/")[2]
            (_save_clip if texts else _save_dino)(place)
            return place


def _save_clip(place: Path) -> None:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = tower | {"image_size": 224, "patch_size": 32}
    config = CLIPConfig(text_config=tower | {"vocab_size": 49408}, vision_config=vision, projection_dim=16)
    with silence():
        CLIPModel(config).save_pretrained(place)
        CLIPTokenizer.from_pretrained(str(VOCABULARY)).save_pretrained(place)
    CLIPImageProcessor().save_pretrained(place)


def _save_dino(place: Path) -> None:
    config = ViTConfig(hidden_size=8, num_hidden_layers=12, num_attention_heads=1, intermediate_size=8, patch_size=8)
    with silence():
        ViTModel(config, add_pooling_layer=False).save_pretrained(place)
