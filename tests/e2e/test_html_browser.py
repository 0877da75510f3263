"""The HTML page in a real browser, opened from disk as a reader would."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from srbench.report import write_report
from tests.factories import make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.action_builder import ActionBuilder  # noqa: E402
from selenium.webdriver.common.actions.pointer_input import PointerInput  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

pytestmark = pytest.mark.e2e

BLUE, RED, GREEN, MAGENTA = (20, 60, 200), (200, 60, 20), (20, 180, 60), (255, 0, 255)
"""Baseline, candidate, a mark in the candidate, and the difference of the first two times eight."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--window-size=1200,1000")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page whose arms have a plain colour each, so that a screenshot tells which is where."""
    out = tmp_path_factory.mktemp("reports")
    run = make_run(cases=["64x64x2", "96x64x2", "48x32x4"])
    candidate = np.full((64, 64, 3), RED, np.uint8)
    candidate[40:48, 40:48] = GREEN
    crops = {
        "input": _png(np.full((16, 16, 3), 128, np.uint8)),
        "baseline": _png(np.full((64, 64, 3), BLUE, np.uint8)),
        "candidate": _png(candidate),
    }
    fidelity = [replace(record, crops=crops) for record in run.fidelity]
    write_report([replace(run, fidelity=fidelity)], out)
    return (out / "cpu.html").as_uri()


@pytest.fixture
def page(chromium: Any, address: str) -> Any:
    """The page, freshly loaded; afterwards nothing was requested and no error was logged."""
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.get(address)
    yield chromium
    messages = [json.loads(line["message"])["message"] for line in chromium.get_log("performance")]
    requested = {
        message["params"]["request"]["url"].partition("#")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in requested if not url.startswith("data:")} == {address}
    assert chromium.get_log("browser") == []


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _viewer(page: Any) -> tuple[WebElement, WebElement, WebElement]:
    """The first viewer, its pictures and its slider, in view."""
    viewer = page.find_element(By.CSS_SELECTOR, ".viewer")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    panes = viewer.find_element(By.CSS_SELECTOR, ".panes")
    return viewer, panes, viewer.find_element(By.CSS_SELECTOR, "input[type=range]")


def _shot(panes: WebElement) -> NDArray[np.int64]:
    with Image.open(BytesIO(panes.screenshot_as_png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int64)


def _is(pixels: NDArray[np.int64], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.abs(pixels - np.array(color)).max(axis=-1) <= 6


def _boundary(panes: WebElement) -> float:
    """Share of the width, from the left, that shows the baseline, clear of labels and handle."""
    row = _shot(panes)
    row = row[int(0.9 * len(row))]
    blue, red = _is(row, BLUE), _is(row, RED)
    assert not (blue & red).any()
    if blue.any() and red.any():
        assert np.flatnonzero(blue).max() < np.flatnonzero(red).min()
    return float(blue.sum() / (blue.sum() + red.sum()))


def _green_box(panes: WebElement) -> tuple[int, int, int, int]:
    """Left, top, width and height of the mark on the screen."""
    rows, columns = np.nonzero(_is(_shot(panes), GREEN))
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1


def test_the_slider_moves_by_keyboard(page: Any) -> None:
    _, panes, slider = _viewer(page)
    assert _boundary(panes) == pytest.approx(0.5, abs=0.02)
    slider.send_keys(Keys.ARROW_RIGHT * 20)
    assert slider.get_property("value") == "70"
    assert slider.get_attribute("aria-valuetext") == "divider at 70 per cent"
    assert _boundary(panes) == pytest.approx(0.7, abs=0.02)
    slider.send_keys(Keys.HOME)
    assert _boundary(panes) == pytest.approx(0.0, abs=0.02)
    slider.send_keys(Keys.END)
    assert _boundary(panes) == pytest.approx(1.0, abs=0.02)
    outline = page.execute_script("return getComputedStyle(arguments[0]).outlineStyle", slider)
    assert outline != "none"


def test_the_divider_follows_the_mouse(page: Any) -> None:
    _, panes, slider = _viewer(page)
    width = panes.size["width"]
    mouse = ActionChains(page).move_to_element(panes).click_and_hold()
    mouse.move_by_offset(-width // 4, 30).release().perform()
    assert float(slider.get_property("value")) == pytest.approx(25, abs=1.5)
    assert _boundary(panes) == pytest.approx(0.25, abs=0.02)
    ActionChains(page).move_by_offset(width // 3, 0).perform()
    assert _boundary(panes) == pytest.approx(0.25, abs=0.02)
    ActionChains(page).move_to_element_with_offset(panes, int(0.3 * width), 90).click().perform()
    assert _boundary(panes) == pytest.approx(0.8, abs=0.02)


def test_the_divider_follows_a_finger(page: Any) -> None:
    _, panes, _ = _viewer(page)
    box = page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", panes)
    finger = ActionBuilder(page, mouse=PointerInput("touch", "finger"))
    y = int(box["top"] + 0.6 * box["height"])
    finger.pointer_action.move_to_location(int(box["left"] + 0.5 * box["width"]), y).pointer_down()
    finger.pointer_action.move_to_location(int(box["left"] + 0.6 * box["width"]), y)
    finger.pointer_action.move_to_location(int(box["left"] + 0.75 * box["width"]), y).pointer_up()
    finger.perform()
    assert _boundary(panes) == pytest.approx(0.75, abs=0.02)


def test_zoom_and_pan_by_buttons_keys_and_mouse(page: Any) -> None:
    viewer, panes, slider = _viewer(page)
    slider.send_keys(Keys.HOME)
    left, top, width, height = _green_box(panes)
    assert width == pytest.approx(panes.size["width"] / 8, abs=2)
    viewer.find_element(By.CSS_SELECTOR, "[data-zoom=in]").click()
    readout = viewer.find_element(By.CSS_SELECTOR, "output")
    assert readout.text == "2×"
    _, _, twice, _ = _green_box(panes)
    assert twice == pytest.approx(2 * width, abs=2)
    before = _green_box(panes)
    panes.send_keys(Keys.ARROW_RIGHT)
    assert _green_box(panes)[0] == pytest.approx(before[0] - 40, abs=1)
    panes.send_keys(Keys.ARROW_DOWN)
    assert _green_box(panes)[1] == pytest.approx(before[1] - 40, abs=1)
    low = int(0.4 * panes.size["height"])
    mouse = ActionChains(page).move_to_element_with_offset(panes, 60, low).click_and_hold()
    mouse.move_by_offset(-20, -30).release().perform()
    moved = _green_box(panes)
    assert moved[0] == pytest.approx(before[0] - 60, abs=1)
    assert moved[1] == pytest.approx(before[1] - 70, abs=1)
    assert slider.get_property("value") == "0"
    panes.send_keys("+++++")
    assert readout.text == "8×"
    panes.send_keys("-")
    assert readout.text == "4×"
    panes.send_keys("0")
    assert readout.text == "1×"
    slider.send_keys(Keys.HOME)
    assert _green_box(panes) == (left, top, width, height)


def test_difference_and_input_views(page: Any) -> None:
    viewer, panes, _ = _viewer(page)
    difference, lr = (
        viewer.find_element(By.CSS_SELECTOR, f"[data-view={name}]")
        for name in ("difference", "input")
    )
    difference.click()
    assert difference.get_attribute("aria-pressed") == "true"
    shot = _shot(panes)
    assert _is(shot, MAGENTA).mean() > 0.9
    lr.click()
    assert difference.get_attribute("aria-pressed") == "false"
    assert _is(_shot(panes), (128, 128, 128)).mean() > 0.9
    panes.send_keys("d")
    assert _is(_shot(panes), MAGENTA).mean() > 0.9
    panes.send_keys("d")
    assert _boundary(panes) == pytest.approx(0.5, abs=0.02)


def test_tables_sort_by_click_and_by_keyboard(page: Any) -> None:
    table = page.find_element(By.CSS_SELECTOR, "table[data-sortable]")

    def column(index: int) -> list[str]:
        return [
            cell.text
            for cell in table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({index})")
        ]

    def head(index: int) -> WebElement:
        found: WebElement = table.find_element(By.CSS_SELECTOR, f"thead th:nth-child({index})")
        return found

    assert column(1) == ["64x64", "96x64", "48x32"]
    head(1).find_element(By.TAG_NAME, "button").click()
    assert column(1) == ["48x32", "64x64", "96x64"]
    assert head(1).get_attribute("aria-sort") == "ascending"
    head(3).find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    times = [float(text) for text in column(3)]
    assert times == sorted(times)
    assert head(1).get_attribute("aria-sort") is None
    head(3).find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert [float(text) for text in column(3)] == times[::-1]
    assert head(3).get_attribute("aria-sort") == "descending"
    foot = table.find_element(By.CSS_SELECTOR, "tfoot td")
    assert foot.text.startswith("Geometric mean")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1300, 1000)])
def test_it_fits_phones_and_wide_screens_in_light_and_dark(
    page: Any, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") == width
        file = tmp_path / f"{scheme}-{width}.png"
        assert page.save_screenshot(str(file))
        with Image.open(file) as picture:
            assert picture.size == (width, height)
            ground = np.asarray(picture.convert("L"))[4, 4]
        assert ground > 230 if scheme == "light" else ground < 40
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_request_that_slipped_into_the_page_would_be_stopped(chromium: Any, address: str) -> None:
    chromium.get(address)
    stopped = chromium.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';"
    )
    assert stopped == "img-src"
    chromium.get_log("browser")


def test_without_scripts_everything_is_still_there(chromium: Any, address: str) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(address)
        pictures = chromium.find_elements(By.CSS_SELECTOR, ".viewer img")
        assert len(pictures) == 12
        assert all(picture.is_displayed() for picture in pictures)
        corners = {(picture.location["x"], picture.location["y"]) for picture in pictures}
        assert len(corners) == 12
        assert not chromium.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
        assert chromium.find_element(By.CSS_SELECTOR, "table").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
