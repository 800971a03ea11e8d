"""The program behind `aegis train simulate`.

Standard input holds a plan as protobuf JSON; standard output gets one JSON document a line: each
round as `{"round": …}`, then the whole report as `{"report": …}`, or `{"error": …, "fields": …}`.
Exit status: 0, 1 when the run failed, 2 when there is nothing to run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings

from google.protobuf.json_format import MessageToDict, Parse, ParseError

from aegis.errors import AegisError, InvalidArgument
from aegis.v1 import training_pb2


def main() -> int:
    """Reads the command line and standard input."""
    parser = argparse.ArgumentParser(prog="aegis-simulation")
    parser.add_argument("--workers", type=int, default=2, help="sites that train at once")
    options = parser.parse_args()
    try:
        plan = Parse(sys.stdin.read(), training_pb2.RunPlan())
    except ParseError as error:
        _say({"error": f"standard input holds no plan: {error}"})
        return 2
    if not plan.simulation:
        _say({"error": "only a plan with simulation can be simulated"})
        return 2
    try:
        return _simulated(plan, options.workers)
    except InvalidArgument as error:
        _say({"error": error.message, "fields": [v.field for v in error.violations]})
    except AegisError as error:
        _say({"error": error.message})
    return 2


def _simulated(plan: training_pb2.RunPlan, workers: int) -> int:
    import torch

    from aegis_server.training.simulation.runner import simulate

    logging.disable(logging.WARNING)  # Flower has one for every round
    warnings.filterwarnings("ignore", message="Full backward hook")  # rows need no gradient
    # Models are small: more threads of one site would only wait for each other.
    torch.set_num_threads(1)
    finished = simulate(plan, workers=workers, told=lambda each: _say({"round": each.to_json()}))
    report = {
        "plan": MessageToDict(plan, preserving_proto_field_name=True),
        "workers": workers,
        **finished.to_json(),
    }
    _say({"report": report})
    return 1 if finished.failure else 0


def _say(document: dict[str, object]) -> None:
    print(json.dumps(document), flush=True)  # noqa: T201  # what we are for


if __name__ == "__main__":
    sys.exit(main())
