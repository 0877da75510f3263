"""Runs over a real Ray cluster of several simulated machines: one is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from srbench.cases import parse_cases
from srbench.errors import ExitCode, InfrastructureError, NotComparableError, UsageError
from srbench.executors.cluster import connected, live_nodes
from srbench.executors.leader import Errand, Led
from srbench.executors.nodes import Nodes, profiles_of, simulated_card
from srbench.executors.runs import lead_all
from srbench.records import CellRecord, Run
from srbench.running import Conduct, Looking, begin
from srbench.simulation.preparing import make_design, prepare_simulation, simulated
from srbench.store import list_runs, newest_run, read_run
from tests.e2e.conftest import Srbench
from tests.e2e.simulated import MARK, Folder, kill, wait_until

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.e2e

CASES = ("16x16x1", "24x16x1")
KINDS = ("A10", "L20", "H100")


@dataclass
class Machines:
    """The cluster of this module: a machine of each kind, of which the A10's is the head, and a
    spare L20.
    """

    address: str
    cluster: Any
    by_kind: dict[str, Any]
    folder: Folder


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = Folder(tmp_path_factory.mktemp("cluster"), Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        # Machines inherit it, so that what they start can be told from everybody else's.
        for name in (MARK, "PYTHONPATH", "OMP_NUM_THREADS"):
            patch.setenv(name, folder.environment[name])
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        # Ray starts a worker a core for every driver, most of them for nothing.
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        cluster = _head()
        try:
            nodes = {kind: _add(cluster, kind) for kind in KINDS[1:]}
            _add(cluster, "L20")
            cluster.wait_for_nodes()
            yield Machines(cluster.address, cluster, nodes, folder)
        finally:
            cluster.shutdown()


def _head() -> Any:
    """The A10's machine; on one that others use it may need more than the 30 s it is granted."""
    from ray.cluster_utils import Cluster

    for last in (False, False, True):
        try:
            return Cluster(
                initialize_head=True,
                head_node_args={**_machine("A10"), "include_dashboard": False},
            )
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
    raise AssertionError


def _add(cluster: Any, kind: str) -> Any:
    return cluster.add_node(**_machine(kind), wait=False)


def _machine(kind: str) -> dict[str, Any]:
    return {"num_cpus": 2, "num_gpus": 1, "resources": {f"accelerator_type:{kind}": 1}}


@dataclass
class Watcher:
    """Notes what happens, and loses a machine in the middle of a block."""

    lose: Any = None
    notes: list[str] = field(default_factory=list)

    def cell_done(self, cell: CellRecord) -> None:
        if cell.block == 1 and self.lose is not None:
            lose, self.lose = self.lose, None
            lose()

    def note(self, text: str) -> None:
        self.notes.append(text)


def design(blocks: int = 3, plants: Sequence[str] = ("late-bad-tile",)) -> Any:
    return make_design(
        parse_cases(CASES),
        noise="typical",
        speedup=2.0,
        plants=list(plants),
        seed=5,
        blocks=blocks,
        pairs=2,
    )


def errand(kind: str, out: Path, pace_ms: float = 0.0, **changes: Any) -> Errand:
    made, profile = design(), simulated_card(kind.lower())
    return Errand(
        profile=profile,
        plan=made.plan,
        prepare=partial(simulated, made, profile, 60.0, pace_ms),
        out=out,
        argv=["simulate"],
        **changes,
    )


def numbers(run: Run) -> Any:
    """All that the seed decides."""
    cells = [{**cell.to_json(), "load_ms": 0} for cell in run.cells]
    return sorted(cells, key=_cell), [record.to_json() for record in run.fidelity]


def _cell(cell: dict[str, Any]) -> tuple[int, str, str]:
    return cell["block"], cell["case"], cell["pipeline"]


def places(run: Run) -> list[str]:
    """The machine of each block, by Ray's number of it."""
    own = run.head.fingerprint["node"]
    return [run.machines.get(b, {}).get("node", own) for b in sorted(run.finished_blocks)]


