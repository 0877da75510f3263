import pytest

from srbench.armspec import parse_arm
from srbench.errors import UsageError
from srbench.registry import split_assignments


@pytest.mark.parametrize(
    ("text", "name", "pipeline", "revision"),
    [
        ("s3diff-optimized", "s3diff-optimized", "s3diff-optimized", None),
        ("s3diff-optimized@main", "s3diff-optimized@main", "s3diff-optimized", "main"),
        ("head=package.module:Class", "head", "package.module:Class", None),
        ("base=package.module:Class@v1.0~2", "base", "package.module:Class", "v1.0~2"),
    ],
)
def test_label_pipeline_and_revision(
    text: str, name: str, pipeline: str, revision: str | None
) -> None:
    arm = parse_arm(text)
    assert (arm.name, arm.pipeline, arm.revision) == (name, pipeline, revision)
    assert arm.to_record() == {"pipeline": pipeline, "revision": revision, "commit": None}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a b=s3diff-optimized", "the label 'a b'"),
        ("=s3diff-optimized", "the label ''"),
        ("a=", "names no pipeline"),
        ("@main", "names no pipeline"),
        ("s3diff-optimized@", "names no revision after '@'"),
    ],
)
def test_what_is_no_arm_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_arm(text)


def test_an_option_reaches_one_revision_of_a_pipeline() -> None:
    arms = ["p@v1.0", "p"]
    values = split_assignments(["p@v1.0.tile=3", "p.tile=4", "tile=5"], arms)
    assert values == {"": {"tile": "5"}, "p@v1.0": {"tile": "3"}, "p": {"tile": "4"}}
