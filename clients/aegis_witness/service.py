"""WitnessService on the wire."""

from __future__ import annotations

from aegis.errors import PermissionDenied
from aegis.serving.doors import Admit, Context, Grant
from aegis.spiffe import Caller
from aegis.v1 import witness_pb2, witness_pb2_grpc
from aegis_witness.heads import Heads


def admit_peers(peers: frozenset[str]) -> Admit:
    """Returns the door's rule: these subjects may call, nobody else (PEER_NOT_ALLOWED)."""

    async def admit(method: str, caller: Caller) -> Grant:
        if caller.subject not in peers:
            raise PermissionDenied(
                "PEER_NOT_ALLOWED", f"{caller.subject} may not call this witness", method=method
            )
        return Grant()

    return admit


class WitnessService(witness_pb2_grpc.WitnessServiceServicer):
    """Wire ↔ values, nothing else."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads

    async def AddCheckpoint(
        self, request: witness_pb2.AddCheckpointRequest, context: Context
    ) -> witness_pb2.AddCheckpointResponse:
        """See witness.proto. Small files on a local disk: nothing to wait for."""
        line = self._heads.add(request.note, request.old_size, list(request.proof))
        return witness_pb2.AddCheckpointResponse(cosignature=line)

    async def GetWitnessedCheckpoint(
        self, request: witness_pb2.GetWitnessedCheckpointRequest, context: Context
    ) -> witness_pb2.GetWitnessedCheckpointResponse:
        """See witness.proto."""
        note = self._heads.newest(request.log_id)
        return witness_pb2.GetWitnessedCheckpointResponse(note=note)
