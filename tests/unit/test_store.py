import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import UsageError
from srbench.records import (
    BlockRecord,
    CellRecord,
    EndRecord,
    FidelityRecord,
    RunRecord,
    VoidRecord,
)
from srbench.store import (
    RunWriter,
    check_writable,
    find_run,
    find_runs,
    list_runs,
    newest_run,
    read_head,
    read_run,
    runs_of,
)


def head(run_id: str = "20260101T000000Z-cpu-abcd", **changes: Any) -> RunRecord:
    facts: dict[str, Any] = {
        "run_id": run_id,
        "started_at": "2026-01-01T00:00:00+00:00",
        "srbench_version": "0",
        "profile": "cpu",
        "device": "cpu",
        "precision": "fp32",
        "tf32": False,
        "cases": ["16x16x2"],
        "pipelines": ["a", "b"],
        "options": {"a": {}, "b": {}},
        "versions": {"a": "1", "b": "1"},
        "tiers": {"a": "exact", "b": "exact"},
        "weights": {"kind": "mini", "digest": "0", "synthetic": True, "label": "mini"},
        "inputs": {},
        "blocks": 2,
        "pairs": 1,
        "seed": 0,
        "noise_seed": 0,
        "fingerprint": {},
        "argv": [],
    }
    return RunRecord(**{**facts, **changes})


def cell(block: int, load_ms: float = 0.1 + 0.2, pipeline: str = "a") -> CellRecord:
    return CellRecord(block=block, case="16x16x2", pipeline=pipeline, outcome="ok", load_ms=load_ms)


def block(index: int) -> BlockRecord:
    return BlockRecord(block=index, finished_at="2026-01-01T00:00:00+00:00")


END = EndRecord(finished_at="2026-01-01T00:00:00+00:00")


def write(root: Path, *records: Any, run_id: str = "20260101T000000Z-cpu-abcd") -> Path:
    with RunWriter.create(root, head(run_id)) as writer:
        writer.append(records)
        return writer.path


def test_what_is_written_is_read_back_unrounded(tmp_path: Path) -> None:
    judged = FidelityRecord(case="16x16x2", pipeline="b", reference="a", metrics={"psnr": 1 / 3})
    path = write(tmp_path, cell(0), block(0), judged, END)
    assert path == tmp_path / "cpu" / "20260101T000000Z-cpu-abcd.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    assert list(first)[:2] == ["kind", "schema_version"]
    run = read_run(path)
    assert run.head == head()
    assert (run.cells, run.fidelity, run.finished_blocks) == ([cell(0)], [judged], {0})
    assert run.ended


def test_every_batch_is_on_disk_before_the_next(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, head()) as writer:
        for index in range(3):
            writer.append([cell(index), block(index)])
            assert read_run(writer.path).finished_blocks == set(range(index + 1))
            assert not read_run(writer.path).ended


@pytest.mark.parametrize("torn", [b'{"kind": "ce', b'{"kind": "cell", "block": 1}\xff', b"\x00\n"])
def test_a_torn_last_line_is_ignored_and_cut_on_resume(tmp_path: Path, torn: bytes) -> None:
    path = write(tmp_path, cell(0), block(0))
    sound = path.read_bytes()
    path.write_bytes(sound + torn)
    assert read_run(path).cells == [cell(0)]
    with RunWriter.resume(path) as writer:
        writer.append([cell(1), block(1), END])
    assert path.read_bytes().startswith(sound + b'{"kind": "cell", "block": 1,')
    assert read_run(path).finished_blocks == {0, 1}


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, cell(0), block(0))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-9], lines[2], ""]))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        read_run(path)
    path.write_text("\n".join([lines[0], '{"kind": "cell"}', lines[2], ""]))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        read_run(path)
    path.write_text("\n".join([lines[0], "[1]", lines[2], ""]))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        read_run(path)


def test_lines_and_keys_of_later_minor_versions_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, cell(0), block(0))
    later = {**cell(1).to_json(), "colour": "red"}
    with path.open("a") as file:
        file.write('{"kind": "comment", "text": "x"}\n' + json.dumps(later) + "\n")
    assert read_run(path).cells == [cell(0), cell(1)]


def test_newer_schema_is_refused_and_says_which(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, head(schema_version=7)) as writer:
        path = writer.path
    with pytest.raises(UsageError, match="schema_version 7 is newer than 1"):
        read_run(path)


