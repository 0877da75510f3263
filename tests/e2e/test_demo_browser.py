"""The demo in a real browser: a picture in, two out, errors in words, nothing from afar."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from pipelines.contract import Precision
from srbench.demo.session import Question, Session
from srbench.errors import ExitCode
from srbench.systems import resolve_weights

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed"),
]

PAIR = ("s3diff-baseline", "s3diff-optimized")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1000")
    options.page_load_strategy = "eager"
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo; afterwards Ctrl-C ended it in one line and it left nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "srbench", "demo", "--weights", "mini", "--device", "cpu"]
    with (tmp_path / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            [*command, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            yield process
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    said = (tmp_path / "stderr").read_text()
    assert said.splitlines()[-1] == "srbench: interrupted"
    assert "Traceback" not in said
    assert code == ExitCode.INTERRUPTED
    assert list(scratch.glob("srbench-*")) == []


@pytest.fixture
def page(demo: subprocess.Popen[str], chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """The page; afterwards nobody but the demo was asked for anything."""
    assert demo.stdout is not None
    line = demo.stdout.readline()
    assert line.startswith("demo: http://127.0.0.1:"), (tmp_path / "stderr").read_text()
    address = line.split()[1]
    chromium.get(address)
    yield chromium
    messages = [json.loads(line["message"])["message"] for line in chromium.get_log("performance")]
    requested = {
        urlsplit(message["params"]["request"]["url"])
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url.scheme for url in requested} <= {"http", "data", "blob"}
    asked = {url.netloc for url in requested if url.scheme == "http"}
    assert asked == {urlsplit(address).netloc}
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def _all(page: Any, selector: str) -> list[Any]:
    found: list[Any] = page.find_elements(By.CSS_SELECTOR, selector)
    return found


def _wait(page: Any, selector: str, number: int = 1) -> list[Any]:
    """Elements of a selector, once there are so many that are shown."""

    def shown(page: Any) -> list[Any]:
        found = [element for element in _all(page, selector) if element.is_displayed()]
        return found if len(found) >= number else []

    found: list[Any] = WebDriverWait(page, PATIENCE_S, poll_frequency=0.1).until(shown)
    return found


def _upload(page: Any, file: Path) -> None:
    _wait(page, "#run")
    for remove in _all(page, "#picture button[aria-label='Remove Image']"):
        remove.click()
    inputs = WebDriverWait(page, PATIENCE_S).until(
        lambda page: _all(page, "#picture input[type=file]")
    )
    inputs[0].send_keys(str(file))
    _wait(page, "#picture img")


def _run(page: Any) -> None:
    _wait(page, "#run")[0].click()


def _picture(address: str) -> NDArray[np.uint8]:
    with urlopen(address) as response, Image.open(BytesIO(response.read())) as picture:
        return np.asarray(picture.convert("RGB"))


def _expected(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What B paints of a photograph at x2."""
    session = Session(resolve_weights(PAIR, "mini", "cpu"), "cpu", Precision.FP32)
    question = Question((PAIR[1], PAIR[1]), 2, 0, {"color_fix": "adain"})
    return session.run(photo, question, lambda text: None).b.pixels


@pytest.mark.full  # half a minute; tests/unit/test_demo*.py ask the same session
def test_a_photograph_and_a_picture_that_is_too_small(page: Any, tmp_path: Path) -> None:
    photo = np.ascontiguousarray(data.astronaut()[60:92, 200:232])
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(photo[:8, :8]).save(tmp_path / "tiny.png")

    _upload(page, tmp_path / "photo.png")
    number = _wait(page, "#scale input[type=number]")[0]
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("2", Keys.TAB)
    page.find_element(By.CSS_SELECTOR, "#color-fix input[value=adain]").click()
    _run(page)
    expected = _expected(photo)
    _wait(page, ".srbench-times")
    shown = {
        Path(urlsplit(image.get_attribute("src")).path).name: image
        for image in _wait(page, "#a-b img", 2)
    }
    for arm, name in zip("AB", PAIR, strict=True):
        image = shown[f"photo-x2-{arm}-{name}.png"]
        assert image.get_property("naturalWidth") == 64
        pixels = _picture(image.get_attribute("src"))
        # The baseline sums in another order, as does another number of threads.
        assert np.abs(pixels.astype(int) - expected).max() <= (3 if arm == "A" else 1)
    handle = _wait(page, "#a-b .outer")[0]
    left = handle.location["x"]
    ActionChains(page).drag_and_drop_by_offset(handle, 60, 0).perform()
    assert handle.location["x"] == pytest.approx(left + 60, abs=3)
    summary = page.find_element(By.CSS_SELECTOR, "#summary").text
    assert "PSNR between A and B" in summary or "identical" in summary
    assert "vae_decode" in summary
    assert page.find_element(By.CSS_SELECTOR, "#png-B").is_enabled()
    said = page.find_element(By.TAG_NAME, "body").text
    assert ("Synthetic weights" in said) is resolve_weights(PAIR, "mini", "cpu").synthetic

    _wait(page, "button.gallery-item")[0].click()
    _wait(page, "#picture img[src*=astronaut]")
    _upload(page, tmp_path / "tiny.png")
    _run(page)
    toast = _wait(page, "[data-testid=toast-text]")[0]
    assert toast.text == "the picture is 8x8 pixels; sides must be at least 16 pixels"
    assert _all(page, "#a-b img") == []  # no picture of another input beside an error
