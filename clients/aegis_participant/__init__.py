"""A site's side of training: a Flower ClientApp that trains privately."""

import os

# Flower reads these once, when it is imported, and every module of this package imports it after
# us: a hospital's machine does not phone home.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
