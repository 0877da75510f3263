"""Adapters of other people's checkouts: driven as scripts, by the worker protocol.

`Checkout` is a test double: modules with the names and signatures that the published checkout has,
and arithmetic that shows what it was given. The real ones were never run here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

import pipelines.external
from pipelines.contract import posterior_noise
from pipelines.s3diff.foreign_options import AuthorsOptions, LyraDiffOptions

HERE = Path(str(pipelines.external.__file__)).parent
IMAGE = np.random.RandomState(5).randint(0, 256, (20, 33, 3), dtype=np.uint8)
SCALE = 2
CHECKOUT = {
    "src/s3diff_tile.py": """
        import sys, types, torch
        vae = types.ModuleType("diffusers.models.autoencoders.vae")
        class DiagonalGaussianDistribution:
            def __init__(self, mean): self.mean, self.std = mean, torch.full_like(mean, 0.01)
            def sample(self, generator=None):
                return self.mean + self.std * torch.randn_like(self.mean)
        vae.DiagonalGaussianDistribution = DiagonalGaussianDistribution
        sys.modules["diffusers.models.autoencoders.vae"] = vae
        class S3Diff(torch.nn.Module):
            def __init__(self, sd_path=None, pretrained_path=None, lora_rank_unet=32,
                         lora_rank_vae=16, block_embedding_dim=64, args=None):
                super().__init__()
                print("a published program prints")
                assert (lora_rank_unet, lora_rank_vae) == (4, 2)
                assert args.latent_tiled_size == 48 and args.vae_decoder_tiled_size == 224
                self.guidance_scale = None
            def set_eval(self): self.eval()
            def forward(self, c_t, deg_score, pos_prompt, neg_prompt):
                assert c_t.shape[-1] % 64 == c_t.shape[-2] % 64 == 0
                assert len(pos_prompt) == len(neg_prompt) == 1 and self.guidance_scale == 1.05
                x = DiagonalGaussianDistribution(c_t).sample()
                return (x * (1 + deg_score.mean())).clamp(-1, 1)
        """,
    "src/de_net.py": """
        import torch
        class DEResNet(torch.nn.Module):
            def __init__(self, num_in_ch, num_degradation): super().__init__()
            def load_model(self, path): torch.load(path, weights_only=True)
            def forward(self, lr): return lr.mean(dim=(1, 2, 3))[:, None].repeat(1, 2) * 0.1
        """,
    "src/utils/__init__.py": "",
    "src/utils/wavelet_color.py": """
        def wavelet_color_fix(target, source):
            assert target.size == source.size and target.mode == source.mode == "RGB"
            return target
        """,
}


class Script:
    """An adapter in a process of its own, asked line by line."""

    def __init__(self, name: str, *python: str) -> None:
        command = [sys.executable, *python, str(HERE / name)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def ask(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**fields, "type": kind}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def begin(self, weights: Path, precision: str = "fp32", **options: str) -> dict[str, Any]:
        told = self.ask("describe", arm="a", pipeline="x", assignments={"": {}, "a": options})
        assert told["type"] == "described", told
        source = {"path": str(weights), "kind": "folder", "digest": "00", "synthetic": False}
        return self.ask("load", **source, device="cpu", precision=precision, gpu_uuid=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(json.dumps({"type": "exit"}) + "\n", timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in `src`, weights in the published layout and an input picture."""
    folder = tmp_path_factory.mktemp("authors")
    for name, text in CHECKOUT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    (folder / "sd-turbo").mkdir()
    torch.save({"rank_unet": 4, "rank_vae": 2}, folder / "s3diff.pkl")
    torch.save({}, folder / "de_net.pth")
    np.save(folder / "image.npy", IMAGE)
    return folder


@pytest.fixture(scope="module")
def authors(folder: Path) -> Iterator[Script]:
    with Script("s3diff_authors.py") as script:
        options = {"checkout": str(folder), "latent_tile": "48", "guidance": "1.05"}
        loaded = script.begin(folder, **options)
        assert loaded["type"] == "loaded", loaded
        yield script


