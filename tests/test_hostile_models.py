"""Weights from strangers: a file is safetensors to the letter or is refused, and nothing in it is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedit.cache.tensors import open_tensors
from sparsedit.errors import DamagedError, ModelError
from sparsedit.models.folder import read_json
from sparsedit.models.loading import load_pipeline
from tests.pipelines import tiny_sd15


class Canary:
    """What a pickle of it does when it is read: leave a folder behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.place),)


def framed(header: Any, data: bytes = bytes(16)) -> bytes:
    """A file of safetensors' form: the header's length, the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WHOLE = {"a": tensor(0, 8, [2]), "b": tensor(8, 16, [2])}
HOSTILE = {
    "empty": b"",
    "no header": struct.pack("<Q", 0),
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header that is no JSON": framed(b"{a: 1}"),
    "header that is deep": framed(b'{"a":' * 100_000),
    "header in another encoding": framed(b'{"\xff": 1}'),
    "overlapping": framed(WHOLE | {"b": tensor(4, 12, [2])}),
    "the same bytes twice": framed({"a": tensor(0, 8, [2]), "b": tensor(0, 8, [2])}, bytes(8)),
    "a gap": framed({"a": tensor(0, 4, [1]), "b": tensor(8, 16, [2])}),
    "beyond the end": framed(WHOLE, bytes(12)),
    "bytes left over": framed(WHOLE, bytes(64)),
    "backwards": framed({"a": tensor(8, 0, [2])}),
    "a shape that is not its bytes": framed({"a": tensor(0, 16, [2])}),
    "a shape that overflows": framed({"a": tensor(0, 16, [2**62, 2**62])}),
    "a negative shape": framed({"a": tensor(0, 16, [-4])}),
    "an unknown dtype": framed({"a": tensor(0, 16, [4], "F33")}),
    "cut short": framed(WHOLE)[:-3],
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not a valid safetensors file"):
        load_pipeline(str(path), device="cpu")
    with pytest.raises(DamagedError, match="missing or damaged"):
        open_tensors(path)


def test_the_form_that_the_others_are_damaged_from_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(framed(WHOLE))
    with pytest.raises(ModelError, match="is not a whole model"):
        load_pipeline(str(path), device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe: Any = tiny_sd15()
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


PLACES = {
    "a single file": "model.safetensors",
    "a UNet": "model/unet/diffusion_pytorch_model.safetensors",
    "a VAE": "model/vae/diffusion_pytorch_model.safetensors",
    "a text encoder": "model/text_encoder/model.safetensors",
    "a LoRA": "lora.safetensors",
    "a VAE of its own": "vae.safetensors",
}


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_pickle_under_the_name_of_safetensors_is_not_run(place: str, form: str, folder: Path, tmp_path: Path) -> None:
    file, canary = tmp_path / place, tmp_path / "canary"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"state_dict": Canary(canary)}, file)
    model = str(file if file.name == "model.safetensors" and file.parent == tmp_path else folder)
    parts = {"lora.safetensors": {"lora": str(file)}, "vae.safetensors": {"vae": str(file)}}.get(place, {})
    with pytest.raises(ModelError) as caught:
        load_pipeline(model, device="cpu", **parts)
    assert len(str(caught.value).splitlines()) == 1
    assert not canary.exists()


def test_the_canary_sings_where_a_pickle_is_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe", b"[1]"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_a_pipe_in_place_of_a_configuration_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match="is a pipe"):
        read_json(tmp_path / "config.json")
