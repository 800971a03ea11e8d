"""Attacks, a file each. A new one is a file, and a line here."""

from __future__ import annotations

from aegis_server.review.lab.attacking import Attack
from aegis_server.review.lab.attacks.alie import ALittleIsEnough
from aegis_server.review.lab.attacks.backdoor import Backdoor
from aegis_server.review.lab.attacks.free_rider import FreeRider
from aegis_server.review.lab.attacks.gaussian import Gaussian
from aegis_server.review.lab.attacks.ipm import InnerProduct
from aegis_server.review.lab.attacks.label_flip import LabelFlip
from aegis_server.review.lab.attacks.min_max import MinMax
from aegis_server.review.lab.attacks.mixture import Mixture
from aegis_server.review.lab.attacks.scaling import Scaling
from aegis_server.review.lab.attacks.sign_flip import SignFlip
from aegis_server.review.lab.attacks.silent import Silent

ALL: tuple[Attack, ...] = (
    LabelFlip(),
    SignFlip(),
    SignFlip("sign-flip-4", factor=4.0),
    Gaussian(),
    Scaling(),
    Backdoor(),
    Backdoor("stealth-backdoor", boosted=False),
    ALittleIsEnough(),
    InnerProduct(),
    InnerProduct("ipm-5", factor=5.0),
    MinMax(),
    FreeRider(),
    Silent(),
    Mixture(),
)
# Without a promise of noise there is none to break.
PRIVATE_ONLY = frozenset({"silent"})
BY_NAME = {attack.name: attack for attack in ALL}
