"""Scores of two pictures against other implementations and against the reference's formulas written out."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.transforms import Normalize, Resize
from transformers import CLIPModel, ViTModel

from sparsedit.errors import InputError, ModelError, SettingsError
from sparsedit.metrics.backbones import BACKBONES, FOLDER_VARIABLE, find, why_missing
from sparsedit.metrics.clip import Clip
from sparsedit.metrics.fidelity import fidelity
from sparsedit.metrics.perceptual import Lpips
from sparsedit.metrics.pixels import border_jump, mse, psnr, unit
from sparsedit.metrics.protocol import PNP_V1, PROTOCOLS, SPARSE_VS_DENSE, WHOLE_V1, explain, get_protocol
from sparsedit.metrics.scorer import Pair, Scorer
from sparsedit.metrics.ssim import ssim, ssim_map
from sparsedit.metrics.structure import Structure
from tests.backbones import save_backbone

PIXEL_METRICS = ("ssim", "psnr", "mse")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every network but VGG, which is large."""
    folder = tmp_path_factory.mktemp("backbones")
    for name in BACKBONES:
        if name != "lpips-vgg":
            save_backbone(name, folder)
    return folder


@pytest.fixture(autouse=True)
def no_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in this machine's caches is no matter of these tests."""
    from huggingface_hub import constants

    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def noise(seed: int) -> Image.Image:
    """A picture that a resize with antialiasing and one without make different ones of."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (512, 512, 3), dtype=np.uint8))


def mask_of(size: tuple[int, int] = (64, 48)) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[10:30, 20:50] = True
    return mask


def batch(*pictures: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(unit(one)).permute(2, 0, 1).float() for one in pictures])


A, B, C = picture(0), picture(1), picture(2)


# Pixels


def their_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """torchmetrics' map without its borders, whose mean torchmetrics returned until 1.5, as scikit-image does."""
    _, whole = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    return whole[..., 5:-5, 5:-5].mean().item()


def test_ssim_and_psnr_are_those_of_torchmetrics() -> None:
    a, b = batch(A), batch(B)
    assert ssim(unit(A), unit(B)) == pytest.approx(their_ssim(a, b), abs=1e-5)
    assert psnr(unit(A), unit(B)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0).item(), abs=1e-4)


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (47, 64), (256, 256)])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1, 1.0])
def test_ssim_is_that_of_scikit_image_at_every_pixel(size: tuple[int, int], noise: float) -> None:
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0, 0.6, size[0]), np.linspace(0, 0.4, size[1]))[..., None] * np.ones(3)
    a = smooth if noise < 1 else random.random((*size, 3))
    b = np.clip(a + random.normal(0, noise, a.shape), 0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = structural_similarity(a, b, data_range=1.0, channel_axis=2, full=True, **options)
    single = structural_similarity(*(c.astype(np.float32) for c in (a, b)), data_range=1.0, channel_axis=2, **options)
    assert ssim(a, b) == pytest.approx(theirs[0], abs=2e-5)
    assert ssim(a, b) == pytest.approx(single, abs=2e-6)
    np.testing.assert_allclose(ssim_map(a, b), theirs[1].mean(2), atol=5e-4)


@pytest.mark.parametrize("corner", [(0, 0), (20, 30), (47, 63)])
def test_scores_of_a_region_do_not_need_the_whole_picture(corner: tuple[int, int]) -> None:
    region = np.zeros((48, 64), dtype=bool)
    region[corner[0] : corner[0] + 9, corner[1] : corner[1] + 7] = True
    with_whole = fidelity(A, B, {"inside": region, "nothing": np.zeros_like(region)})
    assert with_whole.pop("whole")["ssim"] is not None
    assert fidelity(A, B, {"inside": region, "nothing": np.zeros_like(region)}, whole=False) == with_whole
    empty = fidelity(A, B, {"nothing": np.zeros_like(region)}, whole=False)
    assert empty["nothing"]["ssim"] is empty["nothing"]["psnr"] is None


def test_mse_and_psnr_of_a_known_difference() -> None:
    black, grey = np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)
    assert mse(black, grey) == pytest.approx(0.01)
    assert psnr(black, grey) == pytest.approx(20.0)


