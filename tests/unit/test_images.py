import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from srbench.errors import UsageError
from srbench.images import find_images, list_images, read_image, write_image


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png(path: Path, values: Any, colour_type: Any) -> None:
    """A 16-bit PNG written by hand, so that no library's reading of one is trusted twice."""
    rows, columns = values.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_lossless_formats_are_read_back(
    tmp_path: Path, rgb: NDArray[np.uint8], suffix: str
) -> None:
    write_image(tmp_path / f"x{suffix}", rgb)
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), rgb)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_is_divided_by_257_and_rounded(
    tmp_path: Path, colour_type: Any, channels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (9, 7, channels)).astype(np.uint16)
    png(tmp_path / "x.png", values, colour_type)
    colour = np.repeat(values[..., :1], 3, axis=2) if channels < 3 else values[..., :3]
    expected = colour.astype(np.float64)
    if channels in (2, 4):
        alpha = values[..., -1:].astype(np.float64) / 65535
        expected = expected * alpha + 65535 * (1 - alpha)
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.png"), np.rint(expected / 257).astype(np.uint8)
    )
    assert ("onto white" in caplog.text) is (channels in (2, 4))


def test_16_bit_is_not_cut_to_its_upper_byte(tmp_path: Path) -> None:
    png(tmp_path / "x.png", np.full((16, 16, 3), 0x01FF, np.uint16), 2)
    assert read_image(tmp_path / "x.png").max() == 2  # 511 / 257 = 1.99; the upper byte is 1


def test_16_bit_tiff(tmp_path: Path) -> None:
    import cv2

    values = np.random.default_rng(3).integers(0, 65536, (16, 18, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "c.tif"), values[..., ::-1])
    assert cv2.imwrite(str(tmp_path / "g.tif"), values[..., 0])
    np.testing.assert_array_equal(
        read_image(tmp_path / "c.tif"), np.rint(values / 257).astype(np.uint8)
    )
    grey = np.rint(values[..., 0] / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "g.tif"), np.stack([grey] * 3, axis=2))


def test_grey_palette_and_bilevel_become_rgb(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(rgb[..., 0])
    grey.save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_image(tmp_path / "g.png"), np.stack([rgb[..., 0]] * 3, 2))
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "p.png"), np.asarray(palette.convert("RGB"))
    )
    Image.fromarray(rgb[..., 0] > 128).save(tmp_path / "b.png")
    assert set(np.unique(read_image(tmp_path / "b.png"))) == {0, 255}


def test_alpha_goes_onto_white_with_a_warning(
    tmp_path: Path, rgb: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    alpha = np.zeros((20, 30, 1), np.uint8)
    alpha[:10] = 255
    alpha[10] = 51
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "x.png")
    seen = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(seen[:10], rgb[:10])
    np.testing.assert_array_equal(seen[10], np.rint(rgb[10] * 0.2 + 255 * 0.8))
    assert (seen[11:] == 255).all()
    assert "x.png" in caplog.text
    assert "onto white" in caplog.text


def test_transparent_palette(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    palette = Image.fromarray(rgb).quantize(4)
    palette.save(tmp_path / "x.png", transparency=0)
    seen = read_image(tmp_path / "x.png")
    assert (seen[np.asarray(palette) == 0] == 255).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:8, :16] = (255, 0, 0)
    image = Image.fromarray(upright)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x{suffix}", exif=exif)
    seen = read_image(tmp_path / f"x{suffix}")
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 3


def broken_files(folder: Path) -> dict[str, tuple[bytes | None, str]]:
    whole = folder / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(whole)
    content = whole.read_bytes()
    return {
        "missing": (None, "no such file"),
        "empty": (b"", "empty file"),
        "text": (b"hello, world", "not an image"),
        "cut": (content[: len(content) // 2], "truncated or damaged"),
        "flipped": (content[:50] + bytes(60) + content[110:], "truncated or damaged"),
        "headonly": (content[:30], "(truncated or damaged|not an image)"),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "flipped", "headonly"])
def test_bad_files_get_one_line(tmp_path: Path, kind: str) -> None:
    content, words = broken_files(tmp_path)[kind]
    path = tmp_path / f"{kind}.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rgb: NDArray[np.uint8]
) -> None:
    with pytest.raises(UsageError, match="a folder"):
        read_image(tmp_path)
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UsageError, match="floating-point"):
        read_image(tmp_path / "f.tif")
    write_image(tmp_path / "big.png", rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(UsageError, match="decompression bomb"):
        read_image(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UsageError, match="decompression bomb"):
        read_image(tmp_path / "big.png")


def test_reading_warns_nobody(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    write_image(tmp_path / "x.png", rgb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "x.png")


def test_writing_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, rgb: NDArray[np.uint8]
) -> None:
    with pytest.raises(UsageError, match=r"use \.png"):
        write_image(tmp_path / "x.docx", rgb)
    with pytest.raises(UsageError, match="cannot write"):
        write_image(tmp_path / "no" / "x.png", rgb)
    with pytest.raises(UsageError, match=r"16x16384 pixels cannot be stored as WEBP .* use \.png"):
        write_image(tmp_path / "x.webp", np.zeros((16384, 16, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_folders_are_searched_in_order_and_other_files_counted(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a/z.jpg",
        "a b/y.tif",
        "a/notes.txt",
        "a/._z.jpg",
        "out/c.png",
        ".d/e.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    found, others = find_images(tmp_path, tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a/z.jpg", "a b/y.tif", "b.png",
    ]  # fmt: skip
    assert others == 2
    (tmp_path / "a/z.jpg").unlink()
    with pytest.raises(UsageError, match="no image in it"):
        find_images(tmp_path / "a")


def test_listing(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        list_images(tmp_path / "no")
    with pytest.raises(UsageError, match="no image in it"):
        list_images(tmp_path)
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "c.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
