"""Files in the layout that PassionSR's program saves."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.lbq import Quantizer
from pipelines.passionsr.names import ldm_names
from pipelines.passionsr.network import NetworkSettings, quantize_network, quantized_attentions
from pipelines.passionsr.published import compare_published, load_published, main
from pipelines.passionsr.settings import LayerSettings
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae
from tests.unit.test_passionsr_network import TINY, decode, encode, predict

Tensor = torch.Tensor
Quantized = tuple[Any, dict[str, QuantizedLayer], dict[str, Any]]


def tiny(kind: str, seed: int = 0) -> Quantized:
    torch.manual_seed(21)
    config = getattr(TINY, kind)
    network = UNet(config, TIMESTEP) if kind == "unet" else Vae(config)
    network.requires_grad_(False)
    torch.manual_seed(seed)
    layers = quantize_network(network, NetworkSettings.published(kind, 6))  # type: ignore[arg-type]
    return network, layers, config


def run(network: Any) -> Tensor:
    if isinstance(network, UNet):
        return predict(network)
    return torch.cat([encode(network).flatten(), decode(network).flatten()])


def learn(quantized: Quantized) -> Tensor:
    """Take scales and bounds from a picture, then move everything; the network's answer."""
    network, layers, _ = quantized
    run(network)
    modules: list[Any] = [*layers.values(), *quantized_attentions(network).values()]
    for module in modules:
        for parameter in (*module.let_parameters(), *module.bound_parameters()):
            parameter.data.mul_(torch.rand_like(parameter) * 0.2 + 0.9)
        for child in module.children():
            if isinstance(child, Quantizer):  # as in a fresh process: the present bounds' step
                child.initialized = False
        module.mark_initialized()
    return run(network)


def as_published(quantized: Quantized, prefix: str) -> dict[str, Tensor]:
    """What PassionSR's program would save: LDM's names, VAE attention as 1x1 convolutions."""
    network, layers, config = quantized
    kind: Any = "unet" if isinstance(network, UNet) else "vae"
    state = {}
    for path, layer in layers.items():
        for key, tensor in layer.state_dict().items():
            wide = kind == "vae" and tensor.dim() == 2
            state[path, key] = tensor[..., None, None] if wide else tensor
    for path, attention in quantized_attentions(network).items():
        for key, tensor in attention.state_dict().items():
            if not key.startswith("to_"):
                state[path, key] = tensor
    for path, norm in network.named_modules():
        if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
            state |= {(path, key): tensor for key, tensor in norm.named_parameters()}
    names = ldm_names({path for path, _ in state}, kind, config)
    return {f"{prefix}{names[path]}.{key}": x.clone() for (path, key), x in state.items()}


