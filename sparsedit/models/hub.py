"""The Hugging Face hub: from a hub id to a folder on this machine, or one sentence about why not.

The hub's own cache is used, where `HF_HOME` says; with `HF_HUB_OFFLINE` set, nothing else is looked at. Only
safetensors weights are fetched, and no code that lies beside them is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sparsedit.errors import ModelError
from sparsedit.models.folder import UNUSED
from sparsedit.models.presets import fetch_command
from sparsedit.models.silence import silence

_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:/(?P<file>[\w./-]+\.safetensors))?(?:@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True)
class HubId:
    """A repository on the hub, at a revision where one is asked for, and one of its files where one is named."""

    hub_id: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return self.hub_id + file + (f"@{self.revision}" if self.revision else "")


def parse_hub_id(name: str) -> HubId | None:
    """`owner/name`, `owner/name@revision`, `owner/name/file.safetensors`; None for what cannot be a hub id."""
    match = _HUB_ID.fullmatch(name)
    return HubId(match["id"], match["revision"], match["file"]) if match else None


@dataclass(frozen=True)
class Fetching:
    """How files are fetched: under which name `models pull` gets them (the hub id if None), with bars or without, and
    anew even where they are here already."""

    ask_for: str | None = None
    progress: bool = False
    force: bool = False


QUIETLY = Fetching()


def download(source: HubId, variant: str | None = None, how: Fetching = QUIETLY) -> Path:
    """The folder with the pipeline `source`, from the local cache or fetched into it.

    `ModelError` says what is wrong, and when the hub cannot be reached, the command that fetches the model where it
    can.
    """

    def fetch() -> Path:
        options = {"use_safetensors": True, "trust_remote_code": False, "force_download": how.force}
        return Path(
            DiffusionPipeline.download(
                source.hub_id, revision=source.revision, variant=variant, **options, **dict.fromkeys(UNUSED)
            )
        )

    return _fetched(fetch, source, "is not a diffusers pipeline: it has no model_index.json", how)


def download_files(source: HubId, files: Sequence[str], how: Fetching = QUIETLY) -> Path:
    """The folder with those of the repository's files that match the patterns `files`; otherwise as `download`."""

    def fetch() -> Path:
        return Path(
            snapshot_download(
                source.hub_id, revision=source.revision, allow_patterns=list(files), force_download=how.force
            )
        )

    return _fetched(fetch, source, f"has no {' and '.join(files)}", how)


def _fetched(fetch: Callable[[], Path], source: HubId, lacks: str, how: Fetching) -> Path:
    try:
        with silence(bars=how.progress):
            return fetch()
    except (OSError, HTTPError, ValueError) as error:
        raise ModelError(_why_not(source, error, how.ask_for or str(source), lacks)) from error


def _why_not(source: HubId, error: Exception, ask_for: str, lacks: str) -> str:
    """One sentence about a download that failed, with what to do next."""
    hub_id = source.hub_id
    # diffusers raises a general error from the hub's own one, which tells the cases apart.
    match error.__cause__ or error:
        case GatedRepoError():
            page = f"https://huggingface.co/{hub_id}"
            return f"model {hub_id} is gated: accept its terms at {page}, then run hf auth login"
        case RepositoryNotFoundError():
            return f"the hub has no model {hub_id} (or it is private: run hf auth login)"
        case RevisionNotFoundError():
            return f"model {hub_id} has no revision {source.revision!r}"
        case RemoteEntryNotFoundError():
            return f"{hub_id} {lacks}"
        case HFValidationError():
            return f"{hub_id!r} is not a valid hub id"
        case OfflineModeIsEnabled() | LocalEntryNotFoundError() | HTTPError():
            return (
                f"model {source} is not on this machine and the hub cannot be reached; "
                f"where there is a network, run: {fetch_command(ask_for)}"
            )
        case other:
            return f"model {source} cannot be fetched: {other}"
