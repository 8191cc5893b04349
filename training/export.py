"""Put what was trained into a diffusers folder: averaged weights as fp16 safetensors, and the tokenizers.

python -m training.export                                 the UNet's run into the embedded model
python -m training.export --decoder training/work/decoder.pt --to /tmp/model
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from sparsedit.errors import InputError
from sparsedit.models.silence import silence
from training import checkpoint
from training.arguments import command
from training.log import say
from training.models import (
    Denoiser,
    load_autoencoder,
    load_denoiser,
    load_tokenizers,
    new_denoiser,
    new_scheduler,
)
from training.settings import DEMO, WORK

_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_TOKENIZERS = ("tokenizer", "tokenizer_2")


def export(base: Path, target: Path, unet: Path | None, decoder: Path | None) -> None:
    """Write the pipeline of `base`, with the averaged weights of the given checkpoints, to `target`.

    `target` is replaced as a whole once everything is written; it may be `base`. InputError when a checkpoint
    is missing or of another model.
    """
    vae, denoiser = load_autoencoder(base), _denoiser(base, unet)
    if decoder is not None:
        assign_average(dict(vae.named_parameters()), decoder)
    with replacing(target) as beside:
        _pipeline(base, denoiser, vae).to(torch.float16).save_pretrained(beside, safe_serialization=True)
        for name in _TEXT_ENCODERS:
            _load_as_float32(beside / name / "config.json")
        for name in _TOKENIZERS:
            # transformers saves a tokenizer without its vocabulary and merges as files of their own.
            shutil.rmtree(beside / name)
            shutil.copytree(base / name, beside / name)


def export_model(model: Any, path: Path, target: Path) -> None:
    """Write one model of diffusers, with the averaged weights of the checkpoint `path`, to the folder `target`.

    `target` is replaced as a whole. InputError when the checkpoint is missing or of another model.
    """
    assign_average(dict(model.named_parameters()), path)
    with replacing(target) as beside, silence():
        model.to(torch.float16).save_pretrained(beside, safe_serialization=True)


def _denoiser(base: Path, unet: Path | None) -> Denoiser:
    there = (base / "unet").is_dir()
    if not there and unet is None:
        raise InputError(f"{base} has no UNet: name the checkpoint of one with --unet.")
    denoiser = load_denoiser(base) if there else new_denoiser(*load_tokenizers(base))
    if unet is not None:
        assign_average(dict(denoiser.named_parameters()), unet)
    _clear_unread_layer(denoiser)
    return denoiser


@torch.no_grad()
def assign_average(parameters: dict[str, Any], path: Path) -> None:
    """Give named parameters the averaged values of the checkpoint `path`.

    InputError when it is missing, or has a parameter that is not among these or has another shape.
    """
    average = checkpoint.load(path)["average"]
    foreign = sorted(name for name in average if name not in parameters)
    if foreign:
        raise InputError(f"{path} is of another model: it has {foreign[0]}, which this one has not.")
    for name, value in average.items():
        if parameters[name].shape != value.shape:
            raise InputError(f"{path} is of another model: its {name} has the shape {tuple(value.shape)}.")
        parameters[name].copy_(value)


@torch.no_grad()
def _clear_unread_layer(denoiser: Denoiser) -> None:
    """Zeros where SDXL never reads: the layer passes its input on, and compresses well."""
    read = {id(parameter) for _, parameter in denoiser.named_parameters()}
    for name, parameter in denoiser.text_encoder.named_parameters():
        if id(parameter) not in read and "encoder.layers." in name:
            parameter.zero_()


def _pipeline(base: Path, denoiser: Denoiser, vae: Any) -> Any:
    first, second = load_tokenizers(base)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        text_encoder_2=denoiser.text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser.unet,
        scheduler=new_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _load_as_float32(path: Path) -> None:
    """Let a text encoder load in fp32 by default, as diffusers' models do, though its weights lie in fp16."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _forget_place(path: Path) -> None:
    """Remove the folder that a model was loaded from, which diffusers notes in its configuration."""
    config = json.loads(path.read_text())
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder to be written that takes `target`'s place once the context has ended well."""
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    yield beside
    for config in beside.rglob("*.json"):
        _forget_place(config)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline with everything else (default: the embedded)")
    parser.add_argument(
        "--unet", type=Path, help="checkpoint of UNet and text encoders (default: unet.pt in training/work)"
    )
    parser.add_argument("--decoder", type=Path, help="checkpoint of the decoder's finetune (default: none)")
    parser.add_argument("--to", type=Path, default=DEMO, help="folder to write (default: the embedded model's)")
    arguments = parser.parse_args()
    unet = arguments.unet
    if unet is None and arguments.decoder is None:
        unet = WORK / "unet.pt"
    export(arguments.base, arguments.to, unet, arguments.decoder)
    weights = sum(path.stat().st_size for path in arguments.to.rglob("*.safetensors"))
    say(f"{arguments.to}: {weights / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
