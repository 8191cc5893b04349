"""Pictures: every kind that is read, every broken file that is refused in a sentence, and atomic writing."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image

from sparsedit import files
from sparsedit.errors import EngineError, InputError
from sparsedit.images import FORMATS, load_image, pixel_limit, save_image, to_image, to_tensor

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def picture(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def refusal(path: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode == "RGB" and np.array_equal(np.asarray(a), np.asarray(b))


# What is read


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_are_read_exactly(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    picture().save(path, format=kind, **LOSSLESS[kind])
    assert same(load_image(path), picture())


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, quality=95)
    assert same(load_image(path), Image.open(path))


def test_the_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path, format="BMP")
    assert same(load_image(path), picture())


def test_the_first_picture_of_a_phone_jpeg_is_the_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(seed=1).save(path, format="MPO", save_all=True, append_images=[picture(12, 8, seed=2)])
    assert Image.open(path).format == "MPO"
    assert load_image(path).size == (24, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 8))
    # What must be stored so that the orientation tag turns it upright.
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind.lower()}"
    stored.save(path, format=kind, exif=exif)
    loaded = load_image(path)
    assert loaded.size == (32, 16)
    assert np.abs(np.asarray(loaded).astype(int) - np.asarray(upright)).max() < 8
    assert not loaded.getexif()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_modes(tmp_path: Path, mode: str) -> None:
    image = picture().convert(mode)
    image.save(tmp_path / "a.png")
    assert same(load_image(tmp_path / "a.png"), image.convert("RGB"))


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(np.asarray(load_image(tmp_path / "a.jpg")).astype(int) - (255, 0, 0)).max() < 4


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (200, 100, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (40, 255), (40, 40, 40)),
    ],
)
def test_transparency_shows_white(
    tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (3, 3), colour).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == expected


@pytest.mark.parametrize(
    ("mode", "level", "transparent"),
    [("P", 1, 1), ("P", 1, b"\xff\x00"), ("L", 9, 9), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0)],
)
def test_a_transparent_colour_shows_white(tmp_path: Path, mode: str, level: int, transparent: object) -> None:
    image = Image.new(mode, (3, 3), level)
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=transparent)
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, kind: str) -> None:
    levels = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{kind}")
    grey = np.asarray(load_image(tmp_path / f"a.{kind}"))
    assert grey[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert (grey == grey[..., :1]).all()


def test_sixteen_bit_grey_from_a_big_endian_tiff(tmp_path: Path) -> None:
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 134), (277, 3, 1)]
    tags += [(278, 3, 1), (279, 4, 4)]
    fields = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in tags
    )
    head = b"MM\x00*" + struct.pack(">IH", 8, len(tags)) + fields + struct.pack(">I", 0)
    path = tmp_path / "a.tiff"
    path.write_bytes(head.ljust(134, b"\0") + struct.pack(">HH", 65535, 32896))
    assert Image.open(path).mode == "I;16B"
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [255, 128]


def test_a_transparent_level_of_sixteen_bit_grey_shows_white(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 256, 257)))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">H", 256)) + rows + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 1]


def test_no_metadata_is_carried_over(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", dpi=(300, 300))
    assert load_image(tmp_path / "a.png").info == {}


# What is refused


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.png").endswith("no.png does not exist.")
    (tmp_path / "file").write_text("x")
    assert "does not exist" in refusal(tmp_path / "file" / "no.png")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe" in refusal(tmp_path / "pipe.png")


def test_devices_and_sockets() -> None:
    assert "a device" in refusal(Path("/dev/zero"))


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        assert "a socket" in refusal(Path("s.png"))


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    assert "permission denied" in refusal(tmp_path / "a.png")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    assert "cannot be read" in refusal(tmp_path / "a.png")


def test_a_name_with_a_null_byte() -> None:
    assert "cannot be read" in refusal(Path("a\0.png"))


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert "is empty" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"hello, I am no picture\n", b"GIF89a" + bytes(50), b"%PDF-1.7", bytes(100)])
def test_something_else_named_png(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "is not a PNG, JPEG, WebP, BMP or TIFF picture" in refusal(tmp_path / "a.png")


def test_other_picture_formats_are_not_opened(tmp_path: Path) -> None:
    picture().convert("L").save(tmp_path / "a.png", format="GIF")
    assert "is not a PNG" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, format=kind)
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    refusal(tmp_path / "a.png")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_files_end_in_a_picture_or_in_a_sentence(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(32, 32).save(buffer, format=kind, **({} if kind == "BMP" else {"exif": exif}))
    dice = random.Random(kind)
    path = tmp_path / "a.png"
    for _ in range(300):
        data = bytearray(buffer.getvalue())
        for _ in range(dice.randint(1, 8)):
            # Half of the damage goes where the structure is.
            data[dice.randrange(len(data) if dice.random() < 0.5 else min(200, len(data)))] = dice.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            assert load_image(path, max_pixels=1_000_000).mode == "RGB"


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    data += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 1) + b"IDAT"
    (tmp_path / "bomb.png").write_bytes(data + bytes(20))
    assert "exceeds limit" in refusal(tmp_path / "bomb.png")
    picture(24, 16).save(tmp_path / "a.png")
    message = refusal(tmp_path / "a.png", max_pixels=24 * 16 - 1)
    assert "24x16" in message
    assert "million" in message
    assert load_image(tmp_path / "a.png", max_pixels=24 * 16).size == (24, 16)


def test_another_limit_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setenv("SPARSEDIT_MAX_PIXELS", "199")
    with pytest.raises(InputError, match=r"20x10 = 0\.0 million.*SPARSEDIT_MAX_PIXELS sets another limit"):
        load_image(tmp_path / "a.png")
    monkeypatch.setenv("SPARSEDIT_MAX_PIXELS", "200")
    assert load_image(tmp_path / "a.png").size == (20, 10)
    for said in ("many", "-1", "0", "1e6", "178956971"):
        with pytest.raises(InputError, match="must be a number of pixels"):
            pixel_limit({"SPARSEDIT_MAX_PIXELS": said})


def test_a_broken_link_is_a_file_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"a\.png does not exist"):
        load_image(tmp_path / "a.png")


def test_the_default_limit_needs_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a.png")
    message = refusal(tmp_path / "a.png")
    assert "10000x10000 = 100.0 million pixels; at most 64 million are read" in message
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_animations(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    picture(seed=1).save(path, format=kind, save_all=True, append_images=[picture(seed=2), picture(seed=3)])
    assert "has 3 frames" in refusal(path)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_white(tmp_path: Path, dtype: type[np.generic]) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "a.tiff")
    assert "have no fixed white" in refusal(tmp_path / "a.tiff")


# Tensors


def test_to_tensor() -> None:
    tensor = to_tensor(picture(5, 3))
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.float32, (1, 3, 3, 5), True)
    expected = np.asarray(picture(5, 3))[1, 4].astype(np.float32) / 127.5 - 1
    assert tensor[0, :, 1, 4].tolist() == expected.tolist()
    black_to_white = to_tensor(Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8)))
    assert black_to_white[0, [0, 2], 0, 0].tolist() == [-1, 1]


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda hw: (*hw, 3))))
def test_there_and_back_is_exact(levels: np.ndarray) -> None:
    image = Image.fromarray(levels)
    assert same(to_image(to_tensor(image)), image)


def test_every_level_comes_back_from_float64_and_bfloat16_keeps_the_ends() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    tensor = to_tensor(Image.fromarray(levels))
    assert np.array_equal(np.asarray(to_image(tensor.double())), levels)
    ends = np.asarray(to_image(tensor.bfloat16()))[0, [0, 255], 0]
    assert ends.tolist() == [0, 255]


def test_to_image_clips() -> None:
    image = to_image(torch.tensor([-5.0, 0.0, 7.0]).reshape(1, 3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_to_image_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        to_image(torch.full((1, 3, 2, 2), bad))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (1, 4, 4, 4)])
def test_to_image_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"\[1, 3, H, W\]"):
        to_image(torch.zeros(shape))


# Writing


def test_save_and_load(tmp_path: Path) -> None:
    save_image(picture(), tmp_path / "out.png")
    assert same(load_image(tmp_path / "out.png"), picture())
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    save_image(picture(), tmp_path / "a.png")
    save_image(picture(), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_the_umasks(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_image(picture(), tmp_path / "out.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == mode


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def fail(descriptor: int) -> None:
        raise interruption

    save_image(picture(seed=1), tmp_path / "out.png")
    monkeypatch.setattr(files.os, "fsync", fail)
    expected = InputError if isinstance(interruption, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_image(picture(seed=2), tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert same(load_image(tmp_path / "out.png"), picture(seed=1))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "none" / "out.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match="cannot be written"):
            save_image(picture(), path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
