"""Every number of the demo model's training in one place; the command lines override a few of them.

Lengths are pixels of the picture, times are minutes of training, shares lie in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent
WORK = ROOT / "work"  # pictures, latents, checkpoints: may be deleted, never committed
LOG = ROOT / "log"  # one JSON object per line, committed
DOCS = ROOT.parent / "docs" / "demo-model"  # pictures of the model's card
DEMO = ROOT.parent / "sparsedit" / "models" / "demo"
DEMO_TINY = DEMO.with_name("demo-tiny")
DEMO_CANNY = DEMO.with_name("demo-canny")
DEMO_TURBO = DEMO.with_name("demo-turbo")
DEMO_REFINER = DEMO.with_name("demo-refiner")

# SDXL's latents have unit deviation after this factor; the autoencoder's own scale is adapted to it.
SCALING_FACTOR = 0.13025
CAPTION_TOKENS = 48


@dataclass(frozen=True)
class PictureSet:
    """Scenes with consecutive seeds from `first_seed`; `kept` picks among them, see `SceneShares`."""

    name: str
    count: int
    first_seed: int
    width: int = 256
    picked: bool = False


@dataclass(frozen=True)
class SceneShares:
    """The share of scenes to keep that lack an object, so that objects, the hard part, are seen more often."""

    without_house: float = 0.5
    without_boat: float = 0.6
    without_trees: float = 0.6


SHARES = SceneShares()

# Edits take their scenes from 2^31 up (`sparsedit.suites.scenes.edits`); held-out seeds start at 5 000 000.
SQUARE = PictureSet("square", 20_000, 100_000, picked=True)
WIDE = PictureSet("wide", 2_500, 2_000_000, width=512, picked=True)
HELD_OUT = PictureSet("held-out", 64, 6_000_000)
EDGED = replace(SQUARE, name="edged", count=8_000)  # the first of the square ones: their latents are there
PICTURES = PictureSet("pictures", 6_000, 300_000, picked=True)  # for the autoencoder
PROBE = PictureSet("probe", 10_000, 1_000_000, picked=True)
PROBE_HELD_OUT = PictureSet("probe-held-out", 512, 6_500_000)
PATHS = PictureSet("paths", 1_500, 3_000_000, picked=True)  # prompts alone: nothing of these is rendered
PATHS_HELD_OUT = PictureSet("paths-held-out", 32, 6_600_000)
FIRST_PROMPT_SEED = 7_000_000


@dataclass(frozen=True)
class Schedule:
    """How one training runs. Rates rise over `warm_up` steps, hold, and fall linearly to 0 at the end.

    The end is a time: `minutes` of training, counted over all resumed runs. `fall` is the share of it in which
    the rates fall. `average_decay` is per step; workers average their models every `meet_every` steps. A
    validation and a save happen at the first meeting after so many seconds.
    """

    minutes: float
    batch: int
    rate: float
    adam_rate: float
    warm_up: int = 80
    fall: float = 1.0
    average_decay: float = 0.998
    meet_every: int = 20
    validate_seconds: float = 300
    save_seconds: float = 120
    seed: int = 0


@dataclass(frozen=True)
class ObjectWeights:
    """How much more an object's latents weigh in the loss: 0 is as the rest of the picture."""

    house: float = 5
    boat: float = 9
    trees: float = 6
    pines: float = 10  # the hardest trees: narrow, and dark on dark ground
    body: float = 1.5


@dataclass(frozen=True)
class CaptionSettings:
    """Which wordings the model learns from."""

    full: float = 0.5  # nothing important is left out
    position: float = 0.85  # where the house stands is said for certain
    noise: float = 0.08  # a few meaningless words in between, as users type words it does not know


@dataclass(frozen=True)
class UnetSettings:
    """UNet and text encoders: v-prediction with zero terminal SNR, weight min(1, `snr_ceiling` / SNR)."""

    schedule: Schedule = Schedule(minutes=70, batch=32, rate=0.006, adam_rate=1e-3)
    weights: ObjectWeights = ObjectWeights()
    captions: CaptionSettings = CaptionSettings()
    unconditional: float = 0.1
    wide_steps: float = 0.12
    snr_ceiling: float = 5


@dataclass(frozen=True)
class DetailWeights:
    """How much more the pixels of small details weigh, times their fine contrast of 1 at most."""

    stars: float = 0
    windows: float = 0


@dataclass(frozen=True)
class VaeSettings:
    """Autoencoder on crops; the loss is L1 with gradients, coarser scales and a little KL.

    A share `nights` of the crops shows skies at night. An autoencoder that goes on from trained weights is held by
    `anchor` times the squared change of its latents.
    """

    schedule: Schedule = Schedule(
        minutes=15, batch=8, rate=0.02, adam_rate=2e-3, warm_up=50, fall=0.6, average_decay=0.995
    )
    crop: int = 128
    gradient: float = 0.5
    half_scale: float = 0.5
    quarter_scale: float = 0.5
    kl: float = 3e-4
    colour: float = 0.1  # a linear map from latents to colours keeps their layout plain
    details: DetailWeights = DetailWeights(stars=30, windows=3)
    nights: float = 0.3
    anchor: float = 0.2


@dataclass(frozen=True)
class DecoderSettings:
    """Decoder alone, from frozen latents, with a patch discriminator for what L1 blurs away: stars, frames.

    With each batch of pictures come as many `skies` of clear nights, the uppermost `sky` pixels of them. The
    discriminator pulls with `adversarial` times the strength of the other losses, once it has had `head_start` steps
    to learn.
    """

    schedule: Schedule = Schedule(minutes=14, batch=3, rate=0.003, adam_rate=5e-4, warm_up=30, average_decay=0.99)
    latent_noise: float = 0.04  # a denoiser's latents are not an encoder's
    gradient: float = 0.7
    half_scale: float = 0.4
    details: DetailWeights = DetailWeights(stars=12, windows=2)
    skies: int = 2
    sky: int = 96
    adversarial: float = 0.05
    discriminator_rate: float = 4e-4
    head_start: int = 100


