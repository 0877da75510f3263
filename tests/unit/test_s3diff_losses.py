"""Losses of S3Diff's training against independent computations, and LPIPS from the cache."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from skimage import data

from pipelines.contract import PipelineError
from pipelines.perceptual import BACKBONES, Lpips, Net, _heads_file, backbone_file, open_lpips
from pipelines.s3diff.train.losses import (
    FAKE_TARGET,
    REAL_TARGET,
    LossWeights,
    multilevel_bce,
    reconstruction_loss,
)

# torchvision's layers up to the last one that LPIPS looks at: convolutions as (index, channels in,
# out, kernel, stride, padding), "tap" after the ReLU whose output counts.
_VGG = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256)]
_VGG += [(14, 256, 256), (17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512)]
_VGG += [(26, 512, 512), (28, 512, 512)]
_ALEX = [(0, 3, 64, 11, 4, 2), (3, 64, 192, 5, 1, 2), (6, 192, 384, 3, 1, 1)]
_ALEX += [(8, 384, 256, 3, 1, 1), (10, 256, 256, 3, 1, 1)]
CONVOLUTIONS = {"vgg": [(*c, 3, 1, 1) for c in _VGG], "alex": _ALEX}
TAPS = {"vgg": (2, 7, 14, 21, 28), "alex": (0, 3, 6, 8, 10)}
POOL_BEFORE = {"vgg": {5: 2, 10: 2, 17: 2, 24: 2}, "alex": {3: 3, 6: 3}}  # index -> kernel


def random_backbone(net: Net) -> dict[str, torch.Tensor]:
    """He-initialized, so that features keep their size to the last layer."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for index, channels_in, channels_out, kernel, _, _ in CONVOLUTIONS[net]:
        deviation = (2 / (channels_in * kernel**2)) ** 0.5
        shape = (channels_out, channels_in, kernel, kernel)
        tensors[f"features.{index}.weight"] = deviation * torch.randn(shape, generator=generator)
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(channels_out, generator=generator)
    return tensors


def shipped_heads(net: Net) -> dict[str, torch.Tensor]:
    return torch.load(_heads_file(net), map_location="cpu", weights_only=True)


def reference(
    net: Net, backbone: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """LPIPS v0.1 in float64, written from the paper and the backbones' definitions."""
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    heads = shipped_heads(net)
    x = (torch.cat([a, b]).double() - shift) / scale
    total = torch.zeros(len(a), dtype=torch.float64)
    for index, _, _, _, stride, padding in CONVOLUTIONS[net]:
        if kernel := POOL_BEFORE[net].get(index):
            x = F.max_pool2d(x, kernel, 2)
        weight, bias = (backbone[f"features.{index}.{n}"].double() for n in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
        if index in TAPS[net]:
            head = heads[f"lin{TAPS[net].index(index)}.model.1.weight"].double().flatten()
            unit = x / x.square().sum(1, keepdim=True).add(1e-8).sqrt()
            difference = (unit[: len(a)] - unit[len(a) :]).square()
            total += torch.einsum("bchw,c->bhw", difference, head).mean((1, 2))
    return total


def pictures(batch: int, side: int, seed: int) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_what_the_paper_says(net: Net) -> None:
    backbone = random_backbone(net)
    network = Lpips(net, backbone)
    a, b = pictures(2, 48, 0).requires_grad_(), pictures(2, 48, 1)
    found, expected = network(a, b), reference(net, backbone, a, b)
    assert found.shape == (2,)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    (ours,) = torch.autograd.grad(found.sum(), a)
    (theirs,) = torch.autograd.grad(expected.sum(), a)
    # Beside float32's rounding, a ReLU or a maximum that falls the other way moves single pixels.
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    assert network(b, b).tolist() == [0, 0]


def test_lpips_stays_frozen_in_evaluation_and_in_float32() -> None:
    network = Lpips("alex", random_backbone("alex")).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    a, b = pictures(1, 64, 0), pictures(1, 64, 1)
    plain = network(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(a, b), plain)
    assert not plain.requires_grad


def test_building_lpips_draws_nothing() -> None:
    before = torch.get_rng_state()
    Lpips("alex", random_backbone("alex"))
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_are_those_of_lpips_0_1() -> None:
    heads = shipped_heads("alex")
    sums = [float(heads[f"lin{i}.model.1.weight"].sum()) for i in range(5)]
    assert sums == pytest.approx([2.3495, 16.1430, 39.2684, 27.1972, 20.3172], abs=1e-3)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_real_weights_see_blur(net: Net) -> None:
    if not backbone_file(net).is_file():
        pytest.skip(f"{BACKBONES[net]}: needs `srbench weights fetch --metrics` (a network)")
    network = open_lpips(net, "cpu")
    sharp = data.astronaut()[:128, 128:256].astype(np.float32) / 127.5 - 1

    def blurred(sigma: float) -> torch.Tensor:
        picture = gaussian_filter(sharp, (sigma, sigma, 0))
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())[None]

    values = [float(network(blurred(sigma), blurred(0))) for sigma in (0, 0.8, 1.6, 3.2)]
    assert values[0] == 0
    assert all(a < b for a, b in pairwise(values))
    assert 0.3 < values[-1] < 0.9  # random backbones give far less


def test_missing_or_foreign_weights_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match=r"vgg16-397923af\.pth: missing.*fetch --metrics`"):
        open_lpips("vgg", "cpu")
    path = backbone_file("vgg")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(PipelineError, match=r"not torchvision's network .*remove the file"):
        open_lpips("vgg", "cpu")
    other = random_backbone("vgg") | {"features.5.weight": torch.zeros(128, 64, 1, 1)}
    torch.save(other, path)
    with pytest.raises(PipelineError, match=r"features\.5\.weight: of shape \[128, 64, 1, 1\]"):
        open_lpips("vgg", "cpu")
    torch.save({"weights": 3}, path)
    with pytest.raises(PipelineError, match=r"features\.0\.weight: missing") as caught:
        open_lpips("vgg", "cpu")
    assert "\n" not in str(caught.value)


