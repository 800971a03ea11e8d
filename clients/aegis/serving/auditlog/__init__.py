"""One append-only, tamper-evident log a program, in that program's own schema."""

from aegis.serving.auditlog.log import AuditLog, Entry

__all__ = ["AuditLog", "Entry"]
