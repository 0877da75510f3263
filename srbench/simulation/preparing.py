"""A simulated run that only needs workers, from a command or from a file that was begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.contract import WeightsSource
from srbench.arm import Job
from srbench.armspec import ArmSpec
from srbench.cases import Case
from srbench.inputs import case_input
from srbench.nvml import Gpu
from srbench.plan import Plan, make_plan
from srbench.preparation import Preparation, report_folder
from srbench.profiles import Profile, load_profile
from srbench.records import RunRecord
from srbench.registry import parse_options
from srbench.simulation.numbers import GIB
from srbench.simulation.plants import check_plants, parse_plants
from srbench.simulation.scenario import DEVICE, Scenario, SimulatedOptions
from srbench.store import check_writable

PURPOSE = "simulation"
OTHER_PIPELINE = ("simulated-baseline", "simulated-optimized")
SAME_PIPELINE = {"base": DEVICE, "head": DEVICE}

WEIGHTS = WeightsSource(path=Path(DEVICE), kind="folder", digest=DEVICE, synthetic=True)
"""There are none. As a `folder` they are labelled by its name."""

CARD = Gpu(0, "simulated device, nothing was measured", DEVICE, 48 * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What decides every number of a simulated run.

    Attributes:
        plan: What is measured in which order.
        pipelines: Arm -> pipeline; two arms of one pipeline are two revisions of it.
        options: Arm -> its options.
        against: What a sequential run is held against.
    """

    plan: Plan
    pipelines: dict[str, str]
    options: dict[str, SimulatedOptions]
    against: str | None = None


def make_design(
    cases: Sequence[Case],
    *,
    noise: str,
    speedup: float | None,
    plants: Sequence[str],
    seed: int,
    blocks: int | None = None,
    pairs: int | None = None,
    looks: Sequence[int] = (),
    against: str | None = None,
) -> Design:
    """A design with a baseline and a candidate.

    Args:
        cases: To be upscaled.
        noise: Name of a noise profile.
        speedup: Of the candidate; None makes it the baseline's own pipeline at another revision.
        plants: `KIND[=VALUE]` texts of what is wrong with the candidate.
        seed: Of every number.
        blocks: Fresh process pairs; None for the default.
        pairs: Timed pairs of a case in a block; None for the default.
        looks: Of a sequential plan.
        against: What that is held against.

    Raises:
        UsageError: A plant that is none or would hit nothing.
    """
    pipelines = SAME_PIPELINE if speedup is None else {name: name for name in OTHER_PIPELINE}
    names = [case.name for case in cases]
    plan = make_plan(
        names, list(pipelines), device=DEVICE, seed=seed, blocks=blocks, pairs=pairs, looks=looks
    )
    check_plants(parse_plants(plants), names, plan.blocks)
    baseline, candidate = pipelines
    plain = parse_options(SimulatedOptions, {"noise": noise})
    planted = SimulatedOptions(plain.noise, speedup or 1.0, ",".join(plants))
    return Design(
        plan=plan,
        pipelines=dict(pipelines),
        options={baseline: plain, candidate: planted},
        against=against,
    )


def design_of(head: RunRecord) -> Design:
    """The design of a run that was begun."""
    plan = make_plan(
        head.cases,
        head.pipelines,
        device=DEVICE,
        seed=head.seed,
        blocks=head.blocks,
        pairs=head.pairs,
        looks=head.looks,
    )
    return Design(
        plan=plan,
        pipelines={name: head.arms[name]["pipeline"] for name in head.pipelines},
        options={name: SimulatedOptions(**head.options[name]) for name in head.pipelines},
        against=head.against,
    )


def prepare_simulation(
    design: Design, out: Path, *, timeout_s: float, pace_ms: float = 0.0
) -> Preparation:
    """Make a design ready to run.

    Args:
        design: What is simulated.
        out: Results folder.
        timeout_s: Real time that one step of a worker may take.
        pace_ms: Real time that an image takes at least.

    Raises:
        UsageError: The folder cannot be written.
    """
    profile = load_profile(DEVICE)
    check_writable(out / profile.name)
    check_writable(report_folder(out))
    return simulated(design, profile, timeout_s, pace_ms)


def simulated(
    design: Design,
    profile: Profile,
    timeout_s: float,
    pace_ms: float,
    note: Callable[[str], None] = lambda _: None,
) -> Preparation:
    """The preparation of a design on the machine at hand.

    Args:
        design: What is simulated.
        profile: Where results go.
        timeout_s: Real time that one step of a worker may take.
        pace_ms: Real time that an image takes at least.
        note: As of `srbench.preparation.prepare`; nothing here takes a while.
    """
    launch = Scenario.of(design.plan, pace_ms).launch()
    job = Job(
        plan=design.plan,
        assignments={"": {}, **{arm: _texts(each) for arm, each in design.options.items()}},
        device=DEVICE,
        precision="fp16",
        weights=WEIGHTS,
        inputs={name: case_input(Case.parse(name), None) for name in design.plan.cases},
        noise_seed=0,
        timeout_s=timeout_s,
        arms={
            name: ArmSpec(name=name, pipeline=pipeline, launch=launch)
            for name, pipeline in design.pipelines.items()
        },
        judge=launch,
    )
    return Preparation(job, profile, CARD, PURPOSE, design.against)


def _texts(options: SimulatedOptions) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(options).items()}
