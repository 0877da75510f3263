"""Discriminators of S3Diff's training, part by part against independent computations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from pipelines.contract import PipelineError
from pipelines.s3diff.train import augment
from pipelines.s3diff.train.discriminators import (
    DinoDiscriminator,
    Discriminator,
    DiscriminatorSettings,
    Kind,
    PatchDiscriminator,
    open_discriminator,
)
from pipelines.s3diff.train.discriminators.dino import read_backbone
from pipelines.s3diff.train.losses import FAKE_TARGET, REAL_TARGET, multilevel_bce
from pipelines.tables import overridden


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=seeded(seed)) * 2 - 1


def small_dino(width: int = 16) -> DinoDiscriminator:
    """The published structure on a narrow backbone of 9 blocks, seeded random weights."""
    torch.manual_seed(7)
    backbone = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=24, depth=9, num_heads=3, num_classes=0
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(std=0.2)
    return DinoDiscriminator(backbone, width)


def small_patch() -> PatchDiscriminator:
    torch.manual_seed(7)
    return PatchDiscriminator(8)


# -- DiffAugment


def augmented_by_loops(image: NDArray[np.float64], drawn: augment.Draw) -> NDArray[np.float64]:
    """Pixel by pixel, from the definition of the policy."""
    result = np.zeros_like(image)
    _, _, height, width = image.shape
    cut_height, cut_width = (int(size / 2 + 0.5) for size in (height, width))
    for i, picture in enumerate(image):
        x = picture + float(drawn.brightness[i])
        grey = x.mean(axis=0)
        x = grey + (x - grey) * float(drawn.saturation[i])
        x = x.mean() + (x - x.mean()) * float(drawn.contrast[i])
        top, left = int(drawn.cut_y[i]), int(drawn.cut_x[i])
        for row in range(height):
            for column in range(width):
                from_row = row + int(drawn.shift_y[i])
                from_column = column + int(drawn.shift_x[i])
                outside = not (0 <= from_row < height and 0 <= from_column < width)
                cut = top <= row < top + cut_height and left <= column < left + cut_width
                if not outside and not cut:
                    result[i, :, row, column] = x[:, from_row, from_column]
    return result


@pytest.mark.parametrize(("height", "width"), [(16, 16), (21, 34)])
def test_augmentation_is_the_published_policy(height: int, width: int) -> None:
    image = pictures(4, height, width).double()
    drawn = augment.draw(4, height, width, seeded(5))
    found = augment.apply(image, drawn)
    np.testing.assert_allclose(found.numpy(), augmented_by_loops(image.numpy(), drawn), atol=1e-6)


def test_draws_fill_the_published_ranges() -> None:
    height, width = 64, 33
    drawn = augment.draw(4000, height, width, seeded(1))

    def extremes(values: torch.Tensor) -> list[float]:
        return [float(values.min()), float(values.max())]

    assert extremes(drawn.brightness) == pytest.approx([-0.5, 0.5], abs=0.01)
    assert extremes(drawn.saturation) == pytest.approx([0, 2], abs=0.01)
    assert extremes(drawn.contrast) == pytest.approx([0.5, 1.5], abs=0.01)
    assert extremes(drawn.shift_y) == [-8, 8]
    assert extremes(drawn.shift_x) == [-4, 4]
    # An even cut of 32 may be centred from one edge to the other, an odd one of 17 on any pixel.
    assert extremes(drawn.cut_y) == [-16, 48]
    assert extremes(drawn.cut_x) == [-8, 24]
    for values in (drawn.brightness, drawn.saturation, drawn.contrast):
        uniform = float(values.max() - values.min()) / 12**0.5
        assert float(values.std()) == pytest.approx(uniform, rel=0.05)
    together = torch.stack(
        [drawn.brightness, drawn.saturation, drawn.contrast, drawn.shift_y * 1.0]
    )
    assert float((torch.corrcoef(together) - torch.eye(4)).abs().max()) < 0.08


def test_augmentation_is_a_function_of_the_generator() -> None:
    image = pictures(1, 32, 32).expand(3, -1, -1, -1)
    first = augment.diff_augment(image, seeded(3))
    assert torch.equal(first, augment.diff_augment(image, seeded(3)))
    assert not torch.equal(first, augment.diff_augment(image, seeded(4)))
    assert not torch.equal(first[0], first[1])  # each picture has its own draw


def test_augmentation_is_differentiable() -> None:
    image = pictures(2, 8, 6).double().requires_grad_()
    drawn = augment.draw(2, 8, 6, seeded(2))
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, drawn), image)


# -- the published discriminator


def blurred(x: torch.Tensor, padding: int) -> torch.Tensor:
    """[1, 3, 3, 1] x [1, 3, 3, 1] / 64, tap by tap."""
    x = F.pad(x, [padding] * 4)
    height, width = x.shape[2] - 3, x.shape[3] - 3
    total = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for i, vertical in enumerate((1, 3, 3, 1)):
        for j, horizontal in enumerate((1, 3, 3, 1)):
            total += vertical * horizontal / 64 * x[:, :, i : i + height, j : j + width]
    return total


def normed(state: Mapping[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight over its largest singular value as the stored vectors have it, and bias; float64."""
    weight = state[f"{layer}.parametrizations.weight.original"].double()
    u, v = (state[f"{layer}.parametrizations.weight.0._{n}"].double() for n in "uv")
    return weight / (u @ weight.flatten(1) @ v), state[f"{layer}.bias"].double()


