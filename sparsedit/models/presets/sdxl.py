"""The SDXL family: base, refiner, the distilled ones, and inpainting."""

from __future__ import annotations

from dataclasses import replace

from sparsedit.models.presets.parts import (
    CANNY_SDXL,
    CANNY_SDXL_MID,
    CANNY_SDXL_SMALL,
    FP16_FIX,
    LCM_SDXL,
    LCM_SSD_1B,
    OPENRAIL_PP,
    TAESD_XL,
)
from sparsedit.models.presets.preset import Preset

VAES = {"tiny": TAESD_XL, "fp16-fix": FP16_FIX}
CONTROLNETS = {"canny-small": CANNY_SDXL_SMALL, "canny-mid": CANNY_SDXL_MID, "canny": CANNY_SDXL}

SDXL = Preset(
    name="sdxl",
    title="Stable Diffusion XL base 1.0",
    description="2.6 B parameter UNet, two text encoders, 1024 px",
    good_for="the best pictures of the family; large edits, details by the refiner",
    family="sdxl",
    pipeline="StableDiffusionXLPipeline",
    licence=OPENRAIL_PP,
    native_size=1024,
    defaults={"steps": 30, "strength": 0.7, "guidance": 5.0},
    hub_id="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    variant="fp16",
    download_bytes=6_937_675_734,
    config="sdxl",
    vaes=VAES,
    controlnets=CONTROLNETS,
)
SDXL_LCM = replace(
    SDXL,
    name="sdxl-lcm",
    title="SDXL with LCM-LoRA",
    description="SDXL in 4 to 8 steps by a latent-consistency LoRA, 1024 px",
    good_for="quick edits with SDXL and its finetunes",
    defaults={"steps": 4, "strength": 0.8, "guidance": 1.0},
    lora=LCM_SDXL,
    scheduler="configs/lcm",
)
SDXL_REFINER = Preset(
    name="sdxl-refiner",
    title="Stable Diffusion XL refiner 1.0",
    description="2.3 B parameter UNet of four levels for low noise, one text encoder, 1024 px",
    good_for="finishing SDXL's pictures: the last fifth of its steps, or small strengths",
    family="sdxl",
    pipeline="StableDiffusionXLImg2ImgPipeline",
    licence=OPENRAIL_PP,
    native_size=1024,
    tasks=("sdedit", "inpaint"),
    defaults={"steps": 30, "strength": 0.3, "guidance": 5.0},
    hub_id="stabilityai/stable-diffusion-xl-refiner-1.0",
    revision="5d4cfe854c9a9a87939ff3653551c2b3c99a4356",
    variant="fp16",
    download_bytes=6_075_680_726,
    config="sdxl-refiner",
    vaes=VAES,
    refines="sdxl",
)
SDXL_TURBO = Preset(
    name="sdxl-turbo",
    title="SDXL-Turbo",
    description="SDXL distilled to 1-4 steps without guidance, 512 px",
    good_for="edits while one watches; not for commercial use",
    family="sdxl",
    pipeline="StableDiffusionXLPipeline",
    licence="Stability AI non-commercial community licence (sai-nc-community)",
    native_size=512,
    defaults={"steps": 4, "strength": 0.5, "guidance": 0.0},
    hub_id="stabilityai/sdxl-turbo",
    revision="71153311d3dbb46851df1931d3ca6e939de83304",
    variant="fp16",
    download_bytes=6_937_675_734,
    config="sdxl-turbo",
    vaes=VAES,
    controlnets=CONTROLNETS,
)
SDXL_INPAINT = Preset(
    name="sdxl-inpaint",
    title="SDXL inpainting 0.1",
    description="SDXL with a UNet of 9 channels that is told the hole and the photo around it, 1024 px",
    good_for="holes whose filling must continue what surrounds them",
    family="sdxl",
    pipeline="StableDiffusionXLInpaintPipeline",
    licence=OPENRAIL_PP,
    native_size=1024,
    defaults={"steps": 20, "strength": 0.99, "guidance": 8.0},
    tasks=("inpaint",),
    hub_id="diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
    revision="115134f363124c53c7d878647567d04daf26e41e",
    variant="fp16",
    download_bytes=6_937_704_534,
    config="sdxl-inpaint",
    vaes=VAES,
)
SSD_1B = Preset(
    name="ssd-1b",
    title="Segmind SSD-1B",
    description="SDXL pruned and distilled to a UNet of 1.3 B parameters, 1024 px",
    good_for="SDXL's pictures with half the memory",
    family="sdxl",
    pipeline="StableDiffusionXLPipeline",
    licence="Apache-2.0",
    native_size=1024,
    defaults={"steps": 30, "strength": 0.7, "guidance": 9.0},
    hub_id="segmind/SSD-1B",
    revision="60987f37e94cd59c36b1cba832b9f97b57395a10",
    variant="fp16",
    download_bytes=4_465_417_174,
    config="ssd-1b",
    vaes=VAES,
    controlnets=CONTROLNETS,
)
SSD_1B_LCM = replace(
    SSD_1B,
    name="ssd-1b-lcm",
    title="SSD-1B with LCM-LoRA",
    description="SSD-1B in 4 to 8 steps by a latent-consistency LoRA, 1024 px",
    good_for="quick edits on small machines",
    defaults={"steps": 4, "strength": 0.8, "guidance": 1.0},
    lora=LCM_SSD_1B,
    scheduler="configs/lcm",
)
