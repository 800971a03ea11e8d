"""Plans as files: a RunPlan in protobuf JSON, written as JSON or as YAML."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from aegis.cli.session import fail
from aegis.v1 import training_pb2

# Fields that mean something else when they are there at all.
_UNSET = """\
# Not set here:
#   grace: 5s                 once min_participants have answered, how much longer to wait
#   early_stop: {patience: 5, min_gain: 0.001}
#   review_hold: 3600s        how long a round waits for a person where updates are HELD
#   attacks: [{participant: site-5, kind: ATTACK_KIND_SIGN_FLIP, scale: 10}]
#   app: {name: NAME, sha256: BASE64}
"""


def read_plan(file: Path) -> training_pb2.RunPlan:
    """Returns the plan in a file; ends the command when there is none in it."""
    import yaml

    try:
        # JSON is YAML.
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", "name a file: --plan FILE")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"{file} is no YAML: {' '.join(str(error).split())}", "see `aegis train plan`")
    if not isinstance(content, dict):
        fail(f"{file} holds no plan", "start from what `aegis train plan` prints")
    try:
        return ParseDict(content, training_pb2.RunPlan())
    except ParseError as error:
        fail(f"{file} is no plan: {error}", "start from what `aegis train plan` prints")


def written(plan: training_pb2.RunPlan) -> str:
    """Returns a plan as YAML with all its fields, those that are zero, too."""
    import yaml

    fields = MessageToDict(
        plan, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return yaml.safe_dump(fields, sort_keys=False) + _UNSET
