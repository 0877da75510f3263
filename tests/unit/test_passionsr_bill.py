"""Sizes and multiply-adds against the specification's table, and against counts by hand."""

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.diffusion.lora import AdaptedLayer, LoraPair, wrap_layers
from pipelines.passionsr.bill import (
    KINDS,
    Bill,
    as_table,
    bill,
    folded_costs,
    main,
    priced,
    published_plan,
)
from pipelines.passionsr.claims import (
    adapter_parameters,
    published_savings,
    text_encoder_macs,
    text_encoder_parameters,
)
from pipelines.passionsr.costs import Inputs, Part, PartCost, part_costs, unet_cost, vae_cost
from pipelines.passionsr.network import NetworkSettings, planned_layers, quantizable_layers
from pipelines.passionsr.settings import LayerSettings
from pipelines.stable_diffusion.architecture import published_json
from pipelines.stable_diffusion.options import TIMESTEP, OneStepOptions
from pipelines.stable_diffusion.unet import UNet
from tests.tiny_s3diff import tiny_architecture

UNET, VAE = published_json("unet/config.json"), published_json("vae/config.json")
TINY = tiny_architecture()
SMALL = Inputs.untiled(64, 64)
PERCENT = 0.01


@pytest.fixture(scope="module")
def costs() -> dict[Any, PartCost]:
    return part_costs(UNET, VAE, SMALL)


@pytest.fixture(scope="module")
def paper(costs: Any) -> Bill:
    return priced(costs, published_plan(LayerSettings(mode="paper")), {})


@pytest.mark.parametrize(
    ("part", "gmacs", "parameters", "shares"),
    [
        ("unet", 402.1, 865.7, (49.1, 0.7, 2.2, 32.3, 15.7)),
        ("encoder", 558.3, 34.2, (90.2, 5.2, 0.8, 0.8, 3.1)),
        ("decoder", 1257.3, 49.5, (96.9, 0.0, 1.4, 0.3, 1.4)),
    ],
)
def test_the_specifications_cost_model(
    paper: Bill, part: Any, gmacs: float, parameters: float, shares: tuple[float, ...]
) -> None:
    found = paper.parts[part]
    macs = sum(found.macs.values())
    assert macs / 1e9 == pytest.approx(gmacs, rel=PERCENT)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=PERCENT)
    by_kind = [100 * found.macs[kind] / macs for kind in KINDS]
    assert by_kind == pytest.approx([*shares, 0.0], abs=0.06)


def test_the_total_and_the_untiled_unet(paper: Bill, costs: Any) -> None:
    assert sum(paper.total.macs.values()) / 1e9 == pytest.approx(2217.7, rel=PERCENT)
    assert paper.total.parameters / 1e6 == pytest.approx(949.6, rel=PERCENT)
    layers = costs["unet"].layers.values()
    convolutions = sum(layer.weights for layer in layers if layer.kind != "linear")
    assert convolutions / 1e6 == pytest.approx(564, rel=PERCENT)
    linear = sum(layer.weights for layer in layers if layer.kind == "linear")
    assert linear / 1e6 == pytest.approx(301, rel=PERCENT)
    large = unet_cost(UNET, {(128, 128): 1})
    macs = large.attention_macs + sum(layer.macs for layer in large.layers.values())
    assert macs / 1e9 == pytest.approx(2337.5, rel=PERCENT)
    assert large.attention_macs / macs == pytest.approx(0.422, abs=0.001)


@pytest.mark.parametrize(
    ("bits", "parameters", "operations"), [(8, 0.817, 0.753), (6, 0.863, 0.814)]
)
def test_the_published_savings_are_bit_widths(
    costs: Any, bits: int, parameters: float, operations: float
) -> None:
    found = published_savings(costs, bits)
    assert found.parameters == pytest.approx(parameters, abs=0.001)
    assert found.operations == pytest.approx(operations, abs=0.001)
    assert found.bytes == pytest.approx(949.6e6 * bits / 8, rel=0.001)


