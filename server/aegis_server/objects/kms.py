"""Data keys of AWS KMS: the key that wraps them never leaves it."""

from __future__ import annotations

from aegis_server.objects.aws import Failure, client, code_of, translated
from aegis_server.objects.keys import DataKey, KeyMissing, WrapDamaged

_DAMAGED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_MISSING = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "InvalidKeyUsageException",
        "KMSInvalidStateException",
        "NotFoundException",
    }
)


class AwsKms:
    """A `Wrapping` by GenerateDataKey and Decrypt, with the object's digest as encryption context.

    `key` is an ARN, or an alias, which may be pointed at another key later: what an earlier one
    wrapped is unwrapped by that.
    """

    def __init__(self, key: str, *, endpoint: str | None = None) -> None:
        self._key = key
        # arn:aws:kms:REGION:ACCOUNT:key/ID
        region = key.split(":")[3] if key.startswith("arn:") and key.count(":") >= 5 else None
        self._client = client("kms", endpoint=endpoint, region=region)

    @property
    def key_id(self) -> str:
        """As it was given."""
        return self._key

    def data_key(self, sha256: bytes) -> DataKey:
        """See `Wrapping`."""
        try:
            answer = self._client.generate_data_key(
                KeyId=self._key, KeySpec="AES_256", EncryptionContext=_context(sha256)
            )
        except Failure as error:
            raise _refusal(error, self._key) from error
        return DataKey(answer["Plaintext"], answer["CiphertextBlob"], answer["KeyId"])

    def unwrap(self, wrapped: bytes, *, key_id: str, sha256: bytes) -> bytes:
        """See `Wrapping`."""
        try:
            answer = self._client.decrypt(
                KeyId=key_id, CiphertextBlob=wrapped, EncryptionContext=_context(sha256)
            )
        except Failure as error:
            raise _refusal(error, key_id) from error
        plain: bytes = answer["Plaintext"]
        return plain


def _context(sha256: bytes) -> dict[str, str]:
    return {"aegis:sha256": sha256.hex()}


def _refusal(error: Exception, key_id: str) -> Exception:
    code = code_of(error)
    if code in _DAMAGED:
        return WrapDamaged(f"key {key_id} does not unwrap this: {code}")
    if code in _MISSING:
        return KeyMissing(f"key {key_id} is not ours to use: {code}")
    return translated(error, "the key service")
