"""The quantized pipelines keep `pipelines.contract.Pipeline`, on tiny seeded networks."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data

from pipelines.contract import PipelineError, Precision, Tier, WeightsSource
from pipelines.osediff.mini import derive
from pipelines.passionsr import install
from pipelines.passionsr.checkpoint import QuantizationFacts, save_quantization
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.network import NetworkSettings, plain_path, quantize_network
from pipelines.passionsr.published_pair import load_pair
from pipelines.work import WorkCounter
from srbench.errors import UsageError
from srbench.registry import BUILT_IN, load_pipeline, parse_options
from tests.tiny_s3diff import few_adapters, write_sane_weights
from tests.unit.test_passionsr_published import as_published

QUANTIZED = [name for name in BUILT_IN if "-w8a8" in name or "-w6a6" in name]
W8A8 = ("osediff-w8a8", "s3diff-w8a8")
SMALL: dict[str, dict[str, Any]] = {"osediff": {"process_size": 64}, "s3diff": {}}
"""Or every picture of OSEDiff would be enlarged to 512 pixels."""
IMAGE = np.ascontiguousarray(data.coffee()[100:116, 200:216])
PICTURES = [IMAGE, np.ascontiguousarray(data.coffee()[200:216, 300:316])]
Loaded = Callable[..., Any]


@pytest.fixture(scope="module", params=["osediff", "s3diff"])
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("weights")
    with torch.inference_mode():
        s3diff = write_sane_weights(place / "s3diff", few_adapters())
        derive(s3diff, place / "osediff", (0.5, 0.5))
    return {"s3diff": s3diff, "osediff": place / "osediff"}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Loaded:
    """A pipeline whose ranges, if they are taken at load, are of two small pictures."""
    kept: dict[str, Any] = {}

    def loaded(
        name: str, precision: Precision = Precision.FP32, digest: str = "tiny", **options: Any
    ) -> Any:
        options = {key: value for key, value in options.items() if value != "auto"}
        key = repr((name, precision, digest, sorted(options.items())))
        if key not in kept:
            kind, which = load_pipeline(name), name.partition("-")[0]
            kept[key] = kind(kind.Options(**SMALL[which], **options))
            source = WeightsSource(folders[which], "folder", digest, synthetic=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(install, "calibration_pictures", lambda: PICTURES)
                kept[key].load(source, torch.device("cpu"), precision)
        return kept[key]

    return loaded


def layers_of(pipeline: Any) -> dict[str, dict[str, QuantizedLayer]]:
    """What simulates, by component and path."""
    return {
        component: {
            plain_path(path): module
            for path, module in getattr(pipeline, component).named_modules()
            if isinstance(module, QuantizedLayer)
        }
        for component in ("unet", "vae")
    }


@pytest.mark.parametrize("name", QUANTIZED)
def test_declared_facts(name: str) -> None:
    kind = load_pipeline(name)
    assert kind.name == kind.Options.ARM == name
    assert kind.version
    assert set(kind.tiers) == set(kind.precisions) == {Precision.FP32, Precision.FP16}
    assert set(kind.tiers.values()) == {Tier.APPROX}
    assert f"w{kind.Options.BITS}a{kind.Options.BITS}" in name
    with pytest.raises(FrozenInstanceError):
        setattr(kind.Options(), fields(kind.Options)[0].name, None)


def test_options_need_no_torch() -> None:
    script = (
        "import sys; from srbench.registry import light_options as light;"
        f"all(map(light, {QUANTIZED})) or sys.exit(2); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("osediff-w8a8", {"fold_upsample": "true"}, "leave it false"),
        ("osediff-w8a8", {"fused_qkv": "true"}, "leave it false"),
        ("osediff-w8a8", {"merge_lora": "false"}, "leave it true"),
        ("s3diff-w8a8", {"merge_lora": "true"}, "s3diff-w8a8 .* leave it false"),
        ("s3diff-w8a8", {"half_weights": "false"}, "leave it true"),
        ("s3diff-w6a6", {"arithmetic": "int8"}, "no card multiplies 6 bits"),
        ("osediff-w6a6", {"arithmetic": "fp8"}, "tells accuracy only"),
        ("osediff-w8a8-maxmin", {"quantization": "a"}, "give the file to osediff-w8a8$"),
        ("osediff-w8a8", {"quantization": "unet.pth", "arithmetic": "int8"}, "simulated only"),
        ("s3diff-w8a8", {"quantization": "unet.pth"}, "PassionSR's files are of OSEDiff"),
        ("osediff-w8a8", {"arithmetic": "int4"}, "one of auto, simulated, int8, fp8"),
    ],
)
def test_options_that_cannot_be(name: str, values: dict[str, str], words: str) -> None:
    with pytest.raises((PipelineError, UsageError), match=words):
        parse_options(load_pipeline(name), values)


def observed(pipeline: Any, name: str) -> torch.Tensor:
    """An intermediate of the picture, double precision."""
    seen: list[torch.Tensor] = []
    pipeline.upscale_float(
        IMAGE, 4, seed=1, observe=lambda found, x: seen.append(x) if found == name else None
    )
    return seen[0].double()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2."""
    return float((a - b).norm() / b.norm())


