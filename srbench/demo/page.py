"""The page itself: gradio components around a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from pipelines.contract import PipelineError
from pipelines.pictures import read_picture
from srbench.config import MAX_SEED
from srbench.demo.choices import pipelines_of, usual_text
from srbench.demo.session import Question, Session
from srbench.demo.summary import summary_html
from srbench.errors import SrbenchError, UsageError
from srbench.images import image_profile, write_image
from srbench.inputs import PHOTOGRAPHS
from srbench.systems import common_system
from srbench.upscaling import MAX_SCALE

if TYPE_CHECKING:
    from numpy.typing import NDArray

THEME_FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
"""Of the reader's system: gradio's own would be fetched."""

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
EXAMPLES_SHRUNK = 3
"""Whole factor: small enough for a CPU, with detail lost that was there."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The button, and the components whose values `_job` takes, in its order."""

    run: gr.Button
    values: list[gr.Component]


def build_page(session: Session, pipelines: tuple[str, str], folder: Path) -> gr.Blocks:
    """Lay the page out.

    Args:
        session: Computes.
        pipelines: A and B to start with.
        folder: For examples and results.
    """
    names = sorted({*pipelines_of(common_system(pipelines)), *pipelines}, key=_by(pipelines))
    page: gr.Blocks = gr.Blocks(title="srbench demo", delete_cache=(3600, 86400), fill_width=True)
    with page:
        gr.HTML(_heading(session), padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=340):
                inputs = _inputs(names, pipelines, folder)
            with gr.Column(scale=2, min_width=560):
                outputs = _outputs()
        inputs.run.click(
            _job(session, names, folder),
            inputs.values,
            outputs,
            # Gradio would decode the file: 16 bits cut to 8, and its own words for a broken one.
            preprocess=False,
            api_visibility="private",
            concurrency_limit=1,
            show_progress_on=outputs[:2],
        )
    return page


def _by(pipelines: tuple[str, str]) -> Callable[[str], tuple[bool, str]]:
    """Sort key that lists the pipelines one starts with first."""
    return lambda name: (name not in pipelines, name)


def _heading(session: Session) -> str:
    weights = session.weights
    named = weights.path.name if weights.kind == "folder" else weights.kind
    lines = [
        "<h1>srbench demo</h1>",
        f"<p>Weights: <b>{escape(named)}</b> "
        f"(<code>{escape(weights.digest[:12])}</code>), {session.precision} on {session.device}. "
        "Two pipelines upscale one picture with the same noise.</p>",
    ]
    if weights.synthetic:
        lines.append(
            "<p class='srbench-warning'><b>Synthetic weights:</b> nothing in them was trained. "
            "Times are real, pictures are not.</p>"
        )
    return "".join(lines)


def _inputs(names: list[str], pipelines: tuple[str, str], folder: Path) -> _Inputs:
    picture = gr.Image(
        label="Picture", sources=["upload", "clipboard"], height=230, elem_id="picture"
    )
    files, credit = _examples(folder / "examples")
    gr.Examples([[file] for file in files], picture, label="Examples", cache_examples=False)
    gr.HTML(f"<p class='srbench-remark'>{escape(credit)}</p>", padding=False)
    with gr.Row():
        a = gr.Dropdown(names, value=pipelines[0], label="Pipeline A", elem_id="a", min_width=150)
        b = gr.Dropdown(names, value=pipelines[1], label="Pipeline B", elem_id="b", min_width=150)
    scale = gr.Slider(1, MAX_SCALE, value=4, step=1, label="Scale", elem_id="scale")
    run = gr.Button("Run", variant="primary", elem_id="run")
    color_fix = gr.Radio(
        ["wavelet", "adain", "none"],
        value=usual_text(common_system(pipelines), "color_fix") or "wavelet",
        label="Colour fix",
        elem_id="color-fix",
    )
    guidance = gr.Slider(1.0, 1.1, value=1.07, step=0.01, label="Guidance", elem_id="guidance")
    tile = gr.Slider(64, 160, value=96, step=1, label="Tile size in latents", elem_id="tile")
    overlap = gr.Slider(
        16, 48, value=32, step=1, label="Tile overlap in latents", elem_id="overlap"
    )
    seed = gr.Number(
        value=0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", elem_id="seed"
    )
    return _Inputs(run, [picture, a, b, scale, color_fix, guidance, tile, overlap, seed])


