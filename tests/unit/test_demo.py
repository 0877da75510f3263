"""The demo without its page: what is computed, what is said, and how it is served."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

from pipelines.contract import STAGES, PipelineError, Precision, WeightsSource
from srbench.cli.demo import demo
from srbench.demo import server, session
from srbench.demo.choices import fit_options, pipelines_of
from srbench.demo.session import Painted, Question, Result, Session, compare
from srbench.demo.summary import summary_html
from srbench.errors import InfrastructureError, UsageError
from srbench.registry import load_pipeline
from srbench.systems import S3DIFF, SRDIFF, resolve_weights

PAIR = ("s3diff-baseline", "s3diff-optimized")
CHOSEN = {"color_fix": "adain", "guidance": "1.10", "latent_tile": "64", "latent_overlap": "16"}


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    return np.ascontiguousarray(data.astronaut()[60:92, 200:232])


@pytest.fixture(scope="module")
def mini() -> WeightsSource:
    return resolve_weights(PAIR, "mini", "cpu")


@pytest.fixture(scope="module")
def open_session(mini: WeightsSource) -> Session:
    return Session(mini, "cpu", Precision.FP32)


def silent(text: str) -> None:
    pass


def test_both_pictures_are_the_pipelines_own_with_the_chosen_options(
    open_session: Session, mini: WeightsSource, photo: NDArray[np.uint8]
) -> None:
    before = {**CHOSEN, "color_fix": "none", "guidance": "1.00", "latent_overlap": "48"}
    other = open_session.run(photo, Question((PAIR[1], PAIR[1]), 2, 3, before), silent)
    assert other.difference is not None
    assert math.isinf(other.difference.psnr_db)
    result = open_session.run(photo, Question(PAIR, 2, 3, CHOSEN), silent)
    kind: Any = load_pipeline("s3diff-optimized")
    pipeline = kind(
        kind.Options(color_fix="adain", guidance=1.1, latent_tile=64, latent_overlap=16)
    )
    pipeline.load(mini, torch.device("cpu"), Precision.FP32)
    np.testing.assert_array_equal(result.b.pixels, pipeline.upscale(photo, 2, seed=3))
    assert result.a.pixels.shape == (64, 64, 3)
    assert result.difference is not None
    assert result.difference.psnr_db > 50
    for painted in (result.a, result.b):
        assert painted.is_first
        assert {"unet", "vae_decode", "color_fix"} <= painted.stages_ms.keys() <= set(STAGES)
        assert 0 < sum(painted.stages_ms.values()) <= painted.latency_ms
    assert result.a.load_ms is not None
    again = open_session.run(photo, Question(PAIR, 2, 3, CHOSEN), silent)
    assert (again.a.load_ms, again.b.load_ms) == (None, None)
    assert not again.b.is_first
    np.testing.assert_array_equal(again.b.pixels, result.b.pixels)


def test_two_pipelines_are_kept_and_the_one_used_longest_ago_goes(
    mini: WeightsSource, photo: NDArray[np.uint8]
) -> None:
    opened = Session(mini, "cpu", Precision.FP32)
    first, second, third = (
        f"tests.fixtures_pipelines:{n}" for n in ("Bicubic", "Killed", "Hanging")
    )

    def loads(a: str, b: str, **values: str) -> list[bool]:
        found = opened.run(photo, Question((a, b), 1, 0, values), silent)
        return [painted.load_ms is not None for painted in (found.a, found.b)]

    assert loads(first, second) == [True, True]
    assert loads(first, first) == [False, False]
    assert loads(first, third) == [False, True]
    assert loads(third, first) == [False, False]
    assert loads(first, second) == [False, True]
    assert loads(first, second, filter="lanczos") == [True, True]


def test_refusals_cost_no_loading(open_session: Session, photo: NDArray[np.uint8]) -> None:
    def refused(image: NDArray[np.uint8], question: Question, words: str) -> None:
        said: list[str] = []
        with pytest.raises((UsageError, PipelineError), match=words):
            open_session.run(image, question, said.append)
        assert said == []

    refused(photo[:8, :9], Question(PAIR, 2, 0, {}), "9x8 pixels; sides must be at least 16")
    refused(photo, Question(PAIR, 9, 0, {}), "whole number from 1 to 8")
    refused(photo, Question(PAIR, 2, 0, {"color_fix": "sepia"}), "expected one of wavelet")
    tiles = {"latent_tile": "16", "latent_overlap": "16"}
    refused(photo, Question(PAIR, 2, 0, tiles), "must be smaller than latent_tile")
    refused(photo, Question((PAIR[0], "s3diff-fast"), 2, 0, {}), "unknown")


def test_too_little_memory_is_said_before_and_after(
    mini: WeightsSource, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    starved = "tests.fixtures_pipelines:Starved"
    small = Session(mini, "cpu", Precision.FP32)
    # Its option makes the fixture run out of memory in the middle of the picture.
    question = Question((starved, starved), 2, 0, {"break_on": "32"})
    with pytest.raises(InfrastructureError, match=r"out of memory on cpu \(no room for 9 GiB\)"):
        small.run(photo, question, silent)
    fine = Question((starved, starved), 2, 0, {})
    painted = small.run(photo, fine, silent).a
    assert painted.load_ms is not None  # all was unloaded
    monkeypatch.setattr(session, "free_memory", lambda device: 2**20)
    large = np.zeros((256, 512, 3), np.uint8)
    with pytest.raises(InfrastructureError, match=r"512x256 by 2 needs about .* are free on cpu"):
        small.run(large, fine, silent)


def test_a_precision_that_a_pipeline_lacks(mini: WeightsSource, photo: NDArray[np.uint8]) -> None:
    name = "tests.fixtures_pipelines:Bicubic"
    with pytest.raises(UsageError, match="computes in fp32, not in fp16"):
        Session(mini, "cpu", Precision.FP16).run(photo, Question((name, name), 2, 0, {}), silent)


def test_options_that_a_pipeline_lacks_or_is_named_for_are_left_alone() -> None:
    values = {**CHOSEN, "latent_tile": "96"}
    options, remarks = fit_options("s3diff-baseline", values)
    assert remarks == ()
    assert (options.guidance, options.latent_tile, options.color_fix) == (1.1, 96, "adain")
    options, remarks = fit_options("s3diff-tile128", values)
    assert remarks == ("s3diff-tile128 keeps its own tile size of 128.",)
    assert (options.guidance, options.latent_tile) == (1.1, 128)
    options, remarks = fit_options("srdiff-optimized", values)
    assert options == type(options)()
    assert remarks == tuple(
        f"srdiff-optimized has no {words}: ignored."
        for words in ("colour fix", "guidance", "tile size", "tile overlap")
    )


def test_pipelines_of_a_system() -> None:
    names = pipelines_of(S3DIFF)
    assert names[0] == "s3diff-baseline"
    assert {"s3diff-optimized", "s3diff-tile128"} <= set(names)
    assert not any(name.startswith("srdiff") for name in names)
    assert pipelines_of(SRDIFF)[0] == "srdiff-baseline"


def test_difference() -> None:
    grey = np.full((4, 5, 3), 100, np.uint8)
    off = grey.copy()
    off[0, 0] = 90
    found = compare(grey, off)
    assert found is not None
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / (100 / 20)), abs=1e-4)
    assert (found.largest, found.equal_share) == (10, pytest.approx(0.95))
    equal = compare(grey, grey.copy())
    assert equal is not None
    assert math.isinf(equal.psnr_db)
    assert compare(grey, grey[:3]) is None


def painted(name: str, load_ms: float | None) -> Painted:
    pixels = np.zeros((16, 16, 3), np.uint8)
    stages = {"unet": 30.0, "preprocess": 1.5}
    return Painted(name, pixels, 40.0, stages, load_ms, 2.0, load_ms is not None, ("<b> & c.",))


def test_the_summary_tells_times_in_order_and_escapes() -> None:
    a, b = painted("one", 1234.5), painted("<two>", None)
    page = summary_html(Result(a, b, compare(a.pixels, b.pixels)), ["x.png: onto white."])
    assert "identical" in page
    assert page.index("preprocess") < page.index("unet") < page.index("total")
    assert page.count("30.0") == 2
    assert "1234.5" in page
    assert page.count("still loaded") == 1
    assert page.count("&lt;b&gt; &amp; c.") == 1
    assert "<two>" not in page
    assert "x.png: onto white." in page
    assert "from A: its time includes" in page
    assert "no PSNR" in summary_html(Result(a, b, None))


def test_a_taken_port_and_a_foreign_host_are_one_line() -> None:
    with server.open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert server.address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UsageError, match=f"--port {port} on 127.0.0.1: .*in use"):
            server.open_socket("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"--port 0 on 203\.0\.113\.1"):
        server.open_socket("203.0.113.1", 0)
    if socket.has_ipv6:
        with server.open_socket("::1", 0) as six:
            assert server.address(six).startswith("http://[::1]:")


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pipelines": "s3diff-baseline"}, "expected two names"),
        ({"pipelines": "s3diff-baseline,srdiff-baseline"}, "take different weights"),
        ({"pipelines": "s3diff-baseline,s3diff-optimised"}, "Did you mean 's3diff-optimized'"),
        ({"precision": "int8"}, "expected fp32 or fp16"),
        ({"device": "tpu"}, "expected cpu, cuda or auto"),
        ({"weights": "nowhere"}, "no such weights folder"),
    ],
)
def test_bad_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, PipelineError), match=words):
        demo(**{"device": "cpu", "port": 0, **given})


def test_without_gradio_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        assert name == "gradio"

    finder: Callable[[str], None] = missing
    monkeypatch.setattr(server, "find_spec", finder)
    with pytest.raises(UsageError, match="pip install 'gradio>=6'") as error:
        demo(port=0)
    assert "\n" not in str(error.value)


def test_the_styles_are_in_the_package(project_root: Path) -> None:
    styles = (project_root / "srbench/demo/page.css").read_text(encoding="utf-8")
    assert "http" not in styles
    assert "@import" not in styles