def test_reconstruction_is_the_published_sum() -> None:
    backbone = random_backbone("alex")
    network = Lpips("alex", backbone)
    output, target = pictures(2, 64, 5).requires_grad_(), pictures(2, 64, 6)
    loss = reconstruction_loss(output, target, network, LossWeights())
    mse = float((output.detach().double() - target.double()).square().mean())
    lpips = float(reference("alex", backbone, output.detach(), target).mean())
    assert float(loss.mse) == pytest.approx(mse, rel=1e-6)
    assert float(loss.lpips) == pytest.approx(lpips, rel=1e-4)
    assert float(loss.total.detach()) == pytest.approx(2 * mse + 5 * lpips, rel=1e-5)
    loss.total.backward()
    assert output.grad is not None
    assert not loss.mse.requires_grad
    assert not loss.lpips.requires_grad


def test_reconstruction_is_float32_and_can_do_without_lpips() -> None:
    output, target = pictures(2, 16, 5).to(torch.bfloat16), pictures(2, 16, 6)
    weights = LossWeights(mse=3.0, lpips=0.0)
    loss = reconstruction_loss(output, target, None, weights)
    assert loss.total.dtype == torch.float32
    assert float(loss.total) == pytest.approx(float((output.float() - target).square().mean()) * 3)
    assert float(loss.lpips) == 0
    with pytest.raises(PipelineError, match="needs the LPIPS network"):
        reconstruction_loss(output, target, None, LossWeights())


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_weights_are_refused(value: float) -> None:
    with pytest.raises(PipelineError, match=f"gan {value}: must not be negative"):
        LossWeights(gan=value)


@pytest.mark.parametrize("target", [REAL_TARGET, FAKE_TARGET])
def test_adversarial_loss_is_cross_entropy_summed_over_levels(target: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 3, 3), (2, 5, 4), (2, 1)]
    logits = [4 * torch.randn(shape, generator=generator) for shape in shapes]
    expected = 0.0
    for level in logits:
        p = 1 / (1 + np.exp(-level.double().numpy()))
        expected += float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())
    assert float(multilevel_bce(logits, target)) == pytest.approx(expected, rel=1e-6)
    half = multilevel_bce([level.half() for level in logits], target)
    assert half.dtype == torch.float32


def test_targets_are_the_published_ones() -> None:
    """At a smoothed label of 0.8 the best logit is ln 4; a fake one has no best."""
    best = torch.full((1, 1), np.log(4.0), requires_grad=True)
    multilevel_bce([best], REAL_TARGET).backward()
    assert float(best.grad) == pytest.approx(0, abs=1e-6)
    fake = torch.zeros(1, 1, requires_grad=True)
    multilevel_bce([fake], FAKE_TARGET).backward()
    assert float(fake.grad) == pytest.approx(0.5)