def _outputs() -> list[gr.Component]:
    """The components that `_job` fills, in its order."""
    with gr.Tabs():
        with gr.Tab("A | B"):
            between = _slider("a-b", "A | B")
        with gr.Tab("Input | B"):
            before = _slider("input-b", "Input | B")
    summary = gr.HTML(
        "<p class='srbench-remark'>Upload a picture or take an example, then run.</p>",
        elem_id="summary",
        padding=False,
    )
    with gr.Row():
        downloads = [
            gr.DownloadButton(f"Download {arm} as PNG", interactive=False, elem_id=f"png-{arm}")
            for arm in "AB"
        ]
    return [between, before, summary, *downloads]


def _slider(name: str, label: str) -> gr.ImageSlider:
    return gr.ImageSlider(
        label=label, interactive=False, max_height=620, elem_id=name, buttons=["fullscreen"]
    )


def _examples(folder: Path) -> tuple[list[str], str]:
    """Small photographs as files, and whose they are."""
    from skimage import data

    folder.mkdir()
    files = []
    for name, _ in PHOTOGRAPHS:
        photograph = Image.fromarray(getattr(data, Path(name).stem)())
        small = np.asarray(photograph.reduce(EXAMPLES_SHRUNK))
        files.append(_write(folder / f"{Path(name).stem}.png", small))
    credits_ = "; ".join(f"{Path(name).stem}: {owner}" for name, owner in PHOTOGRAPHS)
    return files, f"Photographs of scikit-image, 1/{EXAMPLES_SHRUNK} of their size ({credits_})."


def _job(
    session: Session, names: list[str], folder: Path
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """What the button does; errors of the user's become a message that stays until it is closed."""

    def run(
        picture: dict[str, Any] | None,
        a: str,
        b: str,
        scale: float,
        color_fix: str,
        guidance: float,
        tile: float,
        overlap: float,
        seed: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  gradio looks for it in the defaults
    ) -> Iterator[tuple[Any, ...]]:
        # What stands there is of other choices, and would stay beside an error.
        yield None, None, "", *[gr.DownloadButton(interactive=False)] * 2
        path = Path((picture or {}).get("path") or "")
        try:
            _check(path, (a, b), names, seed)
            values = {
                "color_fix": color_fix,
                "guidance": f"{guidance:.2f}",
                "latent_tile": f"{tile:.0f}",
                "latent_overlap": f"{overlap:.0f}",
            }
            question = Question((a, b), int(scale), int(seed or 0), values)
            yield _answer(session, path, question, folder, progress)
        except (SrbenchError, PipelineError) as error:
            # People know their file by its name, not by where it was uploaded to.
            message = str(error).replace(str(path), path.name) if path.name else str(error)
            raise gr.Error(escape(message), duration=None, print_exception=False) from error

    return run


def _check(path: Path, chosen: tuple[str, str], names: list[str], seed: float | None) -> None:
    """Raise UsageError for what a browser may send and a session does not check.

    A name that is not offered could be any `module:attribute`.
    """
    if not path.name:
        raise UsageError("no picture: upload one or take an example")
    if unknown := set(chosen) - set(names):
        raise UsageError(f"pipeline {', '.join(sorted(unknown))}: not offered here")
    if seed is None or not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed: expected a whole number from 0 to {MAX_SEED}")


def _answer(
    session: Session, path: Path, question: Question, folder: Path, progress: gr.Progress
) -> tuple[Any, ...]:
    notes: list[str] = []
    image = read_picture(path, notes.append)
    profile = image_profile(path, path.with_suffix(".png"))
    steps = count(1)
    result = session.run(image, question, lambda text: progress(next(steps) / 5, desc=text))
    a, b = question.pipelines
    place = folder / "result"
    shutil.rmtree(place, ignore_errors=True)  # of the job before, which gradio has copied
    place.mkdir()
    files = [
        _write(
            place / f"{path.stem}-x{question.scale}-{arm}-{painted.pipeline}.png",
            painted.pixels,
            profile,
        )
        for arm, painted in (("A", result.a), ("B", result.b))
    ]
    before = _write(place / "input.png", _enlarged(image, result.b.pixels), profile)
    remarks = [note.replace(str(path), path.name) + "." for note in notes]
    return (
        gr.ImageSlider((files[0], files[1]), label=f"A {a} | B {b}"),
        gr.ImageSlider((before, files[1]), label=f"Input, enlarged bicubic | B {b}"),
        summary_html(result, remarks),
        *(gr.DownloadButton(value=file, interactive=True) for file in files),
    )


def _write(path: Path, pixels: NDArray[np.uint8], profile: bytes | None = None) -> str:
    write_image(path, pixels, profile)
    return str(path)


def _enlarged(image: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The input at the output's size, as any viewer would enlarge it."""
    height, width = like.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