@pytest.mark.parametrize("content", ["", "hello\n", '{"kind": "cell"}\n', "[]\n"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match="not a results file"):
        read_run(path)
    with pytest.raises(UsageError, match="no such results file"):
        read_run(tmp_path / "y.jsonl")


def test_a_repeated_block_supersedes_its_first_attempt(tmp_path: Path) -> None:
    partial = [cell(1, 5.0), cell(1, 6.0, "b")]
    again = [cell(1, 7.0), cell(1, 8.0, "b"), block(1)]
    path = write(tmp_path, cell(0), block(0), *partial, *again, END)
    assert read_run(path).cells == [cell(0), cell(1, 7.0), cell(1, 8.0, "b")]


def test_unfinished_blocks_are_dropped_unless_the_file_ends_in_them(tmp_path: Path) -> None:
    path = write(tmp_path, cell(0), cell(1), block(1), cell(2))
    assert read_run(path).cells == [cell(1), cell(2)]
    assert read_run(path).finished_blocks == {1}


def test_interrupted_is_not_ended(tmp_path: Path) -> None:
    stopped = EndRecord(finished_at="x", interrupted=True)
    path = write(tmp_path, cell(0), block(0), stopped)
    assert not read_run(path).ended
    with RunWriter.resume(path) as writer:
        writer.append([cell(1), block(1), END])
    assert read_run(path).ended


def _try_to_resume(path: Path, answers: Any) -> None:
    try:
        with RunWriter.resume(path):
            answers.put("open")
    except UsageError as error:
        answers.put(str(error))


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with RunWriter.create(tmp_path, head()) as writer:
        other = context.Process(target=_try_to_resume, args=(writer.path, answers))
        other.start()
        assert "another srbench process" in answers.get(timeout=30)
        other.join()


def test_nan_never_reaches_the_file(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, head()) as writer, pytest.raises(ValueError, match="JSON"):
        writer.append([cell(0, float("nan"))])


def test_runs_are_found_by_path_and_id_and_age(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results in it"):
        newest_run(tmp_path)
    names = ["20260102T000000Z-cpu-0000", "20260101T000000Z-cpu-ffff"]
    late, early = (write(tmp_path, run_id=name) for name in names)
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "20270101T000000Z-cpu-0000.jsonl").write_bytes(late.read_bytes())
    assert list_runs(tmp_path) == [early, late]
    assert newest_run(tmp_path) == late
    assert find_run(early.stem, tmp_path) == early
    assert find_run(str(late), Path("elsewhere")) == late
    with pytest.raises(UsageError, match=f"Did you mean '{late.stem}'"):
        find_run("20260102T000000Z-cpu-000", tmp_path)
    with pytest.raises(UsageError, match="no such results file"):
        find_run("results/x.jsonl", tmp_path)


def test_folders_are_checked_before_the_run(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"):
        check_writable(tmp_path / "file")
    with (
        pytest.raises(UsageError, match="cannot write"),
        RunWriter.create(tmp_path / "file", head()),
    ):
        pass


@pytest.mark.parametrize(
    "line", ['{"kind": []}', '{"kind": "cell", "samples": [{"pair": 0}]}', '{"kind": "cell"}', "[]"]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, cell(0), block(0), END)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(UsageError, match="line 2 is damaged"):
        read_run(path)


def test_cells_of_a_block_broken_off_count_only_until_the_run_has_ended(tmp_path: Path) -> None:
    """Killed in block 1, decided by the look at one block after the resume."""
    records = [cell(0), block(0), cell(1)]
    broken_off = write(tmp_path, *records)
    assert [c.block for c in read_run(broken_off).cells] == [0, 1]
    ended = write(tmp_path, *records, END, run_id="20260101T000001Z-cpu-abcd")
    assert [c.block for c in read_run(ended).cells] == [0]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("run", "cases", None),
        ("run", "cases", {}),
        ("run", "tiers", {"a": 1}),
        ("run", "looks", ["6"]),
        ("run", "arms", []),
        ("run", "tf32", 1),
        ("cell", "block", True),
        ("cell", "block", "0"),
        ("cell", "outcome", None),
        ("cell", "samples", [3]),
        ("cell", "warmup_ms", ["1"]),
        ("cell", "load_ms", float("nan")),
        ("fidelity", "case", []),
        ("fidelity", "metrics", None),
        ("fidelity", "metrics", {"psnr": "high"}),
        ("fidelity", "worst_block", 7),
        ("fidelity", "outcome", -7),
    ],
)
def test_a_field_of_another_type_is_damage(
    tmp_path: Path, kind: str, field: str, value: Any
) -> None:
    judged = FidelityRecord(case="16x16x2", pipeline="b", reference="a")
    path = write(tmp_path, cell(0), block(0), judged, END)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(n for n, line in enumerate(lines) if line["kind"] == kind)
    lines[number][field] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match=rf"line {number + 1} is damaged"):
        read_run(path)


