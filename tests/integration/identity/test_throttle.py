"""Buckets on a real Valkey, and the throttle over them: guessing is slow, owners get in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.auditing import Clock

from aegis.errors import AegisError, ResourceExhausted, Unavailable
from aegis_server.identity.buckets import Bucket, Buckets, LocalBuckets, RedisBuckets
from aegis_server.identity.throttle import AttemptThrottle, network_of

SMALL = Bucket("small", rate=2, burst=3)
OWNER, STRANGER = "192.0.2.7", "198.51.100.9"


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[RedisBuckets]:
    buckets = RedisBuckets(redis_url)
    yield buckets
    await buckets.close()


@pytest.fixture(params=["local", "redis"])
def buckets(request: pytest.FixtureRequest, shared: RedisBuckets) -> Buckets:
    return LocalBuckets() if request.param == "local" else shared


def throttle_over(buckets: Buckets, key: bytes = bytes(32)) -> AttemptThrottle:
    return AttemptThrottle(buckets, key=key, clock=Clock())


async def take(buckets: Buckets, of: str, now: float | None = None) -> float:
    """Takes one token; returns 0, or the seconds until there is one."""
    return (await buckets.lease(SMALL, of, 1, now=now))[1]


async def refusal(throttle: AttemptThrottle, *attempt: str) -> AegisError | None:
    try:
        await throttle.before("login", *attempt)
    except ResourceExhausted as error:
        return error
    return None


async def test_so_many_at_once_then_so_many_a_second(buckets: Buckets):
    """The bucket fills again with time, up to its burst and no further."""
    waits = [await take(buckets, "ann", now=100.0) for _ in range(4)]
    assert waits == [0, 0, 0, 0.5]
    assert await take(buckets, "ann", now=100.5) == 0
    assert await take(buckets, "bob", now=100.5) == 0
    assert [await take(buckets, "ann", now=1000.0) for _ in range(4)][-1] > 0
    await buckets.fill(SMALL, "ann")
    assert await take(buckets, "ann", now=1000.0) == 0


async def test_clock_that_steps_back_gives_nothing_away(buckets: Buckets):
    """Time only ever adds tokens."""
    for _ in range(3):
        assert await take(buckets, "ann", now=100.0) == 0
    assert await take(buckets, "ann", now=50.0) > 0
    assert await take(buckets, "ann", now=100.0) > 0


async def test_lease_gives_what_there_is_and_no_more(buckets: Buckets):
    """Several tokens in one trip, never more than the bucket holds."""
    assert await buckets.lease(SMALL, "ann", 2, now=100.0) == (2, 0)
    assert await buckets.lease(SMALL, "ann", 2, now=100.0) == (1, 0)
    assert await buckets.lease(SMALL, "ann", 2, now=100.0) == (0, 0.5)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=15), st.integers())
async def test_script_and_python_count_alike(
    shared: RedisBuckets, pauses: list[float], name: int
) -> None:
    """Whatever the rhythm: both let pass or both do not, and never more than burst and rate."""
    local, now, passed = LocalBuckets(), 1000.0, 0
    await shared.fill(SMALL, str(name))
    for pause in pauses:
        now += pause
        here = await take(local, str(name), now=now)
        there = await take(shared, str(name), now=now)
        assert here == pytest.approx(there, abs=1e-4)
        passed += here == 0
    assert passed <= SMALL.burst + SMALL.rate * sum(pauses) + 1e-6


async def test_two_servers_share_a_bucket(redis_url: str, shared: RedisBuckets):
    """Asking the other replica does not help."""
    other = RedisBuckets(redis_url)
    waits = [await take(each, "ann") for each in (shared, other, shared, other)]
    await other.close()
    assert [wait > 0 for wait in waits] == [False, False, False, True]


async def test_guessing_is_refused_with_the_time_to_wait(buckets: Buckets):
    """The refusal says which bucket is empty and when to come again."""
    throttle = throttle_over(buckets)
    seen = [await refusal(throttle, "ann", STRANGER, "") for _ in range(9)]
    assert seen[:8] == [None] * 8
    last = seen[8]
    assert last is not None
    assert (last.reason, last.metadata["limit"]) == ("RATE_LIMITED", "account-and-network")
    assert last.retry_seconds is not None
    assert 50 <= last.retry_seconds <= 60


async def test_stranger_cannot_lock_the_owner_out(buckets: Buckets):
    """Neither from one network nor from a thousand: the owner's device has a bucket of its own."""
    throttle = throttle_over(buckets)
    await throttle.before("login", "ann", OWNER, "")
    device = await throttle.succeeded("login", "ann", OWNER, "")
    refused = [await refusal(throttle, "ann", f"198.51.100.{n}", "") for n in range(100)]
    assert any(error is not None and error.metadata["limit"] == "account" for error in refused)
    assert await refusal(throttle, "ann", OWNER, device) is None
    assert await refusal(throttle, "ann", STRANGER, device) is None