def test_pictures(system: str, load: Loaded) -> None:
    pipeline = load(f"{system}-w8a8")
    before = IMAGE.copy()
    painted = pipeline.upscale_float(IMAGE, 4, seed=1)
    assert np.array_equal(IMAGE, before)
    assert (painted.shape, painted.dtype) == ((64, 64, 3), np.float32)
    picture = pipeline.upscale(IMAGE, 4, seed=1)
    assert np.array_equal((painted * np.float32(255)).astype(np.uint8), picture)
    assert np.array_equal(pipeline.upscale(IMAGE, 4, seed=1), picture)
    assert not np.array_equal(pipeline.upscale(IMAGE, 4, seed=2), picture)


def test_a_size_whose_only_tile_is_higher_than_wide_is_prepared(system: str, load: Loaded) -> None:
    load(f"{system}-optimized", fused_qkv=False).prepare(32, 16, 4)


def test_latents_come_near_those_of_full_precision(system: str, load: Loaded) -> None:
    """Behind the encoder: seeded weights have no picture, and x0 multiplies errors by 14.6."""
    exact = observed(load(f"{system}-optimized", fused_qkv=False), "latent_mean")
    errors = {
        bits: distance(observed(load(f"{system}-{bits}"), "latent_mean"), exact)
        for bits in ("w8a8", "w6a6")
    }
    assert 1e-5 < errors["w8a8"] < min(0.2, 0.5 * errors["w6a6"])


def test_integers_paint_what_is_simulated(system: str, load: Loaded) -> None:
    simulated, integers = (
        observed(load(f"{system}-w8a8", arithmetic=how), "latent_mean") for how in ("auto", "int8")
    )
    exact = observed(load(f"{system}-optimized", fused_qkv=False), "latent_mean")
    assert distance(integers, simulated) < 1e-5 < 1e-3 < distance(simulated, exact)


def test_multiply_adds_in_integers_are_those_of_the_bill(system: str, load: Loaded) -> None:
    # The bill has every layer once for each prompt.
    each = {"share_prefix": False} if system == "s3diff" else {}
    pipeline = load(f"{system}-w8a8", arithmetic="int8", **each)
    bill = pipeline.bill_of(16, 16, 4).total
    counted: Counter[str] = Counter()
    for operator in pipeline.work(16, 16, 4).operators:
        counted[operator.kind] += operator.flops * operator.count // 2
    convolutions = sum(bill.quantized_macs[kind] for kind in bill.macs if kind.startswith("conv"))
    assert counted["int8_conv"] == convolutions > 0
    assert counted["int8_linear"] == bill.quantized_macs["linear"] > 0


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [
        pytest.param("osediff-w8a8", "auto", marks=pytest.mark.full),
        *((name, "int8") for name in W8A8),
    ],
)
def test_work_on_the_meta_device_is_that_of_a_real_run(
    name: str, arithmetic: str, load: Loaded
) -> None:
    pipeline = load(name, arithmetic=arithmetic)
    with WorkCounter() as counter:
        pipeline.upscale(IMAGE, 4, seed=0)
    real, counted = counter.counts(), pipeline.work(16, 16, 4)
    assert counted.flops == real.flops
    assert counted.calls == real.calls