@pytest.fixture(scope="module")
def vae() -> tuple[dict[str, Tensor], Tensor]:
    """A published file of a tiny VAE, and the network's answer."""
    saved = tiny("vae")
    wanted = learn(saved)
    return as_published(saved, "model."), wanted


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("unet", "model.diffusion_model."), ("vae", ""), ("vae", "model."), ("vae", "model.model.")],
)
def test_a_file_with_any_prefix_gives_the_same_function(
    kind: str, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = tiny(kind)
    wanted = learn(saved)
    torch.save(as_published(saved, prefix), tmp_path / "ckpt.pth")
    network, layers, config = tiny(kind, seed=1)
    report = load_published(tmp_path / "ckpt.pth", network, layers, config)
    assert report.prefix == prefix
    assert (report.missing, report.unexpected, report.other_norms) == ((), (), ())
    assert report.loaded == len(as_published(saved, prefix))
    assert all(layer.initialized for layer in layers.values())
    assert all(attention.initialized for attention in quantized_attentions(network).values())
    assert torch.equal(run(network), wanted)
    assert not caplog.records


def test_a_network_that_was_initialized_before_forgets_it(
    vae: tuple[dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    state, wanted = vae
    torch.save(state, tmp_path / "ckpt.pth")
    network, layers, config = tiny("vae")
    decode(network)
    load_published(tmp_path / "ckpt.pth", network, layers, config)
    assert torch.equal(run(network), wanted)


def test_every_key_without_a_counterpart_is_told(
    vae: tuple[dict[str, Tensor], Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(vae[0])
    lost = ["decoder.conv_in.weight_quantizer_0.x_max", "encoder.mid.attn_1.q.offset"]
    for key in lost:
        del state[f"model.{key}"]
    norm = "model.encoder.norm_out.weight"
    state[norm] = state[norm] + 0.5
    strange = ["model.decoder.conv_in.weight", "loss.logvar", "model.model.quant_conv.offset"]
    state |= {key: torch.zeros(3) for key in strange}
    torch.save(state, tmp_path / "ckpt.pth")
    network, layers, config = tiny("vae")
    with caplog.at_level(logging.WARNING, "pipelines.passionsr.published"):
        report = load_published(tmp_path / "ckpt.pth", network, layers, config)
    assert set(report.missing) == set(lost)
    assert set(report.unexpected) == set(strange)
    assert report.other_norms == ("encoder.norm_out.weight",)
    assert "\n" not in report.summary
    for key in (*lost, *strange, "encoder.norm_out.weight", "2 missing", "3 unexpected"):
        assert key in report.listing
        assert key in caplog.text
    assert torch.equal(network.encoder.conv_norm_out.weight, state[norm])
    assert not layers["decoder.conv_in"].initialized
    assert layers["decoder.conv_out"].initialized


def full_size_vae() -> Iterator[tuple[str, tuple[int, int, int]]]:
    """LDM's name, inputs, outputs and kernel of every layer of the published VAE, by hand."""

    def resnet(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
        yield f"{name}.conv1", (inputs, outputs, 3)
        yield f"{name}.conv2", (outputs, outputs, 3)
        if inputs != outputs:
            yield f"{name}.nin_shortcut", (inputs, outputs, 1)

    widths = (128, 256, 512, 512)
    yield "quant_conv", (8, 8, 1)
    yield "post_quant_conv", (4, 4, 1)
    for half, ends in (("encoder", (3, 128, 512, 8)), ("decoder", (4, 512, 128, 3))):
        yield f"{half}.conv_in", (*ends[:2], 3)
        yield f"{half}.conv_out", (*ends[2:], 3)
        for part in ("q", "k", "v", "proj_out"):
            yield f"{half}.mid.attn_1.{part}", (512, 512, 1)
        yield from resnet(f"{half}.mid.block_1", 512, 512)
        yield from resnet(f"{half}.mid.block_2", 512, 512)
    for level, width in enumerate(widths):
        below, above = widths[max(level - 1, 0)], widths[min(level + 1, 3)]
        for block in range(2):
            inputs = width if block else below
            yield from resnet(f"encoder.down.{level}.block.{block}", inputs, width)
        for block in range(3):
            inputs = width if block else above
            yield from resnet(f"decoder.up.{level}.block.{block}", inputs, width)
        if level < 3:
            yield f"encoder.down.{level}.downsample.conv", (width, width, 3)
        if level > 0:
            yield f"decoder.up.{level}.upsample.conv", (width, width, 3)


def full_size_norms() -> dict[str, int]:
    shapes = dict(full_size_vae())
    norms = {}
    for name, (inputs, outputs, _) in shapes.items():
        if name.endswith("conv1"):
            norms[name.replace("conv1", "norm1")] = inputs
            norms[name.replace("conv1", "norm2")] = outputs
        if name.endswith("attn_1.q"):
            norms[name.replace(".q", ".norm")] = inputs
        if name.endswith("coder.conv_out"):
            norms[name.replace("conv_out", "norm_out")] = inputs
    return norms


def full_size_file(prefix: str) -> dict[str, Tensor]:
    state = {}
    for name, (inputs, outputs, _) in full_size_vae():
        state[f"{prefix}{name}.scale_factor"] = torch.full((1, inputs, 1, 1), 2.0)
        state[f"{prefix}{name}.offset"] = torch.zeros(1, inputs, 1, 1)
        for bound, value in (("x_min", -1.0), ("x_max", 1.0)):
            state[f"{prefix}{name}.bias_quantizer.{bound}"] = torch.tensor(value)
            state[f"{prefix}{name}.act_quantizer_0.{bound}"] = torch.tensor(value)
            weights = torch.full((outputs, 1, 1, 1), value)
            state[f"{prefix}{name}.weight_quantizer_0.{bound}"] = weights
    for name, channels in full_size_norms().items():
        state[f"{prefix}{name}.weight"] = torch.ones(channels)
        state[f"{prefix}{name}.bias"] = torch.zeros(channels)
    return state


def test_the_released_vae_layout_matches_in_all_680_keys(tmp_path: Path) -> None:
    state = full_size_file("model.")
    assert len(state) == 680
    offsets = [tensor for key, tensor in state.items() if key.endswith(".offset")]
    assert (len(offsets), sum(tensor.numel() for tensor in offsets)) == (72, 26_259)
    torch.save(state, tmp_path / "vae_ckpt_merge_saw_sep.pth")
    report = compare_published(tmp_path / "vae_ckpt_merge_saw_sep.pth", "vae")
    assert (report.loaded, report.prefix) == (680, "model.")
    assert (report.missing, report.unexpected) == ((), ())


def test_the_command_lists_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = full_size_file("model.model.")
    del state["model.model.encoder.down.1.block.0.nin_shortcut.offset"]
    torch.save(state, tmp_path / "vae.pth")

    assert main([str(tmp_path / "vae.pth"), "--kind", "vae"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert "679 tensors" in first
    assert "prefix 'model.model.'" in first
    assert rest == ["missing: encoder.down.1.block.0.nin_shortcut.offset"]
    assert main([str(tmp_path / "vae.pth"), "--kind", "unet"]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert "of the other component" in error


def broken(state: dict[str, Tensor], what: str) -> Any:
    key = "model.decoder.conv_in.act_quantizer_0.x_max"
    if what == "other widths":
        state["model.decoder.conv_in.scale_factor"] = torch.ones(1, 5, 1, 1)
    elif what == "nan":
        state[key] = torch.tensor(torch.nan)
    elif what == "bounds":
        state[key] = state[key.replace("x_max", "x_min")]
    elif what == "text":
        state[key] = "0.5"  # type: ignore[assignment]
    elif what == "another program":
        return {"state_dict": {"conv.weight": torch.zeros(1)}}
    elif what == "list":
        return [torch.zeros(1)]
    return state


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("other widths", r"decoder.conv_in.scale_factor is \[1, 5, 1, 1\], not \[1, 4, 1, 1\]"),
        ("nan", "act_quantizer_0.x_max holds NaN"),
        ("bounds", "act_quantizer_0.x_max is not above its lower bound"),
        ("text", "act_quantizer_0.x_max is no tensor"),
        ("another program", "none of its 1 keys names a layer"),
        ("list", "holds a list"),
    ],
)
def test_other_files_are_refused_and_nothing_is_loaded(
    what: str, message: str, vae: tuple[dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    torch.save(broken(dict(vae[0]), what), tmp_path / "ckpt.pth")
    network, layers, config = tiny("vae")
    with pytest.raises(PipelineError, match=message):
        load_published(tmp_path / "ckpt.pth", network, layers, config)
    assert not any(layer.initialized for layer in layers.values())


def test_a_missing_file_and_mode_fixed_are_refused(tmp_path: Path) -> None:
    network, layers, config = tiny("vae")
    with pytest.raises(PipelineError, match="no such file"):
        load_published(tmp_path / "none.pth", network, layers, config)
    fixed = Vae(config)
    layers = quantize_network(fixed, NetworkSettings(layer=LayerSettings(), kind="vae"))
    with pytest.raises(PipelineError, match="mode paper"):
        load_published(tmp_path / "none.pth", fixed, layers, config)
