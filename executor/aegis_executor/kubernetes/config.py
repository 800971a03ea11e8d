"""Where the cluster is and how the executor proves who it is there.

A kubeconfig, or in a pod the service account that the kubelet mounts. Either way the cluster must
prove itself with a certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from pathlib import Path

import httpx2
from lightkube import KubeConfig
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, User

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def configuration(
    kubeconfig: Path | None, api_server: str, *, account: Path = SERVICE_ACCOUNT
) -> SingleConfig:
    """Reads the kubeconfig; without one, takes the service account for `api_server` (a URL).

    Raises `ValueError` for what names no user or does not insist on a certificate.
    """
    if kubeconfig is None:
        cluster = Cluster(server=api_server, certificate_auth=str(account / "ca.crt"))
        user = User(token_file=str(account / "token"))
        return _checked(KubeConfig.from_one(cluster=cluster, user=user).get(), account)
    return _checked(KubeConfig.from_file(kubeconfig).get(), kubeconfig)


def _checked(config: SingleConfig | None, origin: Path) -> SingleConfig:
    if config is None or config.user is None:
        raise ValueError(f"{origin} names no user")
    if not config.cluster.server.startswith("https://") or config.cluster.insecure:
        raise ValueError(f"{origin}: the cluster must prove itself with a certificate")
    return config


def tls_of(config: SingleConfig) -> ssl.SSLContext:
    """Returns the context that checks the cluster, with the user's certificate if it has one."""
    if config.user is None:
        raise ValueError("no user")
    return verify_cluster(config.cluster, config.user, config.abs_file, trust_env=False)


def auth_of(config: SingleConfig) -> httpx2.Auth | None:
    """Returns what puts the user's token on a request."""
    if config.user is not None and config.user.token_file is not None:
        return _TokenFile(Path(config.abs_file(config.user.token_file)))
    return user_auth(config.user)


class _TokenFile(httpx2.Auth):
    """A token that is replaced while we run: read for every request, it is a few hundred bytes.

    Reading it again only after a 401 would go on with a token that still passes but that the API
    server already counts as stale.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        """Adds the header; a file that is gone sends nothing."""
        try:
            token = self._path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise httpx2.ConnectError(f"{self._path} holds no token", request=request) from error
        request.headers["Authorization"] = f"Bearer {token}"
        yield request
