"""LoRAs, VAEs and ControlNets that presets know by name.

A download is 2 bytes a parameter where the float16 variant is fetched, 4 where there is none; the parameter counts
behind it are checked in `tests/test_random.py`.
"""

from __future__ import annotations

from sparsedit.models.presets.preset import Part

OPENRAIL_PP = "CreativeML Open RAIL++-M"

LCM_SDXL = Part(
    name="lcm-lora-sdxl",
    title="LCM-LoRA for SDXL",
    licence=OPENRAIL_PP,
    hub_id="latent-consistency/lcm-lora-sdxl",
    download_bytes=394_000_000,
    file="pytorch_lora_weights.safetensors",
)
LCM_SSD_1B = Part(
    name="lcm-lora-ssd-1b",
    title="LCM-LoRA for SSD-1B",
    licence=OPENRAIL_PP,
    hub_id="latent-consistency/lcm-lora-ssd-1b",
    download_bytes=210_000_000,
    file="pytorch_lora_weights.safetensors",
)
DEMO_TURBO = Part(
    name="demo-turbo",
    title="Few-step LoRA for the demo model",
    licence="Apache-2.0",
    embedded="demo-turbo",
    file="pytorch_lora_weights.safetensors",
)

TAESD = Part(
    name="taesd",
    title="TAESD, a tiny autoencoder for SD 1.x and 2.x latents",
    licence="MIT",
    hub_id="madebyollin/taesd",
    revision="614f76814bbe30edbe2e627ace1c2234c81a2c0e",
    download_bytes=9_780_252,
    config="parts/taesd",
)
TAESD_XL = Part(
    name="taesd-xl",
    title="TAESD-XL, a tiny autoencoder for SDXL latents",
    licence="MIT",
    hub_id="madebyollin/taesdxl",
    download_bytes=9_780_252,
    config="parts/taesd-xl",
)
FP16_FIX = Part(
    name="sdxl-vae-fp16-fix",
    title="SDXL's VAE, finetuned to stay within float16",
    licence="MIT",
    hub_id="madebyollin/sdxl-vae-fp16-fix",
    revision="207b116dae70ace3637169f1ddd2434b91b3a8cd",
    download_bytes=334_615_452,
    config="parts/sdxl-vae-fp16-fix",
)
DEMO_TINY = Part(
    name="demo-tiny", title="A tiny autoencoder for the demo model", licence="Apache-2.0", embedded="demo-tiny"
)

CANNY_SDXL = Part(
    name="canny-sdxl",
    title="Canny ControlNet for SDXL",
    licence=OPENRAIL_PP,
    hub_id="diffusers/controlnet-canny-sdxl-1.0",
    revision="eb115a19a10d14909256db740ed109532ab1483c",
    variant="fp16",
    download_bytes=2_502_028_320,
    config="parts/canny-sdxl",
)
CANNY_SDXL_MID = Part(
    name="canny-sdxl-mid",
    title="Canny ControlNet for SDXL, 5x smaller",
    licence=OPENRAIL_PP,
    hub_id="diffusers/controlnet-canny-sdxl-1.0-mid",
    variant="fp16",
    download_bytes=545_172_000,
    config="parts/canny-sdxl-mid",
)
CANNY_SDXL_SMALL = Part(
    name="canny-sdxl-small",
    title="Canny ControlNet for SDXL, 7x smaller, without attention",
    licence=OPENRAIL_PP,
    hub_id="diffusers/controlnet-canny-sdxl-1.0-small",
    revision="edd85f64c5f87dfb6d73762949d9daca16389518",
    variant="fp16",
    download_bytes=320_222_240,
    config="parts/canny-sdxl-small",
)
SDXS_SKETCH = Part(
    name="sdxs-sketch",
    title="Sketch ControlNet for SDXS-512 (an inverted sketch, scale 0.8)",
    licence=OPENRAIL_PP,
    hub_id="IDKiro/sdxs-512-dreamshaper-sketch",
    config="parts/sdxs-sketch",
)
DEMO_CANNY = Part(
    name="demo-canny", title="Canny ControlNet for the demo model", licence="Apache-2.0", embedded="demo-canny"
)
