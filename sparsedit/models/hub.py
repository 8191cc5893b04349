"""The Hugging Face hub: from a hub id to a folder on this machine, or one sentence about why not."""

from __future__ import annotations

from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
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
from sparsedit.models.presets import fetch_command
from sparsedit.models.silence import silence


def download(hub_id: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder with the pipeline `hub_id`, from the local cache or fetched into it.

    Only safetensors weights are fetched, and no code. `ModelError` says what is wrong, and when the hub
    cannot be reached, the command that fetches the model where it can.
    """
    try:
        with silence():
            folder = DiffusionPipeline.download(
                hub_id, revision=revision, variant=variant, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, HTTPError, ValueError) as error:
        raise ModelError(_why_not(hub_id, revision, variant, error)) from error
    return Path(folder)


def _why_not(hub_id: str, revision: str | None, variant: str | None, error: Exception) -> str:
    """One sentence about a download that failed, with what to do next."""
    # diffusers raises a general error from the hub's own one, which tells the cases apart.
    match error.__cause__ or error:
        case GatedRepoError():
            page = f"https://huggingface.co/{hub_id}"
            return f"model {hub_id} is gated: accept its terms at {page}, then run hf auth login"
        case RepositoryNotFoundError():
            return f"the hub has no model {hub_id} (or it is private: run hf auth login)"
        case RevisionNotFoundError():
            return f"model {hub_id} has no revision {revision!r}"
        case RemoteEntryNotFoundError():
            return f"{hub_id} is not a diffusers pipeline: it has no model_index.json"
        case HFValidationError():
            return f"{hub_id!r} is not a valid hub id"
        case OfflineModeIsEnabled() | LocalEntryNotFoundError() | HTTPError():
            return (
                f"model {hub_id} is not on this machine and the hub cannot be reached; "
                f"where there is a network, run: {fetch_command(hub_id, revision, variant)}"
            )
        case other:
            return f"model {hub_id} cannot be fetched: {other}"
