"""The embedded models: small enough to be part of the package, trained on drawn landscapes."""

from __future__ import annotations

from dataclasses import replace

from sparsedit.models.presets.parts import DEMO_CANNY, DEMO_TINY, DEMO_TURBO
from sparsedit.models.presets.preset import Preset

DEMO = Preset(
    name="demo",
    title="Demo landscapes",
    description="SDXL's architecture with a 10 M parameter UNet, trained on drawn landscapes; embedded",
    good_for="trying everything without a download",
    family="sdxl",
    pipeline="StableDiffusionXLPipeline",
    licence="Apache-2.0",
    native_size=256,
    defaults={"steps": 20, "strength": 0.7, "guidance": 4.0, "policy": "close"},
    embedded="demo",
    vaes={"tiny": DEMO_TINY},
    controlnets={"canny": DEMO_CANNY},
)
DEMO_TURBO_MODEL = replace(
    DEMO,
    name="demo-turbo",
    title="Demo landscapes, few steps",
    description="the demo model with a LoRA that needs 4 steps and no guidance; embedded",
    good_for="trying few-step models without a download",
    defaults={"steps": 4, "strength": 0.75, "guidance": 0.0, "policy": "close"},
    lora=DEMO_TURBO,
    scheduler="demo-turbo/scheduler",
)
DEMO_REFINER = replace(
    DEMO,
    name="demo-refiner",
    title="Demo landscapes, refiner",
    description="a UNet for the demo model's low noise, in the refiner's layout with one text encoder; embedded",
    good_for="trying a second stage without a download",
    pipeline="StableDiffusionXLImg2ImgPipeline",
    defaults={"steps": 20, "strength": 0.2, "guidance": 4.0},
    config="demo-refiner",
    overlay="demo-refiner",
    tasks=("sdedit", "inpaint"),
    controlnets={},
    refines="demo",
)
