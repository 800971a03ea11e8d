"""A request has one spelling: what could mean two things is refused before it is decided."""

from __future__ import annotations

from aegis_policy.faults import RequestError
from aegis_policy.names import ACTION, DOMAIN, SUBJECT
from aegis_policy.paths import fault_of_resource, is_plain


def check_request(subject: str, domain: str, resource: str, action: str) -> None:
    """Raises `RequestError` for a part that is not canonical, and so could mean two things."""
    check_subject(subject, domain)
    check_action(action)
    segments_of(resource)


def check_subject(subject: str, domain: str) -> None:
    """Raises `RequestError` for a name that is no subject's, or no tenant's."""
    if SUBJECT.fullmatch(subject) is None:
        raise RequestError("subject", "expected kind:name")
    if subject.startswith("role:"):
        # To Casbin users and roles are the same kind of name: asking as a role is having it.
        raise RequestError("subject", "a role cannot ask, only its members")
    if DOMAIN.fullmatch(domain) is None:
        raise RequestError("domain", "expected lower-case letters, digits and dashes")


def check_action(action: str) -> None:
    """Raises `RequestError` for what is no verb."""
    if ACTION.fullmatch(action) is None:
        raise RequestError("action", 'expected a verb such as "read"')


def segments_of(resource: str) -> list[str]:
    """Returns the segments of a canonical path; raises `RequestError` for any other text."""
    if not is_plain(resource) and (fault := fault_of_resource(resource)):
        raise RequestError("resource", fault)
    return resource[1:].split("/")
