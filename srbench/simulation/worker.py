"""The child process of a simulation: `python -m srbench.simulation.worker SCENARIO`, torch-free."""

from __future__ import annotations

import sys
from typing import NoReturn

from srbench.simulation.bench import SimulatedBench
from srbench.simulation.scenario import Scenario
from srbench.worker import serve


def main() -> NoReturn:
    """Serve the scenario given as JSON."""
    scenario = Scenario.decode(sys.argv[1])
    serve(lambda: SimulatedBench(scenario))


if __name__ == "__main__":
    main()
