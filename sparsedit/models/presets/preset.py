"""What is known about a published model, or a part of one, before anything of it is loaded.

Plain frozen records: where the weights come from, under which licence, how large they are, and which settings
suit them. Loading them is `models.loading`'s; memory is estimated by `models.memory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsedit.errors import ModelError

PACKAGE = Path(__file__).parent.parent
"""`sparsedit/models`, which the folders of embedded models and configurations lie in."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights with a name: on the hub (`hub_id`, at the commit `revision`), or embedded in this package.

    `revision` is None where no commit could be confirmed: the repository's main branch is taken then. `variant` is
    the weight files' variant (`fp16`), `download_bytes` the size of what is fetched. `embedded` names the folder
    beside this package that holds the weights, `config` the one of `configs` with the architecture's JSON files.
    """

    name: str
    title: str
    licence: str
    hub_id: str | None = None
    revision: str | None = None
    variant: str | None = None
    download_bytes: int = 0
    embedded: str | None = None
    config: str | None = None

    @property
    def embedded_folder(self) -> Path | None:
        """The folder inside this package that holds the weights, if there is one."""
        return None if self.embedded is None else PACKAGE / self.embedded

    @property
    def config_folder(self) -> Path:
        """A folder with the configuration files at least: what random weights are made from."""
        return PACKAGE / (f"configs/{self.config}" if self.config else str(self.embedded))


@dataclass(frozen=True, kw_only=True)
class Part(Published):
    """A LoRA, a VAE or a ControlNet. `file` is the weight file where a repository holds several."""

    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preset(Published):
    """One named model.

    `pipeline` is the diffusers class, `native_size` the side in pixels the model was trained at, `defaults` the
    settings used where neither manifest nor flags say otherwise, `tasks` the tasks it can run (with a
    ControlNet task control too). `lora` is fused into
    the weights on loading, `scheduler` names a folder of this package with the scheduler that replaces the model's,
    `vaes` and `controlnets` are what `--vae` and `--controlnet` may name beside folders and hub ids. `overlay` is a
    folder of this package whose parts take the place of the embedded model's. `refines` names the preset whose
    pictures this one finishes.
    """

    description: str
    good_for: str
    family: str
    pipeline: str
    native_size: int
    defaults: Mapping[str, int | float | str] = field(hash=False)
    tasks: tuple[str, ...] = ("sdedit", "inpaint", "prompt", "rotate", "pan")
    lora: Part | None = None
    scheduler: str | None = None
    vaes: Mapping[str, Part] = field(default_factory=dict, hash=False)
    controlnets: Mapping[str, Part] = field(default_factory=dict, hash=False)
    overlay: str | None = None
    refines: str | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of this package that hold the model's files, the first one to have a file winning."""
        names = (self.config and f"configs/{self.config}", self.overlay, self.embedded)
        return tuple(PACKAGE / name for name in names if name)

    def check_installed(self) -> None:
        """Raise ModelError where a folder of this package that the preset is made of is not there."""
        lora = self.lora.embedded if self.lora else None
        for name in filter(None, (self.embedded, self.overlay, lora, self.scheduler)):
            if not (PACKAGE / name).is_dir():
                raise ModelError(f"model {self.name} is not part of this installation: {PACKAGE / name} does not exist")

    @property
    def scheduler_folder(self) -> Path | None:
        """The folder with the scheduler that replaces the model's own, if there is one."""
        return None if self.scheduler is None else PACKAGE / self.scheduler

    @property
    def fetch_command(self) -> str | None:
        """The command that downloads exactly the files that loading reads; None when all are embedded."""
        return None if self.hub_id is None else fetch_command(self.name)


def fetch_command(name: str) -> str:
    """The command that fetches a model by its preset's name or its hub id."""
    return f"sparsedit models pull {name}"