def test_what_does_not_exist_is_none() -> None:
    nothing = np.zeros((0, 3))
    assert psnr(unit(A), unit(A)) is psnr(nothing, nothing) is mse(nothing, nothing) is None
    assert ssim(unit(A)[:10], unit(B)[:10]) is None
    assert border_jump(unit(A), np.ones((48, 64), dtype=bool)) is None


def test_the_seam_score_is_the_height_of_a_step_and_nothing_for_a_slope() -> None:
    slope = np.repeat(np.linspace(0, 1, 64)[None, :, None], 48, 0).repeat(3, 2)
    mask = np.zeros((48, 64), dtype=bool)
    mask[:, 32:] = True
    stepped = slope * 0.5 + 0.25 * mask[..., None]
    assert border_jump(slope, mask) == pytest.approx(0, abs=1e-12)
    assert border_jump(stepped, mask) == pytest.approx(0.25)
    assert border_jump(stepped.transpose(1, 0, 2), mask.T) == pytest.approx(0.25)


# Networks, with the same random weights on both sides


def test_lpips_is_that_of_torchmetrics(tmp_path: Path) -> None:
    """Both read the same file, torchmetrics from torch's cache as it would the pretrained one."""
    cache = tmp_path / "torch" / "checkpoints"
    cache.mkdir(parents=True)
    mine = Lpips("squeeze", save_backbone("lpips", cache))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LearnedPerceptualImagePatchSimilarity(net_type="squeeze")
    a, b = batch(A, B) * 2 - 1, batch(B, C) * 2 - 1
    for place, value in enumerate(mine(a, b)):
        assert value == pytest.approx(theirs(a[place : place + 1], b[place : place + 1]).item(), rel=1e-4)
        assert value > 0
    assert mine(a, a) == [0.0, 0.0]


def test_clip_score_is_a_hundred_times_the_cosine(backbones: Path) -> None:
    """By the towers and projections themselves; torchmetrics' CLIPScore does not run with this transformers."""
    clip = Clip(backbones / "clip-vit-large-patch14")
    model, processor = clip.model, clip.processor
    for one, text in ((A, "a red house"), (B, "a meadow")):
        pixels, words = processor(images=one, return_tensors="pt"), processor(text=text, return_tensors="pt")
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(**pixels).pooler_output)
            read = model.text_projection(model.text_model(**words).pooler_output)
        expected = max(100 * F.cosine_similarity(seen, read).item(), 0)
        assert clip([one], [text]) == pytest.approx([expected], abs=1e-3)
    assert clip([A], ["house " * 200]) == clip([A], ["house " * 100])


@pytest.mark.parametrize("antialias", [False, True])
def test_structure_distance_is_the_references_formula(antialias: bool, backbones: Path) -> None:
    """Keys of layer 11 by a hand-written pass over the transformer's own layers, as the evaluator splits its qkv."""
    structure = Structure(backbones / "dino-vitb8")
    a, b = batch(noise(3)) * 255, batch(noise(4)) * 255
    transform = torch.nn.Sequential(Resize(224, max_size=480, antialias=antialias), Normalize(*_IMAGENET))

    def similarity(pixels: torch.Tensor) -> torch.Tensor:
        model = structure.model
        with torch.no_grad():
            tokens = model.embeddings(transform(pixels))
            for layer in model.layers[:11]:
                tokens = layer(tokens)
            last = model.layers[11]
            keys = last.attention.k_proj(last.layernorm_before(tokens))[0]
        return F.cosine_similarity(keys[:, None], keys[None], dim=-1)

    expected = F.mse_loss(similarity(a), similarity(b)).item()
    assert structure(a, b, antialias=antialias) == pytest.approx([expected], rel=1e-3)
    assert structure(a, b, antialias=not antialias) != pytest.approx([expected], rel=1e-2)
    assert similarity(a).shape == (28 * 28 + 1,) * 2
    assert structure(a, a, antialias=antialias) == [0.0]


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_other_networks_and_other_shapes_of_pictures(backbones: Path) -> None:
    alex = Lpips("alex", backbones / "alexnet-owt-7be5be79.pth")
    squeeze = Lpips("squeeze", backbones / "squeezenet1_1-b8a52dc0.pth")
    a, b = batch(A) * 2 - 1, batch(B) * 2 - 1
    assert alex(a, b) != squeeze(a, b)
    assert squeeze.map(a, b).shape == (1, 48, 64)
    assert 0 < Structure(backbones / "dino-vitb8")(batch(A), batch(B), antialias=False)[0] < 4


