"""`python -m aegis_server.training.superlink`: the SuperLink for sites that run Flower."""

from __future__ import annotations

from aegis_server.training.superlink.program import main

raise SystemExit(main())