def test_what_the_published_savings_leave_out(costs: Any) -> None:
    config = published_json("text_encoder/config.json")
    assert text_encoder_parameters(config) / 1e6 == pytest.approx(340.4, rel=0.001)
    assert text_encoder_macs(config) / 1e9 == pytest.approx(2240 - 2217.7, rel=0.02)
    assert adapter_parameters({"unet": costs["unet"]}) / 1e6 == pytest.approx(4.056, rel=0.001)
    halves = {part: costs[part] for part in ("encoder", "decoder")}
    assert adapter_parameters(halves) / 1e6 == pytest.approx(0.369, rel=0.001)


def test_the_text_encoder_is_counted_as_it_is_built() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = TINY.text_encoder
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    assert text_encoder_parameters(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("bits", [8, 6])
def test_quantized_weights_have_the_bytes_of_their_bits(costs: Any, bits: int) -> None:
    settings = LayerSettings(weight_bits=bits, activation_bits=bits, mode="paper")
    total = priced(costs, published_plan(settings), {}).total
    assert total.code_bytes == pytest.approx(949.6e6 * bits / 8, rel=PERCENT)
    assert total.code_bytes < total.quantized_bytes < 1.02 * total.code_bytes
    # Of attention, the products of the UNet are quantized and those of the VAE are not.
    floating = sum(cost.attention_macs for part, cost in costs.items() if part != "unet")
    assert sum(total.quantized_macs.values()) == sum(total.macs.values()) - floating
    # Beside the layers there are norms, in fp16; the end layers have 8 bits in any setting.
    norms = sum(cost.parameters for cost in costs.values()) - sum(
        layer.weights + layer.outputs * layer.biased
        for cost in costs.values()
        for layer in cost.layers.values()
    )
    assert total.floating_bytes == 2 * norms
    ends = 320 * 1280 + 4 * 320 * 9 + (512 * 8 + 128 * 3) * 9 + 8 * 8 + 4 * 4
    assert total.code_bytes == total.quantized_parameters * bits // 8 + ends * (8 - bits) // 8


def test_the_deployed_form_leaves_out_constants_and_keeps_ends_floating(costs: Any) -> None:
    folded = folded_costs(costs)
    found = priced(folded, published_plan(LayerSettings()), {})
    gone = set(costs["unet"].layers) - set(folded["unet"].layers)
    assert len(gone) == 2 + 22 + 32
    constant = sum(costs["unet"].layers[path].macs for path in gone)
    assert constant / 1e9 == pytest.approx(1.97 + 0.05, abs=0.05)
    unet = found.parts["unet"]
    assert sum(unet.macs.values()) == 402_128_732_160 - constant
    ends = [folded["unet"].layers[path] for path in ("conv_in", "conv_out")]
    assert [layer.macs for layer in ends] == [4096 * 36 * 320, 4096 * 2880 * 4]
    floating = unet.macs["attention"] + sum(layer.macs for layer in ends)
    assert sum(unet.macs.values()) - sum(unet.quantized_macs.values()) == floating
    assert found.share == pytest.approx(0.955, abs=0.001)
    assert found.total.quantized_bytes < 0.51 * 2 * found.total.parameters


def test_scales_and_bounds_are_counted_as_they_are_stored() -> None:
    """One 3x3 convolution of the tiny decoder: 8 -> 8 channels with a bias."""
    path = "decoder.up_blocks.3.resnets.0.conv1"

    cost: dict[Part, PartCost] = {"decoder": vae_cost(TINY.vae, "decoder", {(4, 4): 1})}

    def scales(settings: LayerSettings) -> tuple[int, int]:
        part = priced(cost, {"vae": {path: settings}}, {}).parts["decoder"]
        return part.code_bytes, part.scale_bytes

    # scale and shift of 8 inputs, 8 biases, 2 bounds of the input, a bound of each output
    assert scales(LayerSettings()) == (8 * 8 * 9, 4 * (16 + 8 + 2 + 8))
    assert scales(LayerSettings(split=True)) == (8 * 8 * 9, 4 * (16 + 8 + 4 + 16))
    assert scales(LayerSettings(mode="paper")) == (8 * 8 * 9, 4 * (16 + 8 + 2 + 16))
    assert scales(LayerSettings(weight_bits=6))[0] == 8 * 8 * 9 * 6 // 8


def test_adapters_on_their_own_path_are_counted() -> None:
    inputs = Inputs({(8, 16): 2}, {(64, 128): 1}, {(8, 16): 1})
    with torch.device("meta"):
        plain, adapted = (UNet(TINY.unet, TIMESTEP).requires_grad_(False) for _ in range(2))
        pairs = {}
        for path, layer in quantizable_layers(plain):
            if "attentions" in path and "attn2.to_k" not in path and "attn2.to_v" not in path:
                outputs, fan_in = layer.weight.shape
                pairs[path] = LoraPair(torch.empty(4, fan_in), torch.empty(outputs, 4))
            elif path.endswith("conv2"):
                outputs, channels, *kernel = layer.weight.shape
                down = torch.empty(4, channels, *kernel)
                pairs[path] = LoraPair(down, torch.empty(outputs, 4, 1, 1))
        wrap_layers(adapted, pairs, 2.0, Mixing)
        latent = torch.empty(2, 4, 8, 16)
        text = torch.empty(1, 77, TINY.unet["cross_attention_dim"])
    flops = []
    for network in (plain, adapted):
        with FlopCounterMode(display=False) as counter:
            network(latent, network.text_keys_values(text), share_prefix=False)
        flops.append(counter.get_total_flops() // 2)
    ranks = {"unet": dict.fromkeys(pairs, 4)}
    plan = {
        "unet": planned_layers(TINY.unet, NetworkSettings(layer=LayerSettings(), kind="unet")),
    }
    found = bill(TINY.unet, TINY.vae, plan, inputs, folded=True, ranks=ranks)
    part = found.parts["unet"]
    assert part.macs["adapter"] == flops[1] - flops[0]
    assert part.quantized_macs["adapter"] == 0
    without = bill(TINY.unet, TINY.vae, plan, inputs, folded=True)
    numbers = sum(pair.down.numel() + pair.up.numel() for pair in pairs.values())
    assert part.parameters - without.parts["unet"].parameters == numbers
    assert part.floating_bytes - without.parts["unet"].floating_bytes == 2 * numbers
    assert found.share < without.share
    assert not sum(found.parts["decoder"].quantized_macs.values())


class Mixing(AdaptedLayer):
    """With a rank x rank product a position, as S3Diff's modulation is."""

    def mixed(self, low: torch.Tensor) -> torch.Tensor:
        channels = 1 if low.dim() == 4 else -1
        matrix = torch.empty(4, 4, device=low.device)
        return (low.movedim(channels, -1) @ matrix).movedim(-1, channels)


def test_tiles_and_prompts_are_counted_each() -> None:
    options = OneStepOptions(
        vae_encoder_tile=64, vae_decoder_tile=8, latent_tile=16, latent_overlap=8
    )
    inputs = Inputs.tiled(24, 40, options, prompts=2)
    assert inputs.unet == {(16, 16): 2 * 2 * 4}
    assert sum(inputs.encoder.values()) > 1
    one = bill(TINY.unet, TINY.vae, {}, Inputs.untiled(16, 16), folded=True).parts["unet"]
    many = bill(TINY.unet, TINY.vae, {}, inputs, folded=True).parts["unet"]
    assert many.macs == {kind: 16 * count for kind, count in one.macs.items()}
    whole = Inputs.tiled(64, 64, OneStepOptions())
    assert whole == Inputs.untiled(64, 64)


def test_the_command_prints_a_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bits", "6", "--size", "256x128", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["parts"]) == {"unet", "encoder", "decoder"}
    assert content["total"]["code_bytes"] == content["total"]["quantized_parameters"] * 6 // 8
    assert 0.9 < content["share"] < 1
    assert content["as_published"]["bytes"] == pytest.approx(949.6e6 * 6 / 8, rel=0.001)
    assert 0.862 < content["as_published"]["parameters"] < 0.863


def test_the_table_has_a_row_a_part(paper: Bill) -> None:
    head, *rows = as_table(paper).splitlines()
    assert [row.split()[0] for row in rows] == ["unet", "encoder", "decoder", "total"]
    assert "402.1" in rows[0].split()
    assert "2217.7" in rows[3].split()
    assert head.split()[-1] == "quantized"


def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bits", "9"]) == 2
    assert capsys.readouterr().err == "weight_bits is 9: give a whole number from 2 to 8\n"
    for size in ("512", "12x512", "512x513", "axb"):
        with pytest.raises(SystemExit):
            main(["--size", size])
        assert f"'{size}'" in capsys.readouterr().err