def test_reading_a_network_draws_no_random_numbers(backbones: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Lpips("squeeze", backbones / "squeezenet1_1-b8a52dc0.pth")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "kind"), [("lpips", Lpips), ("clip", Clip), ("dino", Structure)])
def test_a_damaged_network_is_refused_by_name(name: str, kind: Any, tmp_path: Path) -> None:
    place = save_backbone(name, tmp_path)
    for file in [place] if place.is_file() else [place / "model.safetensors"]:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=place.name):
        kind("squeeze", place) if kind is Lpips else kind(place)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize(("name", "kind"), [("clip", Clip), ("dino", Structure), ("lpips", partial(Lpips, "squeeze"))])
def test_want_of_memory_is_no_fault_of_a_network(
    name: str, kind: Any, error: Exception, backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    for owner, reader in ((CLIPModel, "from_pretrained"), (ViTModel, "from_pretrained"), (torch, "load")):
        monkeypatch.setattr(owner, reader, full)
    place = find(name, backbones)
    assert place is not None
    with pytest.raises(type(error)):
        kind(place)


# Where networks are found


def test_networks_are_found_in_a_named_folder_and_in_the_caches(
    backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("lpips") is find("clip") is find("dino") is None
    assert find("lpips", backbones) == backbones / "squeezenet1_1-b8a52dc0.pth"
    monkeypatch.setenv(FOLDER_VARIABLE, str(backbones))
    assert find("clip-b16") == backbones / "clip-vit-base-patch16"
    monkeypatch.delenv(FOLDER_VARIABLE)
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    in_cache = save_backbone("lpips", tmp_path / "torch" / "checkpoints")
    assert find("lpips") == in_cache
    snapshot = tmp_path / "hub" / "models--facebook--dino-vitb8" / "snapshots" / ("c" * 40)
    save_backbone("dino", tmp_path)
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "dino-vitb8").rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c" * 40)
    assert find("dino") == snapshot
    (snapshot / "model.safetensors").unlink()
    assert find("dino") is None


# Protocols


def test_whole_v1_resizes_both_to_512_by_lanczos(backbones: Path) -> None:
    scores = Scorer(WHOLE_V1, backbones=backbones).score(Pair(A, picture(1, (80, 30)), prompt="a house"))
    a, b = (unit(one.resize((512, 512), Image.Resampling.LANCZOS)) for one in (A, picture(1, (80, 30))))
    assert scores.protocol == "whole-v1"
    assert list(scores.values) == ["ssim", "psnr", "mse", "lpips", "clip", "structure"]
    assert (scores.values["psnr"], scores.values["ssim"]) == (psnr(a, b), ssim(a, b))
    assert scores.missing == {}
    assert all(value is not None and math.isfinite(value) for value in scores.values.values())


def test_each_protocol_makes_pictures_smaller_as_its_reference_does(backbones: Path) -> None:
    """Fast-Image-Editing's evaluation smooths them and divides by 255, PnP Inversion's neither."""
    a, b, structure = noise(3), noise(4), Structure(backbones / "dino-vitb8")
    for protocol, scale, antialias in ((WHOLE_V1, 1, True), (PNP_V1, 255, False)):
        pair = Pair(a, b, np.eye(512, dtype=bool))
        value = Scorer(protocol, ["structure"], backbones=backbones).score(pair).values["structure"]
        assert [value] == pytest.approx(structure(batch(a) * scale, batch(b) * scale, antialias=antialias), rel=1e-3)
        for others in ((256 - scale, antialias), (scale, not antialias)):
            other = structure(batch(a) * others[0], batch(b) * others[0], antialias=others[1])
            assert [value] != pytest.approx(other, rel=1e-2)


def test_pnp_v1_is_the_reference_evaluators_formulas(backbones: Path) -> None:
    """Masked PSNR, SSIM, MSE and LPIPS written out as the evaluator does them, in float32, with torchmetrics."""
    mask = mask_of()
    scores = Scorer(PNP_V1, backbones=backbones).score(Pair(A, B, mask, "a [red] house")).values
    bordered = mask.copy()
    bordered[0] = bordered[-1] = bordered[:, 0] = bordered[:, -1] = True
    keep = torch.from_numpy(1 - bordered.astype(np.float32))
    a, b = batch(A) * keep, batch(B) * keep
    assert scores["mse"] == pytest.approx(((a - b) ** 2).mean().item(), rel=1e-4)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1.0).item(), abs=1e-3)
    assert scores["ssim"] == pytest.approx(their_ssim(b, a), abs=1e-5)
    lpips = Lpips("squeeze", backbones / "squeezenet1_1-b8a52dc0.pth")
    assert [scores["lpips"]] == pytest.approx(lpips(a * 2 - 1, b * 2 - 1), rel=1e-4)
    clip = Clip(backbones / "clip-vit-large-patch14")
    part = Image.fromarray(np.uint8(np.asarray(B) * bordered[..., None]))
    assert [scores["clip"], scores["clip_edited"]] == pytest.approx(clip([B, part], ["a red house"] * 2), abs=1e-3)
    structure = Structure(backbones / "dino-vitb8")
    assert [scores["structure"]] == pytest.approx(structure(batch(A) * 255, batch(B) * 255, antialias=False), rel=1e-3)