def test_decisions_tell_arithmetic_share_size_and_calibration(load: Loaded) -> None:
    said = load("osediff-w8a8").decisions(16, 16, 4)
    assert said["arithmetic"].startswith("simulated (int8 kernels need a card of sm80 or later; ")
    assert said["arithmetic"].endswith(" in simulated")
    assert "% of " in said["quantized"]
    assert "conv3x3 " in said["quantized"]
    assert " MB (fp16: " in said["model_size"]
    assert said["calibration"].endswith("at load, of 2 photographs of scikit-image")
    assert "neither smoothed" in load("osediff-w8a8-maxmin").decisions(16, 16, 4)["calibration"]
    forced = load("osediff-w8a8", arithmetic="int8").decisions(16, 16, 4)["arithmetic"]
    assert forced.startswith("int8 (cpu: ")
    assert forced.endswith("layers: " + forced.rpartition("layers: ")[2])
    assert " in int8" in forced


def test_the_unet_alone(load: Loaded) -> None:
    both, alone = (load("osediff-w8a8", **values) for values in ({}, {"components": "unet"}))
    assert layers_of(alone)["vae"] == {}
    assert layers_of(alone)["unet"].keys() == layers_of(both)["unet"].keys()
    assert 0 < alone.bill_of(16, 16, 4).share < both.bill_of(16, 16, 4).share < 1
    assert both.installed.became == {"simulated": sum(map(len, layers_of(both).values()))}


def test_adapters_of_an_image_stay_floating(load: Loaded) -> None:
    pipeline = load("s3diff-w8a8", arithmetic="int8")
    adapted = [m for m in pipeline.unet.modules() if hasattr(m, "modulation")]
    assert adapted
    assert all(module.down.dtype == torch.float32 for module in adapted)
    bases = {type(module.base).__name__ for module in adapted}
    assert "IntegerConv2d" in bases or "IntegerLinear" in bases


def test_in_fp16_only_what_is_not_quantized_is_rounded(system: str, load: Loaded) -> None:
    pipeline = load(f"{system}-w8a8", Precision.FP16)
    exact = load(f"{system}-w8a8")
    assert pipeline.unet.conv_in.__class__ is exact.unet.conv_in.__class__
    assert next(pipeline.unet.conv_in.parameters()).dtype == torch.float16
    for ends in (pipeline.unet.conv_out, pipeline.vae.quant_conv, pipeline.vae.encoder.conv_out):
        assert {p.dtype for p in ends.parameters()} == {torch.float32}
    for component, layers in layers_of(pipeline).items():
        for path, layer in layers.items():
            twin = layers_of(exact)[component][path]
            for name, value in layer.state_dict().items():
                assert torch.equal(value, twin.state_dict()[name]), (path, name)
    full = observed(load(f"{system}-optimized", fused_qkv=False), "latent_mean")
    halves, floats = (distance(observed(p, "latent_mean"), full) for p in (pipeline, exact))
    assert halves < 1.5 * floats


def save(pipeline: Any, path: Path, **changed: Any) -> Path:
    layers = layers_of(pipeline)
    facts = QuantizationFacts(
        weight_bits=pipeline.options.BITS,
        activation_bits=pipeline.options.BITS,
        mode="fixed",
        split=False,
        s_alpha=0.3,
        system=pipeline.system,
        components=("unet", "vae"),
        method="dqc",
        weights_digest="tiny",
        calibration={"images": 2},
    )
    save_quantization(path, layers, replace(facts, **changed))
    return path


