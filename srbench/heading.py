"""How every results file begins: its id, its time, and what was decided before it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from srbench import __version__
from srbench.fingerprint import fingerprint
from srbench.opening import Facts
from srbench.plan import Plan
from srbench.preparation import Preparation
from srbench.profiles import Profile
from srbench.records import RunRecord


def start_of_run(profile: Profile) -> dict[str, Any]:
    """The fields of `RunRecord` that no setting decides."""
    now = datetime.now(UTC)
    return {
        "run_id": f"{now:%Y%m%dT%H%M%SZ}-{profile.name}-{secrets.token_hex(2)}",
        "started_at": now.isoformat(timespec="seconds"),
        "srbench_version": __version__,
        "profile": profile.name,
    }


def make_head(
    preparation: Preparation, facts: Facts, argv: list[str], terms: Mapping[str, str]
) -> RunRecord:
    """The first line of a results file, with the fingerprint of this machine.

    Args:
        preparation: Of the run.
        facts: What its pipelines say of themselves here.
        argv: The command line.
        terms: Of the looks at a sequential run.
    """
    job = preparation.job
    plan: Plan = job.plan
    weights = job.weights
    return RunRecord(
        **start_of_run(preparation.profile),
        device=job.device,
        precision=job.precision,
        tf32=facts.tf32,
        cases=list(plan.cases),
        pipelines=list(plan.arms),
        options={name: described.options for name, described in facts.described.items()},
        versions={name: described.version for name, described in facts.described.items()},
        tiers={name: described.tiers[job.precision] for name, described in facts.described.items()},
        weights={
            "kind": weights.kind,
            "digest": weights.digest,
            "synthetic": weights.synthetic,
            "label": weights.path.name if weights.kind == "folder" else weights.kind,
        },
        inputs={
            name: {"sha256": image.sha256, "source": image.source}
            for name, image in job.inputs.items()
        },
        blocks=plan.blocks,
        pairs=plan.pairs,
        seed=plan.seed,
        noise_seed=job.noise_seed,
        fingerprint=fingerprint(preparation.gpu),
        argv=argv,
        purpose=preparation.purpose,
        arms={name: job.arm(name).to_record() for name in plan.arms},
        looks=list(plan.looks),
        against=preparation.against,
        decided_by=dict(terms),
        pairing=facts.pairing,
        ladder=[arm.to_record() for arm in job.ladder],
    )