def test_values_do_not_depend_on_the_batch(backbones: Path) -> None:
    scorer = Scorer(PNP_V1, ["psnr", "lpips", "clip"], backbones=backbones)
    small = (picture(5, (40, 40)), picture(6, (40, 40)))
    pairs = [Pair(A, B, mask_of(), "a house"), Pair(B, C, mask_of(), "x"), Pair(*small)]
    together = list(scorer.score_all(pairs))
    for pair, scores in zip(pairs, together, strict=True):
        alone = scorer.score(pair)
        assert alone.missing == scores.missing
        for name, value in alone.values.items():
            assert scores.values[name] == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-5))


def test_a_mask_that_covers_everything_leaves_no_background() -> None:
    scores = Scorer(PNP_V1, PIXEL_METRICS).score(Pair(A, B, np.ones((48, 64), dtype=bool)))
    assert set(scores.values.values()) == {None}
    assert not scores.identical
    assert all("covers everything" in scores.missing[name] for name in PIXEL_METRICS)


def test_identical_pictures_have_no_psnr_and_say_so() -> None:
    scores = Scorer(WHOLE_V1, PIXEL_METRICS).score(Pair(A, A))
    assert scores.values == {"ssim": 1.0, "psnr": None, "mse": 0.0}
    assert scores.identical
    assert scores.entry() == {"protocol": "whole-v1", "ssim": 1.0, "psnr": None, "mse": 0.0, "identical": True}


def test_only_the_background_decides_whether_pnp_v1_finds_them_identical() -> None:
    mask = mask_of()
    changed = np.asarray(A).copy()
    changed[mask] = 0
    scores = Scorer(PNP_V1, PIXEL_METRICS).score(Pair(A, Image.fromarray(changed), mask))
    assert (scores.identical, scores.values["psnr"], scores.values["mse"]) == (True, None, 0.0)


def test_missing_networks_are_known_before_anything_is_scored() -> None:
    scorer = Scorer(PNP_V1)
    assert set(scorer.missing) == {"lpips", "clip", "clip_edited", "structure"}
    assert scorer.missing["lpips"] == why_missing("lpips")
    assert "sparsedit models pull lpips" in why_missing("lpips")
    scores = scorer.score(Pair(A, B, mask_of(), "a house"))
    assert scores.values["psnr"] is not None
    assert scores.values["lpips"] is scores.values["clip_edited"] is scores.values["structure"] is None
    assert scores.missing == scorer.missing


def test_what_a_pair_lacks_is_said(backbones: Path) -> None:
    missing = Scorer(PNP_V1, backbones=backbones).score(Pair(A, B)).missing
    assert missing["psnr"] == missing["lpips"] == "needs a mask, to tell the background"
    assert missing["clip"] == missing["clip_edited"] == "needs the prompt of the edit"
    tiny = Pair(A.resize((9, 9)), B.resize((9, 9)), np.eye(9, dtype=bool), "x")
    assert set(Scorer(PNP_V1, ["ssim", "lpips"], backbones=backbones).score(tiny).missing) == {"ssim", "lpips"}


