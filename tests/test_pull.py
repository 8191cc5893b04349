"""`models pull` on a hub of this machine's own: what is fetched, what is checked, and that HF's variables hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_api
from safetensors.torch import save_file

from sparsedit.errors import ModelError
from sparsedit.models.pull import damaged_files, pull
from tests.hub_server import COMMIT, Hub, serve
from tests.pipelines import tiny_sd15

NAME = "someone/tiny"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with more in it than is needed: weights in one file, a safety checker, code, pickles."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    pipe: Any = tiny_sd15()
    pipe.save_pretrained(folder)
    index = folder / "model_index.json"
    extra = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    index.write_text(json.dumps(json.loads(index.read_text()) | extra))
    (folder / "safety_checker").mkdir()
    for file in ("safety_checker/model.safetensors", "v1-5-pruned.safetensors"):
        save_file({"weight": pipe.unet.conv_in.weight.data}, folder / file)
    (folder / "pipeline.py").write_text("raise SystemExit('ran')")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a copy of that repository."""
    with serve({NAME: shutil.copytree(repository, tmp_path / "repository")}) as hub:
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and this process turned to the hub of this machine, as HF_ENDPOINT and HF_HOME would."""
    folder = tmp_path / "home" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    return folder


def test_what_is_needed_is_fetched_and_checked(hub: Hub, cache: Path) -> None:
    (pulled,) = pull(NAME)
    assert pulled.folder == cache / "models--someone--tiny" / "snapshots" / COMMIT
    assert pulled.files == pulled.hashed == 3
    assert pulled.nbytes == sum(path.stat().st_size for path in pulled.folder.rglob("*.safetensors"))
    assert not any(name.endswith(".bin") for name in hub.fetched())
    assert not {"v1-5-pruned.safetensors", "safety_checker/model.safetensors"} & hub.fetched()


def test_a_damaged_file_is_fetched_again_and_nothing_else(hub: Hub, cache: Path) -> None:
    folder = pull(NAME)[0].folder
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    assert damaged_files(folder) == [weights]
    hub.asked.clear()
    pull(NAME)
    assert hub.fetched() == {"unet/diffusion_pytorch_model.safetensors"}
    assert damaged_files(folder) == []


def test_a_file_that_is_damaged_on_the_hub_is_said_so(hub: Hub, cache: Path) -> None:
    weights = hub.repositories[NAME] / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is damaged, and was so again when fetched anew"):
        pull(NAME)


def test_one_file_of_a_repository(hub: Hub, cache: Path) -> None:
    (pulled,) = pull(f"{NAME}/v1-5-pruned.safetensors")
    assert (pulled.files, hub.fetched()) == (1, {"v1-5-pruned.safetensors"})


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_stderr(cache: Path, capfd: pytest.CaptureFixture[str], progress: bool) -> None:
    pull(NAME, progress=progress)
    out, err = capfd.readouterr()
    assert (out, "100%" in err) == ("", progress)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("someone/other", "the hub has no model someone/other"),
        (f"{NAME}@v2", f"model {NAME} has no revision 'v2'"),
        ("sdxll", r"did you mean 'sdxl'\?"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(cache: Path, name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        pull(name)
    assert "\n" not in str(caught.value)


def test_offline_nothing_is_asked(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="run: sparsedit models pull taesd-xl"):
        pull("taesd-xl")
    assert hub.asked == []


def test_embedded_models_need_no_fetching(hub: Hub, cache: Path) -> None:
    assert pull("demo") == hub.asked == []


def test_the_command_and_the_environment(hub: Hub, tmp_path: Path) -> None:
    """HF_HOME holds what HF_ENDPOINT gave, and with HF_HUB_OFFLINE it is loaded from there."""
    command = (
        "from sparsedit.cli import run; run(['models', 'pull', 'someone/tiny', '--quiet', '--json'])",
        "from sparsedit.models.loading import load_pipeline, model_revision; "
        "print(model_revision(load_pipeline('someone/tiny', device='cpu')))",
    )
    networks = ({"HF_ENDPOINT": hub.url}, {"HF_HUB_OFFLINE": "1"})
    lines = []
    for code, network in zip(command, networks, strict=True):
        environment = os.environ | network | {"HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        lines.append(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
    (pulled,) = json.loads(lines[0])["pulled"]
    assert pulled["folder"] == str(tmp_path / "home/hub/models--someone--tiny/snapshots" / COMMIT)
    assert (pulled["files"], pulled["hashed"]) == (3, 3)
    assert lines[1] == COMMIT
