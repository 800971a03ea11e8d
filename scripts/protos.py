"""Generates the committed stubs, and the image that buf lints.

`buf/validate/validate.proto` is published in no Python or npm package as a
.proto file, but the protovalidate wheel carries its descriptor: protoc and buf
take that instead, so nothing is vendored by hand.

    python scripts/protos.py            writes clients/aegis/**/*_pb2*.py[i]
    python scripts/protos.py --check    fails when the committed stubs differ
    python scripts/protos.py --image F  writes a FileDescriptorSet of our protos
    python scripts/protos.py --baseline writes protos/baseline.binpb: what was released,
                                        and what `buf breaking` holds later protos to
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

import google.rpc
from google.protobuf import (
    descriptor_pb2,
    duration_pb2,
    field_mask_pb2,
    timestamp_pb2,
)
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "clients"
BASELINE = PROTOS / "baseline.binpb"
VALIDATE = "buf/validate/validate.proto"


def write_validate_descriptor(path: Path) -> None:
    """Writes validate.proto and what it imports as a FileDescriptorSet."""
    from protovalidate._gen.buf.validate import validate_pb

    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    path.write_bytes(files.SerializeToString())


def our_protos() -> list[str]:
    """Every .proto of ours, relative to protos/, in a stable order."""
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def run_protoc(scratch: Path, *options: str) -> None:
    """Runs protoc over our protos; raises SystemExit with its status when it fails."""
    validate = scratch / "validate.binpb"
    write_validate_descriptor(validate)
    well_known = resources.files("grpc_tools") / "_proto"
    site_packages = Path(next(iter(google.rpc.__path__))).parent.parent
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"-I{site_packages}"]
    status = protoc.main([*arguments, f"--descriptor_set_in={validate}", *options])
    if status != 0:
        raise SystemExit(status)


def generate(out: Path, scratch: Path) -> None:
    """Writes messages, services and their types below `out`."""
    run_protoc(
        scratch,
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        *our_protos(),
        VALIDATE,
    )
    services = [name for name in our_protos() if "service " in (PROTOS / name).read_text()]
    run_protoc(
        scratch,
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet,only_async:{out}",
        *services,
    )
    for folder in sorted({path.parent for path in out.rglob("*_pb2.py")}):
        while folder != out:
            marker = folder / "__init__.py"
            if folder.parent != out or folder.name == "buf":
                marker.touch()
            folder = folder.parent


def write_image(image: Path, scratch: Path, *options: str) -> None:
    """Writes our protos and everything they import as one FileDescriptorSet."""
    run_protoc(scratch, *options, "--include_imports", "-o", str(image), *our_protos())


def stale(fresh: Path) -> list[str]:
    """Committed stubs that differ from fresh ones, are missing, or should not be there."""
    names = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(OUT)
        for folder in ("aegis", "buf")
        for path in (OUT / folder).rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    return sorted(
        str(name)
        for name in names | committed
        if not (fresh / name).is_file()
        or not (OUT / name).is_file()
        or not filecmp.cmp(fresh / name, OUT / name, shallow=False)
    )


def main() -> int:
    """Generates, checks or writes the image, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only compare with the committed stubs"
    )
    parser.add_argument("--image", type=Path, help="write a FileDescriptorSet for buf")
    parser.add_argument("--baseline", action="store_true", help=f"write {BASELINE.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        if arguments.image:
            write_image(arguments.image, scratch, "--include_source_info")
            return 0
        if arguments.baseline:
            write_image(BASELINE, scratch)
            return 0
        fresh = scratch / "out"
        fresh.mkdir()
        generate(fresh, scratch)
        if not arguments.check:
            shutil.copytree(fresh, OUT, dirs_exist_ok=True)
            return 0
        different = stale(fresh)
        for name in different:
            print(f"stale stub: clients/{name}; run `make protos`", file=sys.stderr)
        return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