def test_regions_are_scored_over_their_own_pixels(backbones: Path) -> None:
    mask = mask_of()
    changed = np.asarray(A).copy()
    changed[mask] ^= 16
    values = Scorer(SPARSE_VS_DENSE, backbones=backbones).score(Pair(A, Image.fromarray(changed), mask)).values
    assert values["inside_mse"] == pytest.approx((16 / 255) ** 2)
    assert (values["outside_mse"], values["outside_psnr"], values["outside_ssim"] is None) == (0.0, None, False)
    assert values["whole_mse"] == pytest.approx((16 / 255) ** 2 * mask.mean())
    assert values["inside_lpips"] > values["whole_lpips"] > values["outside_lpips"] > 0
    assert values["seam"] > values["seam_reference"]


def test_every_region_without_a_value_says_why() -> None:
    """Or is named as equal."""
    changed = np.asarray(A).copy()
    mask = mask_of()
    changed[mask] ^= 16
    scorer = Scorer(SPARSE_VS_DENSE)
    pairs = [
        Pair(A, Image.fromarray(changed), mask),
        Pair(A, B),
        Pair(A, B, np.ones_like(mask)),
        Pair(A, B, np.zeros_like(mask)),
        Pair(A.resize((9, 9)), B.resize((9, 9)), np.eye(9, dtype=bool)),
    ]
    part, unmasked, full, empty, small = scorer.score_all(pairs)
    for scores in (part, unmasked, full, empty, small):
        assert {name for name, value in scores.values.items() if value is None} == {*scores.missing, *scores.equal}
    assert (part.equal, part.identical) == (("outside_psnr",), False)
    assert set(part.missing) == {f"{region}_lpips" for region in ("inside", "outside", "whole")}
    assert "to tell inside" in unmasked.missing["inside_psnr"]
    assert full.missing["outside_mse"] == "the mask covers everything"
    assert empty.missing["inside_psnr"] == "the mask is empty"
    assert "smaller than 11 px" in small.missing["whole_ssim"]
    assert scorer.score(Pair(A, A, mask)).equal == ("inside_psnr", "outside_psnr", "whole_psnr")


def test_fidelity_without_a_network_and_of_an_empty_region() -> None:
    scores = fidelity(A, B, {"inside": np.zeros((48, 64), dtype=bool)})
    assert scores["inside"] == {"psnr": None, "ssim": None, "lpips": None, "mse": None, "identical": True}
    assert scores["whole"]["lpips"] is None
    assert scores["whole"]["ssim"] is not None


def test_pictures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="64x48 and 80x30"):
        Scorer(PNP_V1, PIXEL_METRICS).score(Pair(A, picture(1, (80, 30))))
    with pytest.raises(InputError, match="the mask is 8x8"):
        Scorer(PNP_V1, PIXEL_METRICS).score(Pair(A, B, np.ones((8, 8), dtype=bool)))


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'pnp-v1'"):
        get_protocol("pnp-v2")
    with pytest.raises(SettingsError, match="did you mean 'psnr'"):
        Scorer(WHOLE_V1, ["psn"])
    with pytest.raises(SettingsError, match="sparse-vs-dense has no clip"):
        Scorer(SPARSE_VS_DENSE, ["clip"])
    with pytest.raises(SettingsError, match="no LPIPS network 'resnet'"):
        WHOLE_V1.with_lpips("resnet")


def test_another_network_is_another_protocol() -> None:
    assert WHOLE_V1.with_lpips("squeeze") is WHOLE_V1
    assert WHOLE_V1.with_lpips("alex").name == "whole-v1+lpips-alex"
    assert Scorer(WHOLE_V1.with_lpips("vgg")).missing["lpips"] == why_missing("lpips-vgg")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_explains_itself(name: str) -> None:
    text = explain(get_protocol(name))
    assert text.startswith("protocol")
    assert "psnr null, identical true" in text
    assert ("with antialiasing" in text, "mirrored" in text) == (name == "whole-v1", name == "sparse-vs-dense")
    if name == "pnp-v1":
        assert "zeros staying in every mean" in text
        assert "outermost 1 px set" in text
        assert "0 to 255" in text
