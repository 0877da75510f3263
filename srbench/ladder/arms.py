"""The arms of a ladder: what each rung switches on, and what it was predicted to bring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pipelines.contract import Rung
from srbench.errors import UsageError, did_you_mean
from srbench.shape import misfit


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderArm:
    """One arm of a ladder, as it is stored with its run.

    Attributes:
        name: Of the arm; of a rung its name.
        rung: Whether it is a rung: the baseline is none.
        title: What is switched on.
        options: Option name -> text, what is switched on beside the arm before.
        on_top: Not part of the pipeline's defaults.
        predicted_s: Case name -> seconds an image, predicted before the run.
    """

    name: str
    rung: bool
    title: str
    options: dict[str, str] = field(default_factory=dict)
    on_top: bool = False
    predicted_s: dict[str, float] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """Entry of `RunRecord.ladder`."""
        return asdict(self)

    @classmethod
    def from_record(cls, entry: dict[str, Any]) -> Self:
        """Inverse of `to_record`.

        Raises:
            UsageError: The results file is damaged.
        """
        try:
            if wrong := misfit(cls, entry):
                raise TypeError(wrong)
            return cls(**entry)
        except (KeyError, TypeError) as error:
            raise UsageError(f"the results file's ladder is damaged ({error})") from error


def climb(
    rungs: Sequence[Rung], picked: Iterable[str] | None
) -> list[tuple[LadderArm, dict[str, str]]]:
    """The arms of a ladder, each with its cumulated options.

    Args:
        rungs: First to last.
        picked: Names of those that become arms, in any order; None for all. What the others switch
            on goes to the next arm above them.

    Raises:
        UsageError: No rung of that name, or none is picked.
    """
    names = [rung.name for rung in rungs]
    chosen = set(names if picked is None else picked)
    for name in sorted(chosen - set(names)):
        raise UsageError(f"--rungs '{name}': no such rung.{did_you_mean(name, names)}")
    if not chosen:
        raise UsageError("--rungs: name at least one")
    arms = []
    cumulated: dict[str, str] = {}
    since: list[Rung] = []
    for rung in rungs:
        cumulated |= rung.options
        since.append(rung)
        if rung.name in chosen:
            arm = LadderArm(
                name=rung.name,
                rung=True,
                title=_title(since),
                options={key: value for each in since for key, value in each.options.items()},
                on_top=rung.on_top,
            )
            arms.append((arm, dict(cumulated)))
            since = []
    return arms


def _title(rungs: Sequence[Rung]) -> str:
    """Of the last rung, with the names of those that come with it."""
    *others, last = rungs
    if not others:
        return last.title
    names = others[0].name if len(others) == 1 else f"{others[0].name} to {others[-1].name}"
    return f"{last.title}, with {names}"