def test_features_are_those_of_the_published_blocks() -> None:
    discriminator = small_dino().eval()
    seen: dict[int, torch.Tensor] = {}
    for index, block in enumerate(discriminator.backbone.blocks):
        block.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out}))
    heads: list[torch.Tensor] = []
    discriminator.trained.register_forward_pre_hook(lambda _, inputs: heads.extend(inputs))
    image = pictures(2, 448, 448)
    entering: list[torch.Tensor] = []
    discriminator.backbone.patch_embed.register_forward_pre_hook(
        lambda _, inputs: entering.extend(inputs)
    )
    discriminator.judge(image)
    small = F.avg_pool2d((image.double() + 1) / 2, 2)  # area, at a whole factor
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    expected = (small - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    torch.testing.assert_close(entering[0].double(), expected, rtol=0, atol=2e-6)
    norm = discriminator.backbone.norm
    for found, block in zip(heads, (1, 5, 8), strict=True):  # the last 8 of 9: 1 to 8
        tokens = F.layer_norm(seen[block], (24,), norm.weight, norm.bias, 1e-6)
        if block == 8:
            torch.testing.assert_close(found, tokens[:, 0])
        else:
            places = tokens[:, 1:].unflatten(1, (14, 14))
            torch.testing.assert_close(found, places.permute(0, 3, 1, 2))


def test_heads_are_the_published_layers() -> None:
    discriminator = small_dino().eval()
    state = discriminator.trained_state_dict()
    generator = seeded(4)
    maps = [torch.randn(2, 24, 14, 14, generator=generator) for _ in range(2)]
    cls = torch.randn(2, 24, generator=generator)
    found = discriminator.run_trained(*maps, cls)
    assert [tuple(level.shape) for level in found] == [(2, 3, 3), (2, 3, 3), (2, 1)]
    for name, features, logits in zip(("early", "middle"), maps, found[:2], strict=True):
        x = F.conv2d(blurred(features.double(), 2), *normed(state, f"{name}.1"), stride=2)
        assert x.shape == (2, 16, 7, 7)
        x = blurred(torch.where(x > 0, x, 0.2 * x), 1)
        x = F.conv2d(x, *normed(state, f"{name}.4"), stride=2)
        torch.testing.assert_close(logits.double(), x[:, 0], rtol=1e-4, atol=1e-6)
    weight, bias = normed(state, "whole.0")
    hidden = cls.double() @ weight.T + bias
    weight, bias = normed(state, "whole.2")
    expected = torch.where(hidden > 0, hidden, 0.2 * hidden) @ weight.T + bias
    torch.testing.assert_close(found[2].double(), expected, rtol=1e-4, atol=1e-6)


def test_only_the_heads_learn_and_the_gradient_reaches_the_picture() -> None:
    discriminator = small_dino().train()
    assert not any(module.training for module in discriminator.backbone.modules())
    image = pictures(2, 64, 96).requires_grad_()
    multilevel_bce(discriminator(image, seeded(0)), REAL_TARGET).backward()
    assert all(p.grad is None for p in discriminator.backbone.parameters())
    trained = discriminator.trained_parameters()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained)
    assert {id(p) for p in trained} == {
        id(p) for p in discriminator.parameters() if p.requires_grad
    }
    assert image.grad is not None
    per_picture = image.grad.abs().amax((1, 2, 3))
    assert bool((per_picture > 0).all())
    assert not any(name.startswith("backbone") for name in discriminator.trained_state_dict())


