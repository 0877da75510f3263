"""Our file of a quantization: what is read back, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.contract import PipelineError
from pipelines.passionsr.checkpoint import (
    Expected,
    QuantizationFacts,
    load_quantization,
    read_facts,
    save_quantization,
)
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.lbq import Quantizer
from pipelines.passionsr.network import NetworkSettings, quantize_network, quantized_attentions
from pipelines.passionsr.settings import LayerSettings, Mode
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae
from tests.unit.test_passionsr_network import TINY, decode, encode, predict

Tensor = torch.Tensor
Layers = dict[str, dict[str, Any]]
DIGEST = hashlib.sha256(b"weights").hexdigest()
SETTINGS = LayerSettings(weight_bits=6, activation_bits=6)
FACTS = QuantizationFacts(
    weight_bits=6,
    activation_bits=6,
    mode="fixed",
    split=False,
    s_alpha=0.3,
    system="osediff",
    components=("unet", "vae"),
    method="dqc",
    weights_digest=DIGEST,
    calibration={"images": 4, "seed": 1, "losses": [0.5, 0.25]},
)
EXPECTED = Expected(settings=SETTINGS, system="osediff", weights_digest=DIGEST)


class Networks:
    """Tiny UNet and VAE, quantized."""

    def __init__(self, mode: Mode = "fixed", unet: dict[str, Any] | None = None) -> None:
        torch.manual_seed(31)
        self.unet = UNet(unet or TINY.unet, TIMESTEP).requires_grad_(False)
        self.vae = Vae(TINY.vae).requires_grad_(False)
        settings = [NetworkSettings(layer=SETTINGS, kind=kind) for kind in ("unet", "vae")]
        if mode == "paper":
            settings = [NetworkSettings.published(kind, 6) for kind in ("unet", "vae")]
        self.layers: Layers = {
            "unet": {**quantize_network(self.unet, settings[0])},
            "vae": {**quantize_network(self.vae, settings[1])},
        }
        self.layers["unet"] |= quantized_attentions(self.unet)

    def run(self) -> list[Tensor]:
        return [predict(self.unet), encode(self.vae), decode(self.vae)]


def learned(mode: Mode = "fixed") -> Networks:
    networks = Networks(mode)
    networks.run()
    for part in networks.layers.values():
        for layer in part.values():
            for parameter in (*layer.let_parameters(), *layer.bound_parameters()):
                parameter.data.mul_(torch.rand_like(parameter) * 0.2 + 0.9)
    return networks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor]]:
    networks = learned()
    path = tmp_path_factory.mktemp("made") / "new" / "osediff-w6a6.safetensors"
    save_quantization(path, networks.layers, FACTS)
    return path, networks.run()


@pytest.fixture
def file(made: tuple[Path, list[Tensor]], tmp_path: Path) -> Path:
    path = tmp_path / "copy.safetensors"
    path.write_bytes(made[0].read_bytes())
    return path


def rewrite(
    path: Path,
    tensors: Callable[[dict[str, Tensor]], object] = lambda _: None,
    header: Callable[[dict[str, Any]], object] = lambda _: None,
) -> None:
    content = load_file(path)
    with safe_open(path, framework="np") as opened:
        facts = json.loads(opened.metadata()["quantization"])
    tensors(content)
    header(facts)
    save_file(content, path, {"quantization": json.dumps(facts)})


def test_a_fresh_network_computes_the_same_to_the_last_bit(
    made: tuple[Path, list[Tensor]],
) -> None:
    networks = Networks()
    facts = load_quantization(made[0], networks.layers, EXPECTED)
    for found, wanted in zip(networks.run(), made[1], strict=True):
        assert torch.equal(found, wanted)
    assert replace(facts, architecture="") == FACTS
    assert len(bytes.fromhex(facts.architecture)) == 32


def test_mode_paper_comes_back_with_its_attention_and_its_zero_points(tmp_path: Path) -> None:
    """Its zero points depend on the bounds before they were learned, too."""
    facts = replace(FACTS, mode="paper", split=True)
    networks = learned("paper")
    wanted = networks.run()
    save_quantization(tmp_path / "q", networks.layers, facts)
    again = Networks("paper")
    again.run()  # what a network had before is forgotten
    settings = replace(SETTINGS, mode="paper", split=True)
    load_quantization(tmp_path / "q", again.layers, replace(EXPECTED, settings=settings))
    for found, expected in zip(again.run(), wanted, strict=True):
        assert torch.equal(found, expected)


def test_equal_layers_give_equal_bytes_and_no_leftovers(
    made: tuple[Path, list[Tensor]], tmp_path: Path
) -> None:
    save_quantization(tmp_path / "again", learned().layers, FACTS)
    assert (tmp_path / "again").read_bytes() == made[0].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o644


def test_the_header_tells_what_the_file_is_for_without_torch(file: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from pipelines.passionsr.facts import read_facts\n"
        "facts = read_facts(Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules\n"
        "print(facts.system, facts.weight_bits, facts.calibration['losses'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "osediff 6 [0.5, 0.25]"
    with safe_open(file, framework="np") as opened:
        header = json.loads(opened.metadata()["quantization"])
    assert header["granularity"].startswith("weights symmetric, one bound an output channel")
    assert header["version"] == 1


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            replace(EXPECTED, settings=LayerSettings()),
            "calibrated for weight bits 6, not 8",
        ),
        (
            replace(EXPECTED, settings=replace(SETTINGS, activation_bits=8)),
            "calibrated for activation bits 6, not 8",
        ),
        (
            replace(EXPECTED, settings=replace(SETTINGS, mode="paper")),
            "calibrated for mode fixed, not paper",
        ),
        (
            replace(EXPECTED, settings=replace(SETTINGS, split=True)),
            "calibrated for split False, not True",
        ),
        (replace(EXPECTED, system="s3diff"), "calibrated for system osediff, not s3diff"),
        (
            replace(EXPECTED, weights_digest="f" * 64),
            f"for the weights {DIGEST[:12]}, these are ffffffffffff; .* calibrate again",
        ),
    ],
)
def test_a_file_for_something_else_is_refused(
    file: Path, expected: Expected, message: str, networks: Networks
) -> None:
    with pytest.raises(PipelineError, match=message):
        load_quantization(file, networks.layers, expected)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Never loaded into: every test that shares it is refused."""
    return Networks()


