"""Seeded weights: equal everywhere, readable, and sane on photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage import data

from pipelines.contract import PipelineError
from pipelines.s3diff.calibrate import calibrate, calibrated, photograph
from pipelines.s3diff.recipe import Ends, Recipe, recipe
from pipelines.s3diff.synthesize import byte_vocabulary, draw, synthesize, tensor, write_safetensors
from pipelines.s3diff.weights import check_folder


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "weights"
    synthesize(folder, recipe("small"))
    return folder


def test_draws_have_unit_variance_and_depend_on_name_and_seed() -> None:
    values = draw("unet.conv_in.weight", (64, 64, 3, 3), 0)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert np.array_equal(values, draw("unet.conv_in.weight", (64, 64, 3, 3), 0))
    assert not np.array_equal(values, draw("unet.conv_in.weight", (64, 64, 3, 3), 1))
    assert not np.array_equal(values, draw("unet.conv_out.weight", (64, 64, 3, 3), 0))


def test_values_are_the_same_on_every_machine() -> None:
    plan = Recipe("small", 0, recipe("small").architecture, Ends.neutral())
    parts = [
        tensor(plan, "unet", "conv_in.weight", (32, 4, 3, 3)),
        tensor(plan, "vae", "encoder.conv_norm_out.weight", (32,)),
        tensor(plan, "state_dict_vae", "encoder.conv_in.lora_B.vae_skip.weight", (16, 4, 1, 1)),
    ]
    digest = hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in parts)).hexdigest()
    assert digest == "c41fb0439cbffe44b5f92173fefac194904e3f7fd662b858186a2b8da11435f0"


def test_the_written_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    wanted = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float32)}
    shapes = {name: values.shape for name, values in wanted.items()}
    write_safetensors(tmp_path / "x.safetensors", shapes, iter(wanted.items()))
    found = load_file(tmp_path / "x.safetensors")
    assert {k: v.numpy().tolist() for k, v in found.items()} == {
        k: v.tolist() for k, v in wanted.items()
    }


def test_the_folder_passes_its_own_check(mini: Path) -> None:
    assert check_folder(mini) == []


def test_the_tokenizer_covers_every_byte(mini: Path) -> None:
    from transformers import CLIPTokenizer

    words = byte_vocabulary()
    assert len(words) == 514
    assert sorted(words.values()) == list(range(514))
    tokenizer = CLIPTokenizer.from_pretrained(mini / "sd-turbo" / "tokenizer")
    ids = tokenizer("Hé 8K", padding="max_length", max_length=77).input_ids
    assert len(ids) == 77
    assert ids[0] == words["<|startoftext|>"]
    assert ids[1] == words["h"]
    assert ids[-1] == 0


def test_digest_follows_the_recipe() -> None:
    assert recipe("small").digest == recipe("small", 0).digest
    assert len({recipe("small").digest, recipe("small", 1).digest, recipe("full").digest}) == 3


@pytest.mark.parametrize("photo", ["astronaut", "coffee"])
def test_mini_is_sane_on_photographs(mini: Path, photo: str) -> None:
    """Constants found anew on weights that have them already are close to one."""
    pixels = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.adaptive_avg_pool2d(pixels, 64)
    ends = calibrate(mini, image)
    for scale in (ends.latent_scale, ends.eps_scale, ends.image_scale):
        assert all(0.6 < factor < 1.6 for factor in scale)
    assert all(abs(bias) < 0.2 for bias in ends.image_bias)
    assert all(abs(bias) < 0.02 for bias in ends.eps_bias)


@pytest.mark.full
def test_other_seeds_are_calibrated(tmp_path: Path) -> None:
    plan = calibrated("small", 7, tmp_path)
    assert plan.ends != recipe("small").ends
    synthesize(tmp_path / "seven", plan)
    again = calibrate(tmp_path / "seven", photograph(128))
    found = (*again.latent_scale, *again.eps_scale, *again.image_scale)
    assert found == pytest.approx([1.0] * 11, abs=0.02)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot write the weights"):
        synthesize(tmp_path / "file" / "weights", recipe("small"))