def test_three_machines_one_of_them_lost(machines: Machines, tmp_path: Path) -> None:
    lost = machines.by_kind["L20"]
    watchers = {kind: Watcher() for kind in KINDS}
    watchers["L20"].lose = lambda: machines.cluster.remove_node(lost, allow_graceful=False)
    with connected(machines.address) as module:
        kinds = {node.id[:12]: node.accelerators for node in live_nodes(module)}
        # The head of a run is on the machine that the first of the kind is.
        first = next(n for n in live_nodes(module) if n.accelerators == ("L20",))
        if first.id != lost.node_id:
            lost = next(n for n in machines.cluster.worker_nodes if n.node_id == first.id)
        errands = [errand(kind, tmp_path, pace_ms=40, group="one") for kind in KINDS]
        led = lead_all(module, errands, [Conduct(watchers[kind]) for kind in KINDS])
    at_home = begin(
        prepare_simulation(design(), tmp_path / "home", timeout_s=60), tmp_path / "home", [],
        Conduct(Watcher()),
    )  # fmt: skip
    for kind, one in zip(KINDS, led, strict=True):
        assert one.error is None
        run = one.run
        assert run is not None
        assert run.ended
        assert (run.head.profile, run.head.executor) == (f"simulated-{kind.lower()}", "ray")
        assert run.head.group == "one"
        assert run.head.fingerprint["accelerators"] == [kind]
        assert [kinds[place] for place in places(run)] == [(kind,)] * 3
        assert numbers(run) == numbers(at_home)
        assert len(set(places(run))) == (2 if kind == "L20" else 1)
        assert_nothing_doubled(one)
    run = led[1].run
    assert run is not None
    (void,) = run.voids
    assert (void.block, void.attempt) == (1, 1)
    assert "the machine was lost" in void.reasons[0]
    assert any("block 1 does not count" in note for note in watchers["L20"].notes)
    assert wait_until(lambda: not machines.folder.workers(), 20)


def assert_nothing_doubled(led: Led) -> None:
    """Of the lines that count: those after the void of their block."""
    assert led.path is not None
    counted: Counter[tuple[int, str, str]] = Counter()
    for line in map(json.loads, led.path.read_text().splitlines()):
        if line["kind"] == "cell":
            counted[_cell(line)] += 1
        if line["kind"] == "void":
            counted = Counter({k: n for k, n in counted.items() if k[0] != line["block"]})
    assert set(counted.values()) == {1}
    assert len(counted) == 3 * len(CASES) * 2