def test_the_authors_networks_are_given_what_their_inference_gives(
    authors: Script, folder: Path
) -> None:
    prepared = authors.ask("prepare", height=20, width=33, scale=SCALE)
    assert "as in the other arms" in prepared["decisions"]["noise"]
    asked = {"image": str(folder / "image.npy"), "scale": SCALE, "outputs": str(folder / "out")}
    painted = authors.ask("paint", **asked, seed=7)
    lr = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255
    up = torch.nn.functional.interpolate(lr, size=(40, 66), mode="bilinear", align_corners=False)
    padded = torch.nn.functional.pad(up * 2 - 1, (0, 62, 0, 24), mode="reflect")
    latent = padded + 0.01 * posterior_noise(7, tuple(padded.shape))
    wanted = (latent * (1 + lr.mean() * 0.1)).clamp(-1, 1)[0, :, :40, :66] * 0.5 + 0.5
    levels = (wanted * 255).byte().permute(1, 2, 0).numpy()
    found = np.load(painted["picture"])
    assert found.shape == (40, 66, 3)
    assert np.abs(found.astype(int) - levels).max() <= 1
    assert (found == levels).mean() > 0.99
    again, other = (authors.ask("repaint", **asked, seed=seed) for seed in (7, 8))
    assert np.array_equal(np.load(folder / "out-picture.npy"), np.load(other["picture"]))
    assert again["picture_sha256"] != other["picture_sha256"]


def test_stages_are_told(authors: Script, folder: Path) -> None:
    timed = authors.ask("upscale", image=str(folder / "image.npy"), scale=SCALE, seed=1)
    assert set(timed["stages_ms"]) == {"preprocess", "postprocess", "color_fix"}


@pytest.mark.parametrize("script", ["s3diff_authors.py", "lyradiff.py"])
def test_an_interpreter_that_lacks_everything_is_a_sentence(script: str, folder: Path) -> None:
    library = folder / "lib.so"
    library.touch()
    (folder / "inference_s3.py").touch()
    (folder / "s3diff").mkdir(exist_ok=True)
    (folder / "s3diff" / "s3diff_tile.py").touch()
    own = {"library": str(library)} if script == "lyradiff.py" else {}
    with Script(script, "-S", "-E") as adapter:
        refused = adapter.begin(folder, checkout=str(folder), **own)
    assert refused["outcome"] == "unsupported"
    assert "cannot import torch (No module named 'torch')" in refused["reason"]
    assert "install what the checkout requires" in refused["reason"]


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with Script("s3diff_authors.py") as adapter:
        for options, said in (
            ({}, "--set s3diff-authors.checkout=PATH is missing"),
            ({"checkout": "/nowhere"}, "src/s3diff_tile.py is not there; name the checkout"),
        ):
            refused = adapter.begin(folder, **options)
            assert (refused["outcome"], said in refused["reason"]) == ("unsupported", True)
        refused = adapter.begin(tmp_path, checkout=str(folder))
        assert f"{tmp_path / 's3diff.pkl'}: missing; a weights folder" in refused["reason"]
        assert refused["outcome"] == "unsupported"
    with Script("lyradiff.py") as adapter:
        refused = adapter.begin(folder, checkout=str(folder), library="/no.so")
        assert "lyradiff.library=/no.so: no such file" in refused["reason"]


def test_the_light_options_are_those_of_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    authors, lyradiff = map(import_module, ("s3diff_authors", "lyradiff"))
    assert asdict(AuthorsOptions()) == authors.Authors.defaults
    assert asdict(LyraDiffOptions()) == lyradiff.LyraDiff.defaults


def test_lyradiffs_own_paths_are_found_in_the_weights_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE)
    redirected = import_module("lyradiff").redirected
    for name in ("s3diff.pkl", "unet/a.safetensors", "vae/b.safetensors"):
        path = tmp_path / (name if name.endswith("pkl") else f"sd-turbo/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for theirs, ours in (
        ("/app/weights/V2/s3diff.pkl", "s3diff.pkl"),
        ("/app/weights/sd-turbo/unet/a.safetensors", "sd-turbo/unet/a.safetensors"),
        ("/app/weights/sd-turbo/vae/b.fp16.safetensors", "sd-turbo/vae/b.safetensors"),
    ):
        assert redirected(theirs, tmp_path) == str(tmp_path / ours)
    assert redirected("/elsewhere/c.pth", tmp_path) == "/elsewhere/c.pth"


@pytest.mark.parametrize("name", ["checkout.py", "s3diff_authors.py", "lyradiff.py"])
def test_python_3_8_can_read_it(name: str) -> None:
    text = (HERE / name).read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 8))
    assert "from __future__ import annotations" in text
    assert len(text.splitlines()) < 250


def test_what_the_checkout_cannot_mirror_is_a_sentence(authors: Script, folder: Path) -> None:
    np.save(folder / "small.npy", IMAGE[:16, :16])
    refused = authors.ask("upscale", image=str(folder / "small.npy"), scale=SCALE, seed=1)
    assert refused["outcome"] == "unsupported"
    assert refused["reason"].startswith("32x32 px: the checkout mirrors an output")
