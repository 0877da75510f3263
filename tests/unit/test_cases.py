import pytest

from srbench.cases import DOCUMENTED, SMOKE, Case, parse_cases
from srbench.errors import UsageError


def test_documented_matrix_is_the_published_one() -> None:
    assert [case.name for case in DOCUMENTED] == [
        "128x128x4",
        "512x512x2",
        "720x1280x2",
        "1024x1024x2",
        "1920x1080x2",
    ]


def test_width_comes_first() -> None:
    case = Case.parse("720x1280x2")
    assert (case.width, case.height, case.scale) == (720, 1280, 2)
    assert case.output_pixels == 1440 * 2560


def test_name_is_read_back() -> None:
    for case in (*DOCUMENTED, *SMOKE):
        assert Case.parse(case.name) == case


def test_lists_matrices_and_repetitions() -> None:
    assert parse_cases(["smoke"]) == SMOKE
    assert parse_cases(["64x64x4,documented", "64X64x4"]) == (Case(64, 64, 4), *DOCUMENTED)
    assert parse_cases([" 16x17x3 , 32x16x1"]) == (Case(16, 17, 3), Case(32, 16, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("128x128", "WIDTHxHEIGHTxSCALE"),
        ("documentd", "Did you mean 'documented'"),
        ("128x128x", "Did you mean '128x128x4'"),
        ("15x64x4", "at least 16"),
        ("64x64x0", "scale must be 1 to"),
        ("64x64x99", "scale must be 1 to"),
        ("-64x64x4", "WIDTHxHEIGHTxSCALE"),
        (",", "no case"),
    ],
)
def test_wrong_names_are_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_cases([text])
    assert "\n" not in str(error.value)
