"""The pretrained networks under learned metrics: which there are, where they lie, how to get them.

None comes with this package and none is fetched in passing: a metric without its weights says so before a run begins.
They are looked for in the folder `SPARSEDIT_BACKBONES` names (or the one given), then where torchvision and the hub
keep theirs. Files that torch saved are read as weights only, so no code in them is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from huggingface_hub import try_to_load_from_cache

from sparsedit.errors import ModelError
from sparsedit.measure.memory import ran_out
from sparsedit.metrics.protocol import NETWORKS, Protocol

FOLDER_VARIABLE = "SPARSEDIT_BACKBONES"

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@contextmanager
def refusing(said: str) -> Iterator[None]:
    """A network is read in the block; what stops that is a ModelError that begins with `said`, want of memory aside."""
    try:
        yield
    except Exception as error:  # torch and transformers raise whatever a foreign file made them stumble over
        if ran_out(error):
            raise
        raise ModelError(f"{said} ({error})") from error


@dataclass(frozen=True)
class TorchvisionFile:
    """A network of torchvision: one file, in torch's cache under the last part of its address."""

    name: str
    title: str
    url: str

    @property
    def file_name(self) -> str:
        return Path(urlsplit(self.url).path).name

    def find(self, folder: Path | None) -> Path | None:
        """The file with its weights; None when it is not on this machine."""
        places = [folder] if folder else []
        for place in (*places, self.cache):
            if (place / self.file_name).is_file():
                return place / self.file_name
        return None

    def fetch(self, *, progress: bool = False) -> Path:
        """Download the file into torch's cache and check it by the hash in its name."""
        target = self.cache / self.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = target.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(self.url, str(target), prefix, progress)
        except (URLError, OSError, RuntimeError) as error:
            raise ModelError(f"{self.title} cannot be fetched from {self.url} ({error})") from error
        return target

    @property
    def cache(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints"


@dataclass(frozen=True)
class HubModel:
    """A model of transformers on the hub; `texts` whether it has a tokenizer."""

    name: str
    title: str
    hub_id: str
    texts: bool

    def find(self, folder: Path | None) -> Path | None:
        """The folder with its files; None when they are not on this machine, or not all of them."""
        place = folder / self.hub_id.partition("/")[2] if folder else None
        if place and self._complete(lambda name: (place / name).is_file()):
            return place
        if self._complete(lambda name: isinstance(try_to_load_from_cache(self.hub_id, name), str)):
            return Path(str(try_to_load_from_cache(self.hub_id, "config.json"))).parent
        return None

    def fetch(self, *, progress: bool = False) -> Path:
        """Download its files into the hub's cache, safetensors where there are any."""
        from sparsedit.models.hub import Fetching, HubId, download_files

        how, hub_id = Fetching(self.name, progress), HubId(self.hub_id)
        folder = download_files(hub_id, ["*.json", "merges.txt", _WEIGHTS[0]], how)
        if not (folder / _WEIGHTS[0]).is_file():
            download_files(hub_id, [_WEIGHTS[1]], how)
        return folder

    def _complete(self, has: Callable[[str], bool]) -> bool:
        wanted = has("config.json") and any(map(has, _WEIGHTS))
        if not self.texts:
            return wanted
        return wanted and has("preprocessor_config.json") and any(all(map(has, files)) for files in _TOKENIZERS)


Backbone = TorchvisionFile | HubModel

_TORCHVISION = "https://download.pytorch.org/models/"
_ALL: tuple[Backbone, ...] = (
    TorchvisionFile("lpips", "SqueezeNet under LPIPS", _TORCHVISION + "squeezenet1_1-b8a52dc0.pth"),
    TorchvisionFile("lpips-alex", "AlexNet under LPIPS", _TORCHVISION + "alexnet-owt-7be5be79.pth"),
    TorchvisionFile("lpips-vgg", "VGG-16 under LPIPS", _TORCHVISION + "vgg16-397923af.pth"),
    HubModel("clip", NETWORKS["clip"], "openai/clip-vit-large-patch14", texts=True),
    HubModel("clip-b16", NETWORKS["clip-b16"], "openai/clip-vit-base-patch16", texts=True),
    HubModel("dino", NETWORKS["dino"], "facebook/dino-vitb8", texts=False),
)
BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in _ALL}


def lpips_backbone(net: str) -> str:
    """The name of the backbone under LPIPS on `net`."""
    return "lpips" if net == "squeeze" else f"lpips-{net}"


def backbones_of(protocol: Protocol) -> dict[str, str]:
    """The backbone under each learned metric that the protocol scores."""
    names = {"lpips": lpips_backbone(protocol.lpips), "clip": protocol.clip, "structure": protocol.structure}
    return {metric: name for metric, name in names.items() if name}


def find(name: str, folder: Path | None = None) -> Path | None:
    """Where the weights of that backbone lie; None when they are not on this machine.

    `folder` is looked in first, or the one that `SPARSEDIT_BACKBONES` names.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    return BACKBONES[name].find(folder or (Path(named).expanduser() if named else None))


def why_missing(name: str) -> str:
    """One sentence about a backbone that is not here, with what to do."""
    title = BACKBONES[name].title
    return (
        f"the weights of {title} are not on this machine; sparsedit models pull {name}, "
        f"or name a folder that holds them in {FOLDER_VARIABLE}"
    )