LEARN_STARS = DecoderSettings(details=DetailWeights(stars=80, windows=2), skies=4, adversarial=0.3)
"""A first finetune, which finds the stars at the price of all else; the usual one brings that back and keeps them."""


@dataclass(frozen=True)
class ProbeSettings:
    """The classifier that reads attributes off pictures."""

    schedule: Schedule = Schedule(
        minutes=6, batch=64, rate=0.01, adam_rate=2e-3, warm_up=50, average_decay=0.99, validate_seconds=60
    )
    size: int = 128
    blur: float = 0.4
    noise: float = 0.05


@dataclass(frozen=True)
class SampleSettings:
    """How pictures are sampled for the probe."""

    prompts: int = 200
    steps: int = 20
    guidance: float = 4.0
    batch: int = 10


@dataclass(frozen=True)
class FewStepSettings:
    """How the few-step version's pictures are sampled; its guidance is its preset's."""

    prompts: int = 200
    steps: tuple[int, ...] = (1, 2, 4)
    batch: int = 10


@dataclass(frozen=True)
class SketchSettings:
    """How flat sketches are edited, at each of several strengths."""

    sketches: int = 200
    strengths: tuple[float, ...] = (0.2, 0.4, 0.6)
    steps: int = 20
    guidance: float = 2.0
    batch: int = 10


@dataclass(frozen=True)
class ReconstructionSettings:
    """How many pictures are encoded and decoded again."""

    pictures: int = 200


@dataclass(frozen=True)
class RefinementSettings:
    """How rendered scenes are noised and denoised again, by the base and by the refiner: within its noise levels."""

    pictures: int = 100
    strength: float = 0.2
    steps: int = 20
    guidance: float = 1.0
    batch: int = 10


@dataclass(frozen=True)
class PaceSettings:
    """How many pictures are timed, one by one."""

    pictures: int = 9
    warm_up: int = 2
    steps: int = 20
    guidance: float = 4.0


@dataclass(frozen=True)
class TinySettings:
    """Tiny autoencoder: `width` channels throughout, blocks per resolution from the picture to the latents and
    back. `taught` is the share of the decoder's loss that is taken against the autoencoder's own output."""

    schedule: Schedule = Schedule(
        minutes=10, batch=3, rate=0.02, adam_rate=2e-3, warm_up=50, fall=0.6, average_decay=0.995
    )
    teacher: str = ""  # its hash: a run goes on with its own
    width: int = 16
    encoder_blocks: tuple[int, ...] = (0, 2, 3, 4)
    decoder_blocks: tuple[int, ...] = (5, 4, 3, 1)
    taught: float = 0.5
    latent_noise: float = 0.04
    gradient: float = 0.5
    half_scale: float = 0.5


@dataclass(frozen=True)
class ControlNetSettings:
    """Canny ControlNet: the frozen UNet's error with edges given, and in a share of the samples no caption, so
    that the edges are what the layout is learnt from."""

    schedule: Schedule = Schedule(minutes=12, batch=16, rate=0.004, adam_rate=2e-3, warm_up=40, average_decay=0.99)
    base: str = ""  # its hash: a run goes on with its own
    weights: ObjectWeights = ObjectWeights()
    captions: CaptionSettings = CaptionSettings()
    unconditional: float = 0.5
    snr_ceiling: float = 5
    edge_channels: tuple[int, ...] = (8, 16, 32, 64)  # from the picture's resolution to the latents'


@dataclass(frozen=True)
class PathSettings:
    """How the few-step version's teacher samples; its number of steps can be divided by 4."""

    steps: int = 20
    guidance: float = 3.0


@dataclass(frozen=True)
class DistillationSettings:
    """Few-step version: a LoRA that says at any level of a teacher's path where that ends.

    Of every batch, the share `first` is at the first level, noise alone; `own` is where the LoRA itself has gone by
    one of `counts` steps from the teacher's path; the rest is spread over that. Errors beyond `huber` count as their
    size, smaller ones as their square.
    """

    schedule: Schedule = Schedule(
        minutes=12, batch=16, rate=0.004, adam_rate=5e-4, warm_up=40, average_decay=0.99, validate_seconds=240
    )
    teacher: str = ""  # its hash: a run goes on with its own
    paths: PathSettings = PathSettings()
    rank: int = 16
    first: float = 0.2
    own: float = 0.4
    counts: tuple[int, ...] = (2, 4)
    huber: float = 0.1


@dataclass(frozen=True)
class RefinerSettings(UnetSettings):
    """Refiner: the UNet's training on noise levels below `levels` alone, from the UNet's weights."""

    schedule: Schedule = Schedule(
        minutes=12, batch=16, rate=0.004, adam_rate=5e-4, warm_up=40, average_decay=0.99, validate_seconds=240
    )
    base: str = ""  # its hash: a run goes on with its own
    snr_ceiling: float = 20  # the base's 5 lets all below level 140 count less
    levels: int = 200
    score: float = 6.0  # what stock pipelines say of the picture they want
    no_score: float = 2.5  # and of the one they do not


@dataclass(frozen=True)
class AgreementSettings:
    """How pictures are sampled with edges; edges agree within `tolerance` pixels."""

    pictures: int = 8
    steps: int = 20
    guidance: float = 4.0
    scale: float = 1.0
    batch: int = 4
    tolerance: int = 2
