"""`models pull lpips` and its like: networks under metrics from servers of this machine's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_api

from sparsedit.cli import run
from sparsedit.errors import ModelError
from sparsedit.metrics.backbones import BACKBONES, FOLDER_VARIABLE, TorchvisionFile, find
from tests.backbones import save_backbone
from tests.hub_server import serve


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def served(tmp_path: Path, digest: str) -> TorchvisionFile:
    file = tmp_path / f"net-{digest}.pth"
    file.write_bytes(b"weights")
    return TorchvisionFile("lpips", "A network", file.as_uri())


def test_a_file_of_torchvision_is_checked_by_the_hash_in_its_name(tmp_path: Path) -> None:
    network = served(tmp_path, hashlib.sha256(b"weights").hexdigest()[:8])
    assert network.find(None) is None
    assert network.fetch() == network.find(None) == tmp_path / "torch" / "hub" / "checkpoints" / network.file_name


def test_a_file_that_is_another_or_not_there_is_refused_and_not_kept(tmp_path: Path) -> None:
    other = served(tmp_path, "00000000")
    with pytest.raises(ModelError, match="A network cannot be fetched"):
        other.fetch()
    assert other.find(None) is None
    with pytest.raises(ModelError, match="cannot be fetched"):
        TorchvisionFile("lpips", "A network", (tmp_path / "gone-00000000.pth").as_uri()).fetch()


@pytest.mark.parametrize("name", ["dino", "clip"])
def test_a_model_of_the_hub_is_fetched_whole_and_found_then(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_id = BACKBONES[name].hub_id
    with serve({hub_id: save_backbone(name, tmp_path)}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        assert find(name) is None
        assert run(["models", "pull", name, "--quiet"]) == 0
    place = find(name)
    assert place is not None
    assert str(place) in capsys.readouterr().out
    assert (place / "model.safetensors").is_file()