def test_a_calibration_from_a_file(load: Loaded, tmp_path: Path) -> None:
    learned = load("osediff-w8a8")
    file = str(save(learned, tmp_path / "learned.safetensors"))
    found = load("osediff-w8a8", quantization=file)
    pictures = [each.upscale(IMAGE, 4, seed=3) for each in (learned, found)]
    assert np.array_equal(*pictures)
    said = found.decisions(16, 16, 4)["calibration"]
    assert said == "learned.safetensors (dqc, mode fixed, of 2 pictures)"
    alone = load("osediff-w8a8", quantization=file, components="unet")
    assert layers_of(alone)["vae"] == {}
    assert layers_of(alone)["unet"].keys() == layers_of(found)["unet"].keys()


def test_a_calibration_that_does_not_fit(load: Loaded, tmp_path: Path) -> None:
    pipeline = load("osediff-w8a8")
    file = save(pipeline, tmp_path / "right.safetensors")

    def refused(words: str, name: str = "osediff-w8a8", **options: Any) -> None:
        with pytest.raises(PipelineError, match=words) as error:
            load(name, **{"quantization": str(file), **options})
        assert "\n" not in str(error.value)

    refused("weights tiny, these are other; .*calibrate again", digest="other")
    refused("weight bits 8, not 6", name="osediff-w6a6")
    refused("system osediff, not s3diff", name="s3diff-w8a8")
    refused("no such file", quantization=str(tmp_path / "nowhere.safetensors"))
    file = save(pipeline, tmp_path / "other.safetensors", system="s3diff")
    refused("system s3diff, not osediff")
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:900])
    refused("truncated", quantization=str(tmp_path / "torn.safetensors"))


@pytest.mark.full
def test_the_files_of_passionsr_give_the_published_function(load: Loaded, tmp_path: Path) -> None:
    bare = {"fold_upsample": False, "fused_qkv": False, "fold_time": False, "cache_text_kv": False}
    published = load("osediff-optimized", **bare)
    image = np.ascontiguousarray(data.coffee()[100:132, 200:232])
    unet = tmp_path / "unet_ckpt_merge_saw_sep.pth"
    layers: dict[str, Any] = {}
    kind: Any
    with torch.inference_mode():
        for kind in ("unet", "vae"):
            network = getattr(published, kind)
            layers[kind] = quantize_network(network, NetworkSettings.published(kind, 8))
    wanted = published.upscale(image, 4, seed=1)
    for kind, those in layers.items():
        config = getattr(published.architecture, kind)
        state = as_published((getattr(published, kind), those, config), "model.")
        torch.save(state, unet.with_name(unet.name.replace("unet", kind)))
    found = load("osediff-w8a8", Precision.FP16, quantization=str(unet))
    assert np.array_equal(found.upscale(image, 4, seed=1), wanted)
    said = found.decisions(32, 32, 4)
    assert said["arithmetic"].startswith("simulated (mode paper: ")
    assert said["calibration"].count(" 0 missing, 0 unexpected, ") == 2
    assert found.bill_of(32, 32, 4).parts["unet"].quantized_macs["attention"] > 0
    assert found.work(32, 32, 4).flops
    networks = {"unet": found.unet, "vae": found.vae}
    configs = {"unet": found.architecture.unet, "vae": found.architecture.vae}
    state = torch.load(unet, weights_only=True)
    del state[next(key for key in state if key.endswith("act_quantizer_0.x_max"))]
    torch.save(state, tmp_path / "unet.pth")
    for path, words in (
        (tmp_path / "unet.pth", "lacks 1 scales and bounds"),
        (unet.rename(tmp_path / "unet_alone.pth"), "vae_alone.pth: no such file; put it there"),
        (tmp_path / "vae_ckpt_merge_saw_sep.pth", "has no 'unet'"),
    ):
        with torch.inference_mode(), pytest.raises(PipelineError, match=words):
            load_pair(path, networks, layers_of(found), configs)


@pytest.mark.full
def test_work_before_loading_is_of_the_published_size(system: str) -> None:
    kind: Any = load_pipeline(f"{system}-w8a8")
    counts = kind(kind.Options()).work(128, 128, 4)
    share: Counter[str] = Counter()
    for operator in counts.operators:
        share[operator.kind] += operator.flops * operator.count
    assert share["int8_conv"] > 0.6 * counts.total_flops
    assert counts.total_flops > 4e12
