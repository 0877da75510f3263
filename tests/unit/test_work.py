"""Work counters, exact against hand counts; tests/e2e/test_own_gates.py has the published ones."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.contract import stage
from pipelines.work import WorkCounter, note_call, note_transfer, replayed


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inference", [False, True])
def test_hand_counts(device: str, *, inference: bool) -> None:
    x = torch.ones(2, 8, 16, 16, device=device)
    weight = torch.ones(4, 8, 3, 3, device=device)
    tokens = torch.ones(1, 2, 64, 32, device=device)
    with torch.inference_mode(inference), WorkCounter() as counter:
        with stage("vae_encode"):
            F.conv2d(x, weight, padding=1)
        with stage("unet"):
            F.scaled_dot_product_attention(tokens, tokens, tokens)
            note_call("unet", 3)
        note_transfer(x)
    counts = counter.counts()
    assert counts.flops == {
        "vae_encode": 2 * 2 * 4 * 8 * 9 * 16 * 16,
        "unet": 2 * 2 * 2 * 64 * 64 * 32,
    }
    assert counts.launches == 2
    assert counts.calls == {"unet": 3}
    assert counts.host_device_bytes == 2 * 8 * 16 * 16 * 4


def test_peak_counts_what_lives_together_and_no_weights() -> None:
    weight = torch.ones(1000)
    with WorkCounter() as counter:
        a = weight + 1
        b = a * 2
        del a
        c = b + weight
        c.view(10, 100).add_(1)
        del b, c
    assert counter.counts().peak_tensor_bytes == 2 * 4000


def test_a_replayed_call_counts_every_time() -> None:
    def run(calls: int, *, replay: bool) -> tuple[int, int]:
        x = torch.ones(8, 8, device="meta")
        with WorkCounter() as counter:
            for _ in range(calls):
                if replay:
                    replayed("same", lambda: x @ x)
                else:
                    x @ x
        counts = counter.counts()
        return counts.total_flops, counts.launches

    assert run(5, replay=True) == run(5, replay=False) == (5 * 2 * 8**3, 5)


def test_numbers_are_never_replayed() -> None:
    x = torch.arange(3.0)
    with WorkCounter():
        first = replayed("key", lambda: x + 1)
        second = replayed("key", lambda: x + 2)
    assert torch.equal(first + 1, second)