def test_the_command_leads_two_cards_at_once(machines: Machines, srbench: Srbench) -> None:
    done = srbench(
        *("simulate", "--executor", "ray", "--address", machines.address, "--gpu", "a10,h100"),
        *("--cases", CASES[0], "--blocks", 2, "--pairs", 1, "--json"),
    )
    assert done.code == ExitCode.OK, done.err
    document = json.loads(done.out)
    heads = [run["head"] for run in document["runs"]]
    assert [head["profile"] for head in heads] == ["simulated-a10", "simulated-h100"]
    assert heads[0]["group"] == heads[1]["group"] is not None
    assert "simulated-a10 block 1" in done.err
    assert Path(document["report"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--gpu", "h200"], ExitCode.NOT_COMPARABLE, "no machine with H200; it has"),
        (["--gpu", "h201"], ExitCode.USAGE, "Did you mean 'h20"),
        (["--gpu", ","], ExitCode.USAGE, "names no card"),
        (["--address", "localhost:1"], ExitCode.USAGE, "no Ray cluster answers there"),
    ],
)
def test_bad_input_is_one_line(
    machines: Machines, srbench: Srbench, arguments: list[str], code: ExitCode, words: str
) -> None:
    address = [] if "--address" in arguments else ["--address", machines.address]
    done = srbench("simulate", "--executor", "ray", *address, *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.full
def test_a_process_that_is_lost_is_replaced_on_its_machine(
    machines: Machines, tmp_path: Path
) -> None:
    """And a look ends the run, as it does at home."""

    def lose() -> None:
        for worker in machines.folder.workers():
            status = Path(f"/proc/{worker}/status").read_text()
            kill(int(status.split("PPid:")[1].split()[0]))

    watcher = Watcher(lose)
    made = errand("H100", tmp_path, pace_ms=40)
    sequential = replace(made, plan=replace(made.plan, looks=(2, 3)))
    seen: list[set[int]] = []

    def decided(run: Run) -> bool:
        seen.append(run.finished_blocks)
        return True

    with connected(machines.address) as module:
        conduct = Conduct(watcher, looking=Looking(decided=decided))
        (led,) = lead_all(module, [sequential], [conduct])
    run = led.run
    assert led.error is None
    assert run is not None
    assert run.ended
    assert run.finished_blocks == {0, 1}
    assert seen == [{0, 1}]
    assert [(void.block, void.attempt) for void in run.voids] == [(1, 1)]
    assert "its process was lost" in run.voids[0].reasons[0]
    assert len(set(places(run))) == 1


def test_what_is_wrong_on_a_machine_arrives_as_itself(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, watcher = errand("H100", tmp_path), Watcher()
    spoilt = replace(made, prepare=partial(_refused, made.prepare))
    with connected(machines.address) as module:
        (wrong,) = lead_all(module, [spoilt], [Conduct(watcher)])
        monkeypatch.setattr("srbench.executors.stream.code_digest", lambda: "f" * 64)
        (other,) = lead_all(module, [made], [Conduct(watcher)])
    assert isinstance(wrong.error, UsageError)
    assert str(wrong.error) == "no such thing here"
    assert any("broken off on" in note for note in watcher.notes)
    assert isinstance(other.error, NotComparableError)
    assert "other code of srbench" in str(other.error)
    assert "f" * 12 in str(other.error)
    assert list_runs(tmp_path) == []


def _refused(_prepare: Any, _note: Any) -> Any:
    raise UsageError("no such thing here")


@pytest.mark.full
def test_a_run_of_another_machine_goes_on_as_far_as_versions_allow(
    machines: Machines, tmp_path: Path
) -> None:
    """Begun by the local executor: another torch release is refused, a patch of it recorded."""
    blocks = iter([False, True])
    own = simulated(design(), simulated_card("h100"), 60.0, 0.0)
    begun = begin(own, tmp_path, [], Conduct(Watcher(), stop=lambda: next(blocks, True)))
    assert begun.finished_blocks == {0}
    path = newest_run(tmp_path)
    ours = begun.head.fingerprint["versions"]["torch"]
    release, _, patch = ours.rpartition(".")
    watcher = Watcher()
    with connected(machines.address) as module:
        _edit(path, ours, "1.13.1")
        resumed = errand("H100", tmp_path, begun=path)
        (refused,) = lead_all(module, [resumed], [Conduct(watcher)])
        assert isinstance(refused.error, NotComparableError)
        assert f"other torch: {ours}, but the run has 1.13.1" in str(refused.error)
        assert read_run(path).finished_blocks == {0}
        near = f"{release}.{int(patch.split('+')[0]) + 1}"
        _edit(path, "1.13.1", near)
        (led,) = lead_all(module, [resumed], [Conduct(watcher)])
    assert led.error is None
    run = led.run
    assert run is not None
    assert run.ended
    assert run.finished_blocks == {0, 1, 2}
    assert run.machines.keys() == {1, 2}
    assert {facts["versions"]["torch"] for facts in run.machines.values()} == {ours}
    assert run.head.fingerprint["versions"]["torch"] == near


def _edit(path: Path, torch: str, other: str) -> None:
    text = path.read_text()
    assert f'"torch": "{torch}"' in text
    path.write_text(text.replace(f'"torch": "{torch}"', f'"torch": "{other}"'))


class Cluster:
    """A cluster as Ray tells of it."""

    def __init__(self, *nodes: tuple[str, float, str | None]) -> None:
        self.alive = [
            {
                "Alive": True,
                "NodeID": name,
                "NodeManagerAddress": name,
                "Resources": {"CPU": cpus} | ({} if card is None else _card(card)),
            }
            for name, cpus, card in nodes
        ]

    def nodes(self) -> list[dict[str, Any]]:
        return self.alive


def _card(kind: str) -> dict[str, float]:
    return {"GPU": 1.0, f"accelerator_type:{kind}": 1.0}


def test_auto_is_every_kind_of_card_with_a_profile() -> None:
    cluster: Any = Cluster(("a", 8, "L20"), ("b", 8, "RTX"), ("c", 8, "A10"), ("d", 8, None))
    assert profiles_of("auto", live_nodes(cluster)) == ["a10", "l20"]
    assert profiles_of("l20, cpu", live_nodes(cluster)) == ["l20", "cpu"]
    bare: Any = Cluster(("d", 8, None))
    assert profiles_of("auto", live_nodes(bare)) == ["cpu"]


def test_a_run_stays_on_its_machine_and_goes_to_another_when_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("srbench.executors.nodes.PATIENCE_S", 0.0)
    monkeypatch.setattr("srbench.executors.nodes._PAUSE_S", 0.01)
    cluster: Any = Cluster(("a", 8, "L20"), ("b", 8, "L20"), ("c", 8, "A10"))
    nodes, notes = Nodes(cluster, "l20"), []
    first = nodes.choose(notes.append, lambda: False)
    assert first is not None
    assert first.id == "a"
    assert nodes.choose(notes.append, lambda: False) == first
    nodes.lost(first)
    second = nodes.choose(notes.append, lambda: False)
    assert second is not None
    assert second.id == "b"
    nodes.refused(second, "other driver")
    assert nodes.choose(notes.append, lambda: True) is None
    with pytest.raises(InfrastructureError, match="no machine came"):
        nodes.choose(notes.append, lambda: False)
    assert notes == []
    stranger = Nodes(cluster, "l20")
    for node in (first, second):
        stranger.refused(node, "other weights")
    with pytest.raises(NotComparableError, match="a: other weights; b: other weights"):
        stranger.choose(notes.append, lambda: False)


def started(machines: Machines, *arguments: object) -> Any:
    """A driver in a process of its own that can be interrupted."""
    common = ("simulate", "--executor", "ray", "--address", machines.address)
    return machines.folder.started(*common, *arguments)


def results(machines: Machines) -> Path:
    return machines.folder.folder / "results"


def stored(machines: Machines, cells: int) -> bool:
    runs = list_runs(results(machines))
    return bool(runs) and runs[-1].read_text().count('"kind": "cell"') >= cells


@pytest.mark.full
def test_a_driver_that_is_interrupted_or_killed_goes_on(machines: Machines) -> None:
    plan = ("--gpu", "a10", "--cases", CASES[0], "--blocks", 5, "--pairs", 2, "--pace", 150)
    with started(machines, *plan) as driver:
        assert wait_until(lambda: stored(machines, 2))
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == ExitCode.INTERRUPTED
        assert "--resume" in driver.stderr.read()
    begun = read_run(newest_run(results(machines)))
    assert begun.finished_blocks
    assert not begun.ended
    with started(machines, "--resume", "--pace", 150) as driver:
        assert wait_until(lambda: stored(machines, len(begun.cells) + 2))
        driver.kill()
    assert wait_until(lambda: not machines.folder.workers(), 30)
    with started(machines, "--resume") as driver:
        assert driver.wait(90) == ExitCode.OK, driver.stderr.read()
    run = read_run(newest_run(results(machines)))
    assert run.ended
    assert run.finished_blocks == set(range(5))
    assert len(list_runs(results(machines))) == 1
    assert len({(c.block, c.case, c.pipeline) for c in run.cells}) == len(run.cells) == 10


@pytest.mark.full
def test_ctrl_c_twice_ends_everything_at_once(machines: Machines) -> None:
    plan = ("--gpu", "h100", "--cases", CASES[0], "--blocks", 2, "--pairs", 3, "--pace", 3000)
    with started(machines, *plan, "--out", "twice") as driver:
        assert wait_until(lambda: bool(machines.folder.workers()))
        time.sleep(0.5)
        driver.send_signal(signal.SIGINT)
        time.sleep(0.5)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(30) == ExitCode.INTERRUPTED
    assert wait_until(lambda: not machines.folder.workers(), 20)


@pytest.mark.full
def test_a_real_measurement_on_the_cores_of_a_machine(machines: Machines, tmp_path: Path) -> None:
    """The networks of `mini` over Ray: the same records as at home, from the same code."""
    command = ["run", "--executor", "ray", "--address", machines.address, "--gpu", "cpu"]
    more = ["--cases", "32x32x4", "--blocks", "2", "--pairs", "1", "--json"]
    done = subprocess.run(
        [os.sys.executable, "-m", "srbench", *command, *more],
        cwd=tmp_path,
        env=machines.folder.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    run = read_run(newest_run(tmp_path / "results"))
    assert run.ended
    assert {cell.outcome for cell in run.cells} == {"ok"}
    assert json.loads(done.stdout)["head"]["executor"] == "ray"
    assert run.head.fingerprint["cpu_threads"] == 1
    assert {record.reference for record in run.fidelity} >= {"s3diff-baseline", "repeat"}