def test_another_network_or_other_components_are_refused(file: Path, networks: Networks) -> None:
    wide = Networks(unet=TINY.unet | {"block_out_channels": [32, 32, 32, 64]})
    with pytest.raises(PipelineError, match="of other layers or widths"):
        load_quantization(file, wide.layers, EXPECTED)
    with pytest.raises(PipelineError, match=r"components unet\+vae, not unet;"):
        load_quantization(file, {"unet": networks.layers["unet"]}, EXPECTED)


SCALE = "vae.decoder.mid_block.resnets.0.conv1.scale_factor"
HIGH = "unet.mid_block.resnets.0.conv1.act_quantizer_0.x_max"


def lose(tensors: dict[str, Tensor]) -> None:
    del tensors[SCALE]


def reverse(tensors: dict[str, Tensor]) -> None:
    tensors[HIGH] = tensors[HIGH.replace("x_max", "x_min")] - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, f"{SCALE} is missing"),
        (lambda t: t.update(other=torch.zeros(1)), "other is unknown"),
        (lambda t: t.update({SCALE: t[SCALE][:, :3].clone()}), r"is \[1, 3, 1, 1\], not \[1, 8, 1"),
        (lambda t: t.update({HIGH: torch.tensor(torch.nan)}), f"{HIGH} holds NaN"),
        (lambda t: t.update({HIGH: torch.tensor(3)}), f"{HIGH} holds NaN or infinity, or no numb"),
        (lambda t: t.update({SCALE: -t[SCALE]}), f"{SCALE} is not positive"),
        (reverse, f"{HIGH} is not above its lower bound"),
        (lambda t: t.clear() or t.update(a=torch.zeros(1)), r"; .* and \d+ more; calibrate again"),
    ],
)
def test_tensors_that_no_calibration_gives_are_refused(
    file: Path, change: Callable[[dict[str, Tensor]], object], message: str, networks: Networks
) -> None:
    rewrite(file, change)
    with pytest.raises(PipelineError, match=message):
        load_quantization(file, networks.layers, EXPECTED)
    assert not any(layer.initialized for layer in networks.layers["vae"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop("version"), "does not say its version"),
        (lambda h: h.update(version=2), "version 2 of the format, where this program reads 1"),
        (lambda h: h.pop("mode"), "'mode'"),
        (lambda h: h.update(colour="red"), "colour"),
        (lambda h: h.update(weight_bits=16), "weight_bits is 16"),
        (lambda h: h.update(weight_bits="6"), "weight_bits is '6'"),
        (lambda h: h.update(components=["text_encoder"]), "components is"),
        (lambda h: h.update(components=3), "header is not as this program writes it"),
        (lambda h: h.update(method="magic"), "method is 'magic'"),
        (lambda h: h.update(weights_digest=None), "weights_digest is None"),
    ],
)
def test_headers_that_this_program_does_not_write_are_refused(
    file: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(file, header=change)
    with pytest.raises(PipelineError, match=message) as refused:
        read_facts(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_of_other_formats_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such file"):
        read_facts(tmp_path / "none")
    with pytest.raises(PipelineError, match="no such file"):
        read_facts(tmp_path)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(PipelineError, match="truncated or not a safetensors file"):
        read_facts(file)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(PipelineError, match="truncated or not a safetensors file"):
        read_facts(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(PipelineError, match="a safetensors file of something else"):
        read_facts(file)


def test_what_is_not_whole_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    fresh = Networks()
    with pytest.raises(PipelineError, match=r"unet\.down_blocks\S+ was never calibrated"):
        save_quantization(path, fresh.layers, FACTS)
    fresh.run()
    with pytest.raises(PipelineError, match=r"layers of unet\+vae with facts of unet"):
        save_quantization(path, fresh.layers, replace(FACTS, components=("unet",)))
    layer: QuantizedLayer = fresh.layers["unet"]["mid_block.resnets.0.conv1"]
    layer.offset.data[0, 0] = torch.nan
    with pytest.raises(PipelineError, match="offset holds NaN"):
        save_quantization(path, fresh.layers, FACTS)
    layer.offset.data.zero_()
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").write_text("")
    with pytest.raises(PipelineError, match="taken/q: cannot write"):
        save_quantization(tmp_path / "taken" / "q", fresh.layers, FACTS)


def test_loading_initializes_every_quantizer(made: tuple[Path, list[Tensor]]) -> None:
    networks = Networks()
    load_quantization(made[0], networks.layers, EXPECTED)
    for network in (networks.unet, networks.vae):
        found = [module for module in network.modules() if isinstance(module, Quantizer)]
        assert found
        assert all(quantizer.initialized for quantizer in found)
