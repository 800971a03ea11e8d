"""The clusters that the suite asks: the sandbox, and a real one where AEGIS_TEST_KUBECONFIG is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests import targets
from tests.targets import Place, Target


@pytest.fixture(scope="session")
def sandbox_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with targets.sandbox_place(tmp_path_factory.mktemp("sandbox")) as place:
        yield place


@pytest.fixture(scope="session")
def real_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with targets.real_place(tmp_path_factory.mktemp("cluster")) as place:
        yield place


@pytest.fixture(params=targets.TARGETS)
def place(request: pytest.FixtureRequest) -> Place:
    name = "sandbox_place" if request.param == "sandbox" else "real_place"
    found: Place = request.getfixturevalue(name)
    return found


@pytest.fixture
async def target(place: Place) -> AsyncIterator[Target]:
    async with targets.prepared(place) as prepared:
        yield prepared


@pytest.fixture
def account(place: Place, tmp_path: Path) -> Path:
    """A folder as the kubelet mounts it, without a token yet."""
    return targets.account_folder(place, tmp_path)