@pytest.mark.parametrize(
    ("field", "value"), [("run_id", "a\x1b[2J"), ("cases", ["a\nb"]), ("pipelines", ["a", "\x07"])]
)
def test_a_name_that_a_terminal_would_obey_is_damage(
    tmp_path: Path, field: str, value: Any
) -> None:
    path = write(tmp_path, END)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {field: value}), *rest]) + "\n")
    with pytest.raises(UsageError, match="line 1 is damaged") as error:
        read_run(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(("field", "value"), [("pair", "x"), ("latency_ms", None), ("state", 3)])
def test_a_sample_of_another_type_is_damage(tmp_path: Path, field: str, value: Any) -> None:
    sample = {"pair": 0, "position": 0, "latency_ms": 1} | {field: value}
    path = write(tmp_path, replace(cell(0), samples=[sample]), block(0), END)
    with pytest.raises(UsageError, match=rf"line 2 is damaged \({field} is"):
        read_run(path)


def _with_samples(index: int) -> CellRecord:
    samples = [
        {"pair": pair, "position": pair, "latency_ms": 1.5, "state": {"before": {"power_w": 3.5}}}
        for pair in range(5)
    ]
    return replace(cell(index), samples=samples)


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        ('"latency_ms": 1.5', '"latency_ms": 1e999'),
        ('"power_w": 3.5', '"power_w": NaN'),
        ('"power_w": 3.5', '"power_w": -1e999'),
        ('"load_ms": 0.3', '"load_ms": 1e999'),
        ('"position": 4', '"position": 4.5'),
        ('"latency_ms": 1.5', '"latency_ms": "1.5"'),
        ('"pair": 3', '"pears": 3'),
    ],
)
def test_a_damaged_sample_in_the_middle_of_many_lines_is_named(
    tmp_path: Path, sound: str, damaged: str
) -> None:
    records = [record for index in range(40) for record in (_with_samples(index), block(index))]
    path = write(tmp_path, *records, END)
    lines = path.read_text().splitlines(keepends=True)
    changed = lines[41].replace(sound, damaged, 1)
    assert changed != lines[41]
    path.write_text("".join([*lines[:41], changed, *lines[42:]]))
    with pytest.raises(UsageError, match=r"line 42 is damaged"):
        read_run(path)


@pytest.mark.parametrize("torn", ["", '{"kind": "cell", "block": 1, "reason": "'])
def test_lines_longer_than_what_is_read_of_the_end_are_kept_whole(
    tmp_path: Path, torn: str
) -> None:
    long = FidelityRecord(
        case="16x16x2", pipeline="b", reference="a", crops={"input": "A" * 3_000_000}
    )
    path = write(tmp_path, cell(0), block(0), long)
    sound = path.read_bytes()
    path.write_bytes(sound + torn.encode() + b"B" * (200_000 if torn else 0))
    assert read_run(path).fidelity == [long]
    with RunWriter.resume(path) as writer:
        writer.append([END])
    assert path.read_bytes() == sound + path.read_bytes().splitlines(keepends=True)[-1]
    assert read_run(path).ended


def test_a_void_drops_what_was_measured_before_it_alone(tmp_path: Path) -> None:
    void = VoidRecord(block=1, attempt=1, finished_at="x", reasons=["heat"])
    first = [cell(0), block(0), cell(1, 5.0), cell(1, 6.0, "b"), void]
    path = write(tmp_path, *first, cell(1, 7.0), block(1), cell(2), block(2), END)
    assert read_run(path).cells == [cell(0), cell(1, 7.0), cell(2)]


def test_machines_of_blocks_are_known(tmp_path: Path) -> None:
    facts = {"host": "other"}
    blocks = [block(0), replace(block(1), fingerprint=facts)]
    path = write(tmp_path, cell(0), blocks[0], cell(1), blocks[1], END)
    assert read_run(path).machines == {1: facts}


def test_a_head_is_read_without_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, cell(0), block(0))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "damaged\n", *lines[1:]]))
    assert read_head(path) == head()
    path.write_text("damaged\n")
    with pytest.raises(UsageError, match="not a results file"):
        read_head(path)


def test_runs_of_a_group_are_found(tmp_path: Path) -> None:
    for name, group in (("a", "g1"), ("b", None), ("c", "g1"), ("d", "g2")):
        with RunWriter.create(tmp_path, head(name, group=group)):
            pass
    (tmp_path / "cpu" / "notes.jsonl").write_text("no results\n")
    assert [path.stem for path in runs_of("g1", tmp_path)] == ["a", "c"]
    with pytest.raises(UsageError, match="--group g3: no run of it"):
        runs_of("g3", tmp_path)


def test_many_runs_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    paths = [write(tmp_path, run_id=f"run-{number}") for number in range(5)]
    names = ["run-3", str(paths[1]), "run-0"]
    assert find_runs(names, tmp_path) == [paths[3], paths[1], paths[0]]
    with pytest.raises(UsageError, match="Did you mean 'run-4'"):
        find_runs(["run-3", "run-44"], tmp_path)
