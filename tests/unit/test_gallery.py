"""Which pictures of a run were judged, and which cannot be any more."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from srbench.arm import Arm
from srbench.cases import Case
from srbench.gallery import Gallery
from srbench.inputs import case_input
from srbench.outcome import Failure, Outcome
from srbench.protocol import Alone, Repainted
from tests.unit.test_coordinator import make_job

CASE = "16x16x2"
PLACE = (CASE, "a")


class Painter(Arm):
    """Paints what it is told, without a worker."""

    def __init__(self, reply: Repainted | Failure) -> None:
        self.name = "a"
        self._reply = reply

    def ask(self, *_: Any) -> Any:
        return self._reply


def painter(digest: str) -> Painter:
    return Painter(Repainted(picture=f"{digest}.npy", picture_sha256=digest))


def gallery(folder: Path, distinct: int = 1) -> Gallery:
    made = Gallery(make_job(folder, ("a",), cases=(CASE,)), folder)
    made.alone[PLACE] = Alone(
        picture="judged.npy",
        picture_float="float.npy",
        eps=None,
        memory={},
        work={},
        energy_j=None,
        energy_reason=None,
        picture_sha256="judged",
        distinct_pictures=distinct,
    )
    return made


def test_inputs_lie_there_for_the_workers(tmp_path: Path) -> None:
    import numpy as np

    stored = np.load(gallery(tmp_path).inputs[CASE], allow_pickle=False)
    assert np.array_equal(stored, case_input(Case.parse(CASE), None).pixels)


def test_what_is_judged_or_kept_is_not_strange(tmp_path: Path) -> None:
    pictures = gallery(tmp_path)
    assert pictures.strange(PLACE, ["judged"]) == set()
    assert pictures.others(PLACE) == []
    assert pictures.strange(PLACE, ["other", "judged"]) == {"other"}
    pictures.paint_again(painter("other"), CASE, 1)
    assert pictures.strange(PLACE, ["other"]) == set()
    assert pictures.others(PLACE) == ["other.npy"]


def test_a_repaint_stands_for_no_other_timed_picture(tmp_path: Path) -> None:
    """A process that timed a bad picture and then paints a good one has shown nothing."""
    for reply in (painter("judged"), painter("new"), Painter(Failure(Outcome.CRASH, "gone"))):
        pictures = gallery(tmp_path)
        pictures.strange(PLACE, ["bad"])
        pictures.paint_again(reply, CASE, 1)
        found = pictures.others(PLACE)
        assert isinstance(found, Failure)
        assert found.outcome is Outcome.UNSUPPORTED


def test_an_arm_that_varies_within_a_process_shows_a_sample(tmp_path: Path) -> None:
    pictures = gallery(tmp_path, distinct=5)
    pictures.strange(PLACE, ["one", "two"])
    pictures.paint_again(painter("three"), CASE, 1)
    assert pictures.others(PLACE) == ["three.npy"]


def test_of_an_arm_that_was_asked_for_one_picture_only_others_count(tmp_path: Path) -> None:
    """A resumed process has painted, before the judged picture was, what it turned out to be."""
    pictures = gallery(tmp_path)
    judged = pictures.alone[PLACE]
    assert isinstance(judged, Alone)
    pictures.alone[PLACE] = replace(judged, distinct_pictures=None)
    pictures.paint_again(painter("judged"), CASE, 1)
    assert pictures.others(PLACE) == []
    pictures.paint_again(painter("other"), CASE, 2)
    assert pictures.others(PLACE) == ["other.npy"]


def test_a_block_that_does_not_count_is_forgotten(tmp_path: Path) -> None:
    pictures = gallery(tmp_path)
    before = pictures.snapshot()
    pictures.strange(PLACE, ["hot"])
    pictures.restore(before)
    assert pictures.others(PLACE) == []


def test_what_is_packed_hangs_elsewhere_as_it_was(tmp_path: Path) -> None:
    import numpy as np

    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    pictures = gallery(here)
    rng = np.random.default_rng(0)
    files = {}
    for name, digest in (("judged", "judged"), ("float", ""), ("other", "strange")):
        files[digest or name] = str(here / f"{name}.npy")
        np.save(here / f"{name}.npy", rng.integers(0, 255, (4, 4, 3), np.uint8))
    alone = pictures.alone[PLACE]
    assert isinstance(alone, Alone)
    moved = {"picture": files["judged"], "picture_float": files["float"]}
    pictures.alone[PLACE] = replace(alone, **moved)
    pictures.strange(PLACE, ["strange"])
    pictures.paint_again(
        Painter(Repainted(picture=files["strange"], picture_sha256="strange")), CASE, 1
    )
    (packed,) = pictures.packed()
    assert packed.hashes == {"judged", "strange"}
    hung = Gallery(make_job(there, ("a",), cases=(CASE,)), there)
    hung.hang(packed)
    shown = hung.alone[PLACE]
    assert isinstance(shown, Alone)
    assert shown == replace(
        shown, **{**vars_of(alone), "picture": shown.picture, "picture_float": shown.picture_float}
    )
    for ours, theirs in ((shown.picture, "judged"), (shown.picture_float, "float")):
        assert Path(ours).parent == there
        assert np.array_equal(np.load(ours), np.load(files[theirs]))
    (other,) = pictures.others(PLACE)
    hung.strange(PLACE, ["strange", "judged"])
    (kept,) = hung.others(PLACE)
    assert np.array_equal(np.load(kept), np.load(other))


def vars_of(alone: Alone) -> dict[str, Any]:
    return {each.name: getattr(alone, each.name) for each in fields(alone)}


def test_pictures_kept_on_another_machine_are_not_strange_here(tmp_path: Path) -> None:
    pictures = Gallery(make_job(tmp_path, ("a",), cases=(CASE,)), tmp_path)
    assert not pictures.knows(PLACE)
    pictures.told({PLACE: {"judged", "kept"}})
    assert pictures.knows(PLACE)
    assert pictures.strange(PLACE, ["judged", "kept", "new"]) == {"new"}