async def test_guesses_at_many_accounts_from_one_network_are_slowed(buckets: Buckets):
    """One password for everybody is a guess, too."""
    throttle = throttle_over(buckets)
    refused = [await refusal(throttle, f"account-{n}", STRANGER, "") for n in range(70)]
    assert [error.metadata["limit"] for error in refused if error is not None] == ["network"] * 10


async def test_right_password_gives_the_attempts_back(buckets: Buckets):
    """Who mistypes seven times and then knows it starts anew."""
    throttle = throttle_over(buckets)
    for _ in range(3):
        for _ in range(8):
            assert await refusal(throttle, "ann", OWNER, "") is None
        await throttle.succeeded("login", "ann", OWNER, "")


@pytest.mark.parametrize("kind", ["garbage", "other account", "other key", "altered", "empty"])
async def test_device_token_of_somebody_else_buys_nothing(kind: str):
    """It is tied to the account it was given for, and to our key."""
    throttle = throttle_over(LocalBuckets())
    good = await throttle.succeeded("login", "ann", OWNER, "")
    token = {
        "garbage": "\udcff%%",
        "other account": await throttle.succeeded("login", "bob", OWNER, ""),
        "other key": await throttle_over(LocalBuckets(), bytes(31) + b"1").succeeded(
            "login", "ann", OWNER, ""
        ),
        "altered": ("A" if good[0] != "A" else "B") + good[1:],
        "empty": "",
    }[kind]
    for _ in range(8):
        assert await refusal(throttle, "ann", STRANGER, token) is None
    error = await refusal(throttle, "ann", STRANGER, token)
    assert error is not None
    assert error.metadata["limit"] == "account-and-network"


async def test_device_is_forgotten_after_half_a_year():
    """Then it is a stranger like all others."""
    clock = Clock()
    throttle = AttemptThrottle(LocalBuckets(), key=bytes(32), clock=clock)
    device = await throttle.succeeded("login", "ann", OWNER, "")
    clock.move(days=181)
    seen = [await refusal(throttle, "ann", STRANGER, device) for _ in range(9)]
    assert seen[-1] is not None
    assert seen[-1].metadata["limit"] == "account-and-network"


async def test_attempts_that_cannot_be_counted_are_not_taken():
    """Without Redis nobody guesses unseen."""
    gone = RedisBuckets("redis://127.0.0.1:1")
    throttle = throttle_over(gone)
    with pytest.raises(Unavailable) as refused:
        await throttle.before("login", "ann", OWNER, "")
    assert refused.value.reason == "LIMITER_UNAVAILABLE"
    await gone.close()


async def test_right_attempt_counts_although_redis_is_gone_by_then():
    """What was done stays done; only the tokens are not given back."""
    gone = RedisBuckets("redis://127.0.0.1:1")
    assert await throttle_over(gone).succeeded("login", "ann", OWNER, "")
    await gone.close()


async def test_redis_that_is_gone_is_not_asked_by_every_call():
    """The first call waits for it, those of the next second do not."""
    gone = RedisBuckets("redis://127.0.0.1:1")
    causes = []
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await gone.lease(SMALL, "ann", 1)
        causes.append(refused.value.__cause__ is None)
        assert refused.value.retry_seconds == 1
    assert causes == [False, True]
    await gone.close()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unix", "unix"),
    ],
)
def test_network_is_what_one_customer_has(address: str, network: str):
    """A whole /64 of IPv6 is as easily had as one address of IPv4."""
    assert network_of(address) == network
