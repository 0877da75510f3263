"""What the doctor finds on machines that are not here, through the driver's own function names."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srbench.config import Settings
from srbench.doctor import cpu_finding, examine, torch_finding
from srbench.doctor_card import (
    Finding,
    driver_finding,
    energy_finding,
    examine_card,
    require_driver,
    setting_findings,
    torch_cuda,
)
from srbench.errors import ExitCode, InfrastructureError
from srbench.nvml import Gpu
from srbench.preparation import prepare_run
from srbench.probes.card import CardSettings, card_settings
from tests.fake_nvml import GIB, HEALTHY, UUID, FakeNvml

A10 = Gpu(index=0, name="NVIDIA A10", uuid=UUID, memory_bytes=24 * GIB)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    fake.answers.update(HEALTHY)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def found() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine_card(A10, watch_s=0.05)}


def test_a_healthy_card_has_nothing_to_complain_of(card: FakeNvml) -> None:
    findings = found()
    assert {finding.word for finding in findings.values()} == {"ok"}
    assert findings["gpu"].detail == "NVIDIA A10, 24 GiB, profile a10"
    assert findings["power limit"].detail == "150 W"
    assert findings["PCIe link"].detail == "x16"
    assert findings["exclusive"].detail == "no other compute process, idle"
    assert findings["clock reasons"].detail == "61 °C, no slow-down"


@pytest.mark.parametrize(
    ("name", "answer", "what", "word", "text"),
    [
        ("nvmlDeviceGetApplicationsClock", 885, "clocks", "warn", "held at 885 MHz by a user"),
        ("nvmlDeviceGetEnforcedPowerLimit", 90_000, "power limit", "warn", "90 W instead of 150"),
        ("nvmlDeviceGetPersistenceMode", 0, "persistence mode", "warn", "off: .*-pm 1"),
        ("nvmlDeviceGetTotalEccErrors", 3, "ECC", "warn", "on, 3 uncorrected errors"),
        ("nvmlDeviceGetEccMode", [0, 0], "ECC", "ok", "off"),
        ("nvmlDeviceGetMigMode", [1, 1], "MIG", "warn", "on: an instance"),
        ("nvmlDeviceGetCurrPcieLinkWidth", 4, "PCIe link", "warn", "x4 of x16"),
        ("nvmlDeviceGetDisplayActive", 1, "display", "warn", "on: "),
        ("nvmlDeviceGetDisplayMode", 1, "display", "warn", "on: "),
        ("nvmlDeviceGetTotalEnergyConsumption", 7, "energy counter", "warn", "does not advance"),
        ("nvmlDeviceGetCurrentClocksEventReasons", 0x21, "clock reasons", "warn", "software therm"),
        ("nvmlDeviceGetCurrentClocksEventReasons", 0x1, "clock reasons", "ok", "no slow-down"),
        ("nvmlSystemGetCudaDriverVersion_v2", 9020, "driver", "bad", "supports CUDA 9.2.*update"),
        ("nvmlDeviceGetCudaComputeCapability", (7, 5), "compute capability", "warn", "7.5, below"),
        ("nvmlDeviceGetCudaComputeCapability", (8, 6), "compute capability", "ok", "^8.6$"),
        (
            "nvmlDeviceGetMemoryInfo",
            SimpleNamespace(total=24 * GIB, used=12 * GIB),
            "free memory",
            "warn",
            "12.0 of 24.0 GiB; somebody",
        ),
        (
            "nvmlDeviceGetUtilizationRates",
            SimpleNamespace(gpu=80, memory=3),
            "exclusive",
            "bad",
            "80 % busy though no foreign process is listed; wait",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    card: FakeNvml, name: str, answer: Any, what: str, word: str, text: str
) -> None:
    card.answers[name] = answer
    findings = found()
    assert findings[what].word == word
    assert re.search(text, findings[what].detail)
    others = {f.what for f in findings.values() if f.word != "ok"} - {what}
    assert not others


def test_a_foreign_process_is_bad(card: FakeNvml) -> None:
    card.list_processes((4242, GIB))
    finding = found()["exclusive"]
    assert finding.word == "bad"
    assert "pid 4242; wait for it or end it" in finding.detail


def test_a_card_that_tells_little_is_no_problem(card: FakeNvml) -> None:
    card.lacks(*HEALTHY, "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo")
    card.lacks(*(f"nvmlDeviceGetComputeRunningProcesses_{version}" for version in ("v2", "v3")))
    findings = found()
    assert card_settings(UUID) == CardSettings()
    assert findings["PCIe link"] == Finding("PCIe link", "ok", "not told by the driver")
    assert findings["energy counter"].word == findings["exclusive"].word == "warn"
    assert not [finding for finding in findings.values() if finding.word == "bad"]


def test_a_card_that_is_gone_is_bad(card: FakeNvml) -> None:
    gone = Gpu(index=1, name="NVIDIA A10", uuid="GPU-gone", memory_bytes=GIB)
    findings = {finding.what: finding for finding in examine_card(gone)}
    assert findings["gpu state"].word == "bad"
    assert all(finding.word == "ok" for finding in setting_findings(CardSettings()))


@pytest.mark.parametrize(
    ("driver_cuda", "built_for", "word"),
    [
        ("13.0", "13.0", "ok"),
        ("12.2", "12.8", "ok"),
        ("13.1", "12.8", "ok"),
        ("12.8", "13.0", "bad"),
        ("12.8", "", "bad"),
        ("12.8", None, "bad"),
        (None, "13.0", "warn"),
    ],
)
def test_torch_and_the_driver(driver_cuda: str | None, built_for: str | None, word: str) -> None:
    assert driver_finding("580", driver_cuda, built_for).word == word


@pytest.mark.parametrize("gpu", ["auto", "a10"])
def test_a_run_refuses_a_driver_too_old(card: FakeNvml, tmp_path: Path, gpu: str) -> None:
    card.answers["nvmlSystemGetCudaDriverVersion_v2"] = 11040
    built_for = torch_cuda()
    if not built_for:
        pytest.skip("torch is a build without CUDA here")
    with pytest.raises(InfrastructureError) as refusal:
        require_driver(A10)
    assert refusal.value.exit_code == ExitCode.INFRASTRUCTURE
    text = str(refusal.value)
    assert f"driver 580.65.06 supports CUDA 11.4, this torch needs {built_for}" in text
    assert "update the driver" in text
    assert "\n" not in text
    with pytest.raises(InfrastructureError, match=r"supports CUDA 11\.4"):
        prepare_run(Settings(gpu=gpu, out=tmp_path / "results"), lambda _: None)
    assert not (tmp_path / "results").exists()


def test_a_driver_that_fits_is_let_through(card: FakeNvml) -> None:
    card.answers["nvmlSystemGetCudaDriverVersion_v2"] = 99000
    require_driver(A10)
    card.lacks("nvmlSystemGetCudaDriverVersion_v2")
    require_driver(A10)


def test_a_card_that_torch_does_not_see_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = torch_finding(A10)
    assert finding.word == "bad"
    assert finding.detail.startswith("the driver shows NVIDIA A10, torch says: ")


def test_what_torch_is_built_for_is_read_without_it() -> None:
    import torch

    assert torch_cuda() == (torch.version.cuda or "")


def test_energy_counter() -> None:
    assert [energy_finding(*pair).word for pair in ((1, 2), (2, 2), (None, 2))] == [
        "ok",
        "warn",
        "warn",
    ]


@pytest.mark.parametrize(
    ("cores", "load", "word"), [(2, 0.9, "ok"), (2, 1.2, "warn"), (1, 0.0, "warn")]
)
def test_a_cpu_that_others_use(cores: int, load: float, word: str) -> None:
    finding = cpu_finding("EPYC", cores, load, 2)
    assert finding.word == word
    assert f"load {load}" in finding.detail


def test_the_whole_machine(card: FakeNvml, tmp_path: Path) -> None:
    findings = {finding.what: finding for finding in examine(Settings(out=tmp_path / "results"))}
    assert findings["gpu"].detail.startswith("NVIDIA A10")
    assert findings["results folder"].word == "ok"
    assert findings["results disk"].detail.endswith("free for results")
    assert {"python", "torch", "cpu", "weights", "lpips weights", "disk", "MIG"} <= set(findings)


def test_results_under_a_file_are_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = list(examine(Settings(out=tmp_path / "file" / "results")))
    assert [f.word for f in findings if f.what == "results folder"] == ["bad"]
    assert "results disk" not in {finding.what for finding in findings}
