"""Reading checkpoints: layouts, and one line that names what is wrong with a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.contract import PipelineError
from pipelines.srdiff import SRDiff
from pipelines.srdiff.checkpoint import (
    Tensors,
    read_checkpoint,
    read_encoder,
    read_tensors,
    write_checkpoint,
)
from pipelines.srdiff.config import Config
from tests.golden.srdiff_recipe import golden_tensors

SMALL = Config(hidden_size=4, dim_mults=(1, 2, 2, 4), rrdb_features=2, rrdb_blocks=2, timesteps=5)
TENSORS = golden_tensors(SMALL)
COND = "denoise_fn.cond_proj.weight"
BIAS = "rrdb.HRconv.bias"


def published(tensors: Tensors) -> dict[str, Any]:
    return {"global_step": 7, "optimizer_states": [{}], "state_dict": {"model": tensors}}


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "zip.ckpt": lambda path: torch.save(published(TENSORS), path),
    "legacy.ckpt": lambda path: torch.save(
        published(TENSORS), path, _use_new_zipfile_serialization=False
    ),
    "prefixed.ckpt": lambda path: torch.save(
        {"state_dict": {f"model.{name}": tensor for name, tensor in TENSORS.items()}}, path
    ),
    "flat.pth": lambda path: torch.save(TENSORS, path),
    "half.pth": lambda path: torch.save({k: v.half() for k, v in TENSORS.items()}, path),
    "file.safetensors": lambda path: save_file(TENSORS, path),
    "own.ckpt": lambda path: write_checkpoint(path, TENSORS, step=7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    path = tmp_path / layout
    LAYOUTS[layout](path)
    found = read_checkpoint(path)
    assert found.config == SMALL
    precision = 1e-3 if layout == "half.pth" else 0
    for prefix, part in (("", found.buffers), ("denoise_fn.", found.unet), ("rrdb.", found.rrdb)):
        for name, tensor in part.items():
            wanted = TENSORS[prefix + name]
            torch.testing.assert_close(tensor, wanted, rtol=precision, atol=precision / 10)
    assert len(found.buffers) + len(found.unet) + len(found.rrdb) == len(TENSORS)


def test_a_linear_schedule_is_recognised(tmp_path: Path) -> None:
    linear = Config(**{**_fields(SMALL), "schedule": "linear"})
    write_checkpoint(tmp_path / "x.ckpt", golden_tensors(linear), step=1)
    assert read_checkpoint(tmp_path / "x.ckpt").config == linear


def _fields(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Config.__dataclass_fields__}


def changed(**tensors: torch.Tensor | None) -> Tensors:
    """The checkpoint with some tensors replaced; None takes one away."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    merged: dict[str, torch.Tensor | None] = {**TENSORS, **named}
    return {name: tensor for name, tensor in merged.items() if tensor is not None}


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (changed(rrdb__HRconv__bias=None), f"{BIAS}: missing"),
    "surplus": (changed(extra=torch.zeros(1)), "extra: unknown"),
    "attention": (
        changed(denoise_fn__mid_attn__fn__g=torch.zeros(1)),
        "denoise_fn.mid_attn.fn.g: unknown",
    ),
    "shape": (
        changed(rrdb__HRconv__bias=torch.zeros(3)),
        f"{BIAS}: [3] where [2] is expected",
    ),
    "not finite": (
        changed(rrdb__HRconv__bias=torch.tensor([0, torch.nan])),
        f"{BIAS}: NaN or infinite values",
    ),
    "tables": (
        changed(alphas_cumprod=TENSORS["alphas_cumprod"][:3]),
        "alphas_cumprod: [3] where [5] is expected",
    ),
    "many": (
        {name: tensor for name, tensor in TENSORS.items() if "RRDB_trunk" not in name},
        "rrdb.RRDB_trunk.0.RDB1.conv1.weight: missing; ",
    ),
    "no network": (
        changed(denoise_fn__cond_proj__weight=None),
        f"tensor '{COND}' is missing: this is no SRDiff checkpoint",
    ),
    "dimensions": (
        changed(denoise_fn__cond_proj__weight=torch.zeros(())),
        f"{COND} or another tensor that tells the configuration has the wrong dimensions",
    ),
    "dimensions of another": (
        changed(rrdb__conv_first__weight=torch.zeros(())),
        "has the wrong dimensions",
    ),
    "widths": (
        changed(denoise_fn__downs__1__0__block1__block__1__weight=torch.zeros(5, 4, 3, 3)),
        "level widths [4, 5, 8, 16] are no multiples of 4",
    ),
    "no width": (
        changed(denoise_fn__cond_proj__weight=torch.zeros(2, 0, 8, 8)),
        "level widths [4, 8, 8, 16] are no multiples of 0",
    ),
    "scale": (
        changed(denoise_fn__cond_proj__weight=torch.zeros(2, 4, 6, 6)),
        "scale 3: SRDiff is trained for 2, 4 or 8",
    ),
    "sparse": (
        changed(rrdb__HRconv__bias=torch.zeros(2).to_sparse()),
        f"holds '{BIAS}', which is no plain tensor",
    ),
    "s3diff": (
        {"rank_unet": 32, "unet_lora_target_modules": ["conv"], "state_dict_unet": {}},
        "holds 'rank_unet', which is no plain tensor",
    ),
    "nothing": ({}, "holds nothing; state_dict -> model -> tensors is expected"),
    "a list": ([1, 2], "holds list, not named tensors"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_contents_are_named(kind: str, tmp_path: Path) -> None:
    content, message = WRONG[kind]
    path = tmp_path / "x.ckpt"
    torch.save(content, path)
    assert message in refusal(path)


def refusal(path: Path, **expected: Any) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(PipelineError) as refused:
        read_checkpoint(path, **expected)
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_only_a_few_problems_are_listed(tmp_path: Path) -> None:
    torch.save(WRONG["many"][0], tmp_path / "x.ckpt")
    line = refusal(tmp_path / "x.ckpt")
    missing = len(TENSORS) - len(WRONG["many"][0])
    assert line.count("missing") == 3
    assert line.endswith(f"and {missing - 3} more")


@pytest.mark.parametrize("layout", ["zip.ckpt", "legacy.ckpt", "file.safetensors"])
def test_truncated_files_are_refused_wherever_they_end(layout: str, tmp_path: Path) -> None:
    path = tmp_path / layout
    LAYOUTS[layout](path)
    whole = path.read_bytes()
    for length in {0, 1, 2, 11, 100, 5000, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        reasons = ("truncated or damaged", "another format", "refused")
        assert any(reason in refusal(path) for reason in reasons)


def test_damaged_legacy_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    """A flipped byte makes the unpickler fail in any way: lookups, assertions, struct errors."""
    path = tmp_path / "x.ckpt"
    LAYOUTS["legacy.ckpt"](path)
    whole = path.read_bytes()
    random = torch.Generator().manual_seed(0)
    refusals = []
    for place in torch.randint(3000, (60,), generator=random).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_checkpoint(path)
        except PipelineError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(line.startswith(f"{path}: ") for line in refusals)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_text("state_dict: no\n")
    assert "no checkpoint (a text file or another format)" in refusal(path)
    assert "no such checkpoint file" in refusal(tmp_path)
    assert "no such checkpoint file" in refusal(tmp_path / "gone.ckpt")


class _Runs:
    """What unpickles to a call of a program's choice."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path) -> None:
    path, trace = tmp_path / "x.ckpt", tmp_path / "trace"
    for write in (
        lambda: torch.save(published({"a": _Runs(trace)}), path),  # type: ignore[dict-item]
        lambda: path.write_bytes(pickle.dumps(_Runs(trace))),
    ):
        write()
        assert "refused, the pickle asks for more than tensors" in refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(_Runs(trace)))
    assert trace.exists(), "the file would have run"


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"hidden_size": 64}, "hidden_size is 4 in this checkpoint, not 64"),
        ({"dim_mults": (1, 2, 3, 4)}, "dim_mults is (1, 2, 2, 4) in this checkpoint, not"),
        ({"scale": 8}, "scale is 4 in this checkpoint, not 8"),
        ({"hidden_size": 4, "rrdb_blocks": 8}, "rrdb_blocks is 2 in this checkpoint, not 8"),
    ],
)
def test_a_checkpoint_of_another_configuration(
    expected: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, TENSORS, step=1)
    assert message in refusal(path, **expected)
    with pytest.raises(PipelineError, match="in this checkpoint"):
        SRDiff.from_checkpoint(path, **expected)


def test_expectations_that_hold_or_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, TENSORS, step=1)
    model = SRDiff.from_checkpoint(path, hidden_size=4, dim_mults=[1, 2, 2, 4])
    assert model.config == SMALL
    with pytest.raises(PipelineError, match="hidden: no setting of an SRDiff network"):
        SRDiff.from_checkpoint(path, hidden=4)


def test_an_encoder_is_read_from_its_own_or_a_whole_checkpoint(tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole.ckpt", tmp_path / "alone.ckpt"
    write_checkpoint(whole, TENSORS, step=1)
    encoder = {k.removeprefix("rrdb."): v for k, v in TENSORS.items() if k.startswith("rrdb.")}
    torch.save({"state_dict": {f"model.{k}": v for k, v in encoder.items()}}, alone)
    for path in (whole, alone):
        found = read_encoder(path, SMALL)
        assert found.keys() == encoder.keys()
        assert all(torch.equal(found[name], encoder[name]) for name in encoder)
    wider = Config(**{**_fields(SMALL), "rrdb_features": 4})
    with pytest.raises(PipelineError, match=r"conv_first.weight: \[2, 3, 3, 3\] where"):
        read_encoder(alone, wider)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.ckpt"
    write_checkpoint(path, TENSORS, step=7)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_checkpoint(path, {"a": (lambda: 0)}, step=8)  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert torch.load(path, weights_only=True)["global_step"] == 7
    assert read_tensors(path).keys() == TENSORS.keys()
