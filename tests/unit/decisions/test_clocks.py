"""What a server's times say about ours."""

from __future__ import annotations

import subprocess
import sys

from aegis.decisions.clocks import Backoff, Bridge


def test_message_is_as_old_as_the_servers_clock_says():
    """Ten seconds passed there since the first message: it was made ten seconds after we asked."""
    bridge = Bridge(opened_at=100.0)
    assert bridge.made_at(5000.0, received_at=100.5) == 100.0
    assert bridge.made_at(5010.0, received_at=110.5) == 110.0


def test_message_that_was_under_way_for_long_is_not_new():
    """It came in at 200, and was made when we had 110."""
    bridge = Bridge(opened_at=100.0)
    bridge.made_at(5000.0, received_at=100.5)
    assert bridge.made_at(5010.0, received_at=200.0) == 110.0


def test_message_is_never_from_the_future():
    """A clock that is set forward there makes nothing fresher than the moment it came in."""
    bridge = Bridge(opened_at=100.0)
    bridge.made_at(5000.0, received_at=100.5)
    assert bridge.made_at(9000.0, received_at=101.0) == 101.0


def test_time_there_is_told_by_the_quickest_message():
    """What took long says less about their clock."""
    bridge = Bridge(opened_at=100.0)
    bridge.made_at(5000.0, received_at=103.0)
    bridge.made_at(5010.0, received_at=110.1)
    bridge.made_at(5020.0, received_at=125.0)
    assert abs(bridge.offset - 4899.9) < 1e-6


def test_pauses_grow_to_a_bound_and_differ():
    """At least half of what they may be; from the start again once it went well."""
    backoff = Backoff(0.2, 5.0)
    pauses = [backoff.next() for _ in range(200)]
    assert 0.1 <= pauses[0] <= 0.2
    assert all(2.5 <= pause <= 5.0 for pause in pauses[10:])
    assert len(set(pauses[10:])) > 100
    backoff.reset()
    assert backoff.next() <= 0.2


def test_other_clients_do_not_load_the_engine():
    """A program that only calls the server needs neither the engine nor Casbin."""
    code = (
        "import sys, aegis.bearer, aegis.channel, aegis.errors, aegis.following\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'aegis_policy', 'casbin'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