def test_published_backbone_from_a_file(tmp_path: Path) -> None:
    """At full size, each tensor one number repeated, so that the file is small."""
    names = read_names()
    assert len(names) == 150
    generator = seeded(0)
    tensors = {
        name: torch.randn(1, generator=generator).mul(0.02).expand(shape)
        for name, shape in names.items()
    }
    path = tmp_path / "dino_vitbase16_pretrain.pth"
    torch.save(tensors, path)
    before = torch.get_rng_state()
    backbone = read_backbone(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert {t.device.type for t in (*backbone.parameters(), *backbone.buffers())} == {"cpu"}
    assert torch.equal(backbone.pos_embed, tensors["pos_embed"])
    settings = DiscriminatorSettings(kind=Kind.DINO, weights=path)
    discriminator = open_discriminator(settings, "cpu")
    assert isinstance(discriminator, DinoDiscriminator)
    trained = sum(p.numel() for p in discriminator.trained_parameters())
    assert trained == 2 * (768 * 128 * 9 + 128 + 128 + 1) + 768 * 128 + 128 + 128 + 1
    with torch.no_grad():
        shapes = [tuple(level.shape) for level in discriminator(pictures(1, 64, 64), seeded(0))]
    assert shapes == [(1, 3, 3), (1, 3, 3), (1, 1)]


def read_names() -> dict[str, tuple[int, ...]]:
    """Of the published file: facebookresearch/dino's `vit_base` with patches of 16."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768)}
    layers = {"patch_embed.proj": (768, 3, 16, 16), "norm": (768,)}
    for block in range(12):
        layers |= {
            f"blocks.{block}.{name}": shape
            for name, shape in {
                "norm1": (768,),
                "attn.qkv": (2304, 768),
                "attn.proj": (768, 768),
                "norm2": (768,),
                "mlp.fc1": (3072, 768),
                "mlp.fc2": (768, 3072),
            }.items()
        }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; DINO ViT-B/16 is expected"),
        (b"<html>", "damaged or not a file of tensors"),
        ({"teacher": {"cls_token": torch.zeros(1)}}, "'teacher' is no tensor"),
        ({"cls_token": torch.zeros(1, 1, 384)}, r"another network \(pos_embed is missing; "),
    ],
)
def test_other_files_are_refused_in_one_line(
    content: bytes | dict[str, object] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(PipelineError, match=message) as caught:
        read_backbone(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    shapes = read_names()
    tensors = {n: torch.zeros(s) for n, s in shapes.items() if n.startswith(("cls", "pos", "norm"))}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PipelineError, match=r"another network \(patch_embed\.proj\.weight is mis"):
        read_backbone(tmp_path / "model.safetensors")


# -- the small discriminator


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 47)])
def test_patch_judges_places_of_three_sizes(height: int, width: int) -> None:
    logits = small_patch()(pictures(2, height, width), seeded(0))
    expected = [(2, height // stride, width // stride) for stride in (4, 8, 16)]
    assert [tuple(level.shape) for level in logits] == expected


def test_patch_sees_what_its_description_says() -> None:
    discriminator = small_patch().eval()
    for level, seen in enumerate((20, 40, 80)):
        image = pictures(1, 128, 128).requires_grad_()
        logits = discriminator.judge(image)[level]
        middle = logits.shape[-1] // 2
        logits[0, middle, middle].backward()
        assert image.grad is not None
        rows, columns = image.grad[0].abs().sum(0).nonzero(as_tuple=True)
        assert int(rows.max() - rows.min()) + 1 == seen
        assert int(columns.max() - columns.min()) + 1 == seen


def test_patch_is_small_and_takes_no_smaller_crops() -> None:
    parameters = sum(p.numel() for p in PatchDiscriminator().trained_parameters())
    assert parameters == pytest.approx(447_000, rel=0.01)
    with pytest.raises(PipelineError, match=r"picture of 31x64.*at least 32"):
        small_patch()(pictures(1, 64, 31), seeded(0))


def test_patch_learns_to_tell_sharp_from_blurred() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    optimizer = torch.optim.AdamW(discriminator.trained_parameters(), lr=2e-3)
    generator = seeded(1)
    losses = []
    for step in range(40):
        sharp = pictures(4, 32, 32, seed=step)
        blurry = F.avg_pool2d(sharp, 5, stride=1, padding=2)
        loss = multilevel_bce(discriminator(sharp, generator), REAL_TARGET)
        loss = loss + multilevel_bce(discriminator(blurry, generator), FAKE_TARGET)
        optimizer.zero_grad()
        loss.backward()  # through two forwards: the vectors of the norms were advanced between
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


# -- what both share


@pytest.mark.parametrize("make", [small_dino, small_patch])
def test_spectral_norm_advances_in_training_only(make: type[Discriminator]) -> None:
    discriminator = make()
    image = pictures(1, 32, 32)

    def vectors() -> dict[str, torch.Tensor]:
        state = discriminator.trained_state_dict()
        return {n: t.clone() for n, t in state.items() if n.endswith(("._u", "._v"))}

    layers = sum(name.endswith("original") for name in discriminator.trained_state_dict())
    before = vectors()
    assert len(before) == 2 * layers
    with torch.no_grad():
        discriminator.eval().judge(image)
        assert all(torch.equal(before[name], t) for name, t in vectors().items())
        discriminator.train().judge(image)
        assert any(not torch.equal(before[name], t) for name, t in vectors().items())
        for _ in range(100):
            discriminator.trained.apply(_read_weight)
    discriminator.eval()
    for module in discriminator.trained.modules():
        if hasattr(module, "parametrizations"):
            largest = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
            assert float(largest) == pytest.approx(1, abs=0.02)


def _read_weight(module: torch.nn.Module) -> None:
    if hasattr(module, "parametrizations"):
        assert module.weight is not None  # one step of the power iteration


@pytest.mark.parametrize("make", [small_dino, small_patch])
def test_continued_training_is_bit_equal(make: type[Discriminator]) -> None:
    def updates(discriminator: Discriminator, steps: range) -> dict[str, torch.Tensor]:
        optimizer = torch.optim.SGD(discriminator.trained_parameters(), lr=0.01)
        for step in steps:
            logits = discriminator(pictures(1, 32, 32, seed=step), seeded(step))
            optimizer.zero_grad()
            multilevel_bce(logits, REAL_TARGET).backward()
            optimizer.step()
        return {n: t.clone() for n, t in discriminator.trained_state_dict().items()}

    whole = updates(make(), range(4))
    half = updates(make(), range(2))
    continued = make()
    with torch.no_grad():
        for tensor in continued.trained_state_dict().values():
            tensor.add_(1)  # another beginning, so that all of it has to come from the state
    continued.load_trained_state_dict(half)
    assert all(torch.equal(t, whole[n]) for n, t in updates(continued, range(2, 4)).items())


def test_state_of_another_discriminator_is_refused() -> None:
    discriminator = small_patch()
    before = {n: t.clone() for n, t in discriminator.trained_state_dict().items()}
    with pytest.raises(PipelineError, match=r"first.* is \[16\] where \[8\] is expected"):
        discriminator.load_trained_state_dict(PatchDiscriminator(16).trained_state_dict())
    with pytest.raises(PipelineError, match="is missing"):
        discriminator.load_trained_state_dict(small_dino().trained_state_dict())
    assert all(torch.equal(before[n], t) for n, t in discriminator.trained_state_dict().items())


@pytest.mark.parametrize("make", [small_dino, small_patch])
def test_heads_compute_in_float32_under_autocast(make: type[Discriminator]) -> None:
    discriminator = make().eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(pictures(1, 64, 64), seeded(0))
    assert {level.dtype for level in logits} == {torch.float32}


# -- settings


def test_tables_become_settings() -> None:
    defaults = DiscriminatorSettings()
    assert defaults.kind is Kind.PATCH
    dino = overridden(defaults, {"kind": "dino", "weights": "a/b.pth", "width": 64})
    assert dino == DiscriminatorSettings(Kind.DINO, 64, Path("a/b.pth"))
    assert DiscriminatorSettings(Kind.DINO, weights=Path("b.pth")).trained_width == 128
    none = overridden(defaults, {"kind": "none"})
    assert open_discriminator(none, "cpu") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kinds": "patch"}, r"kinds: unknown; did you mean kind\?"),
        ({"kind": "vgg"}, "kind: expected one of dino, patch, none, found 'vgg'"),
        ({"width": True}, "width: expected a whole number, found True"),
        ({"width": 0}, "width 0: expected 1 to 1024"),
        ({"kind": "none", "width": 8}, "width: there is none"),
        ({"kind": "dino"}, "weights: missing"),
        ({"kind": "patch", "weights": "a.pth"}, "weights: only dino has any"),
        ({"kind": "dino", "weights": 3}, "weights: expected the path of a file, found 3"),
    ],
)
def test_bad_tables_are_one_line(table: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        overridden(DiscriminatorSettings(), table)
    assert "\n" not in str(caught.value)


def test_initial_weights_follow_the_seed() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        discriminator = open_discriminator(DiscriminatorSettings(width=8), "cpu")
        assert isinstance(discriminator, PatchDiscriminator)
        return discriminator.trained_state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(t, again[n]) for n, t in first.items())
    assert not torch.equal(first["first.bias"], other["first.bias"])
