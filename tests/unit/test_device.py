"""Which cards a pipeline is loaded on, and what is said of those without the fused kernels."""

import pytest
import torch

from pipelines.contract import PipelineError
from pipelines.stable_diffusion.device import Card, check_device, require_code

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "has_kernels"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_kernels_need_sm80(capability: tuple[int, int], *, has_kernels: bool) -> None:
    card = Card("NVIDIA T4", capability)
    assert card.has_kernels is has_kernels
    assert card.remark.startswith(f"NVIDIA T4 (sm{capability[0]}{capability[1]})")
    assert ("older than sm80" in card.remark) is not has_kernels


def test_a_cpu_has_no_kernels_and_is_fine() -> None:
    card = check_device(torch.device("cpu"))
    assert not card.has_kernels
    assert "cpu" in card.remark


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 3), (12, 1)])
def test_a_card_with_code_of_its_generation_runs(capability: tuple[int, int]) -> None:
    require_code(Card("a card", capability), CUDA_13)


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (11, 0), (13, 0)])
def test_a_card_without_code_is_refused_in_one_line(capability: tuple[int, int]) -> None:
    with pytest.raises(PipelineError) as refusal:
        require_code(Card("NVIDIA P40", capability), CUDA_13)
    text = str(refusal.value)
    assert text.startswith(f"NVIDIA P40 (sm{capability[0]}{capability[1]}): torch ")
    assert "sm75, sm80, sm86, sm90, sm100, sm120" in text
    assert "\n" not in text


def test_later_cards_run_what_the_driver_compiles() -> None:
    require_code(Card("a card", (13, 0)), [*CUDA_13, "compute_120"])
    with pytest.raises(PipelineError):
        require_code(Card("a card", (8, 0)), ["sm_90", "compute_90"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_torch_cannot_use_is_refused_in_one_line() -> None:
    with pytest.raises(PipelineError, match="device cuda: torch ") as refusal:
        check_device(torch.device("cuda"))
    assert "\n" not in str(refusal.value)
