"""Flower's SuperLink, embedded: for sites that already run Flower's SuperNode.

A stock SuperLink serves three APIs on one port, and whoever has its CA file may list, stop and
steal runs. Here its application is served twice: to this machine with a secret for every API, and
to the sites by mutual TLS with the Fleet routes only, where the certificate says whose node key may
be used.
"""

from __future__ import annotations

import os

# Flower reads these once, when it is imported, and every module of this package imports it after
# us. No telemetry, no look for updates, and nothing is installed because an application asks.
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
os.environ.update(SWITCHES)
