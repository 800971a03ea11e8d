"""From accepted updates to the next model, without those that teach it a backdoor.

The review judges an update by its round. A backdoor that is not boosted is a little in every round,
so what makes the next model remembers the run:

* an update that is longer than twice the median of those accepted counts with that length only
  (`aggregation.lengths`);
* what each participant's updates did to triggers so far (`pushes`): noise averages out, and
  attackers persist. A trigger that sets the same group apart in two rounds is believed if the model
  without that group obeys it much less. Who pushes a believed trigger has no part in the model;
* what each participant has given to the model so far (`giving`), while it is a weighted mean of
  updates, with momentum or without. Whoever is taken out takes that along, and the model is what
  the others would have made of it. So to find out late costs nothing;
* what a search for triggers finds in the models (`triggers`). A candidate that is suspicious still
  is marked; and when the one before was as well, nothing can be taken out of it and somebody was
  excluded, the run goes back to the last model that was not.

Everything is plain values: the same calls give the same models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from aegis_learning.aggregation.lengths import factors
from aegis_learning.models import Family
from aegis_learning.parameters import Parameters
from aegis_learning.rows import Split
from aegis_server.review import triggers
from aegis_server.review.candidates import Candidates, Combine, searched, told
from aegis_server.review.giving import Gifts
from aegis_server.review.history import History as History
from aegis_server.review.history import Published as Published
from aegis_server.review.history import Scan
from aegis_server.review.population import Population


def publish(
    population: Population,
    accepted: Sequence[int],
    combine: Combine,
    history: History,
    *,
    least: int = 1,
) -> Published:
    """Returns the next model's update; `combine` makes it of a round's updates at some places.

    The round it is given is this one with long updates shortened. `combine` is asked again for
    other places when somebody may have to be taken out; at least `least` updates stay. Raises what
    it raises.
    """
    scales = factors(population.norms, accepted)
    counted = population.scaled(scales)
    shortened = tuple(i for i in accepted if scales[i] < 1)
    if not len(population.golden):
        plain = combine(counted, accepted)
        return Published(
            plain.update,
            tuple(accepted),
            plain.shares,
            (),
            history,
            plain.state,
            shortened=shortened,
        )
    history = _begun(history, population.family, population.golden)
    history = replace(history, gifts=history.gifts or Gifts.none(population, history.momentum))
    round_ = Candidates(population, counted, tuple(accepted), combine, least, history)
    made = round_.judged(round_.made(round_.pushers(history.believed)))
    scan = round_.scanned(made)
    if scan.suspicious:
        found = scan.found.trigger
        better = round_.without(made, found, round_.pushers([found]), math.inf)
        if better is not None:
            made, scan = better, round_.scanned(better)
    if scan.suspicious and history.suspicious and made.excluded and not made.gifts.known:
        made = round_.back(made)
        scan = round_.scanned(made)
    return replace(round_.published(made, scan), shortened=shortened)


def looked(
    family: Family, model: Parameters, golden: Split, history: History
) -> tuple[History, Scan]:
    """Returns what the search finds in a round's model that was made another way."""
    history = _begun(history, family, golden)
    scan = searched(family, model, golden, history)
    return replace(history, suspicious=scan.suspicious), replace(scan, text=told(scan))


def _begun(history: History, family: Family, golden: Split) -> History:
    natural = history.natural or triggers.natural(family, golden)
    return replace(history, rounds=history.rounds + 1, natural=natural)
