"""Faults for the batcher, to be put in one at a time: the tests beside this file must notice each.

Run them with `pytest tests/unit/batching/test_mutations.py`. A change of the batcher that makes a
fault's old text disappear must mend the fault here; the test says which.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """A fault: in this module of `headrace.batching`, the old text becomes the new one."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = [
    # The queue
    Mutation(
        "one item too many is admitted",
        "queue",
        "return self.count + count <= self.max_items and",
        "return self.count + count <= self.max_items + 1 and",
    ),
    Mutation(
        "bytes of a removed item are never given back",
        "queue",
        "        self.size_bytes -= item.size_bytes\n",
        "",
    ),
    Mutation(
        "priority is reversed",
        "queue",
        "item.rank = item.arrived - item.priority",
        "item.rank = item.arrived + item.priority",
    ),
    Mutation(
        "fairness is reset by each admission",
        "queue",
        "        self.count += item.count\n        bisect.insort(self.starts, start)",
        "        self.count = item.count\n        bisect.insort(self.starts, start)",
    ),
    Mutation(
        "a client of whom nothing waits is never forgotten",
        "queue",
        "            del self._clients[client]\n",
        "            pass\n",
    ),
    Mutation(
        "what a client gave up pushes it back",
        "queue",
        "        del self.starts[bisect.bisect_left(self.starts, start)]\n",
        "",
    ),
    Mutation(
        "a client that gave up one item owes nothing for its others",
        "queue",
        "        del self.starts[bisect.bisect_left(self.starts, start)]\n",
        "        self.starts.clear()\n",
    ),
    Mutation(
        "a client's items pass each other when they are quicker",
        "queue",
        "return max(now + (backlog.count + before) * item_s, backlog.last)",
        "return now + (backlog.count + before) * item_s",
    ),
    Mutation(
        "a batch holds one item too many",
        "queue",
        "if taken and (count > max_count or",
        "if taken and (count > max_count + 1 or",
    ),
    Mutation(
        "cost is not looked at",
        "queue",
        "or cost > max_cost):",
        "or cost > 2 * max_cost):",
    ),
    Mutation(
        "bytes of a batch are not looked at",
        "queue",
        "bisect.bisect_right(list(sizes), max_bytes)",
        "bisect.bisect_right(list(sizes), 2 * max_bytes)",
    ),
    Mutation(
        "an item larger than a batch may be is never run",
        "queue",
        "return max(1, bisect",
        "return max(0, bisect",
    ),
    Mutation(
        "bytes do not fill a batch",
        "queue",
        "if max_bytes < math.inf and sum(",
        "if max_cost < 0 and sum(",
    ),
    Mutation(
        "a batch that holds all bytes that it may waits for more",
        "queue",
        "for item in self.items) >= max_bytes:",
        "for item in self.items) > max_bytes:",
    ),
    Mutation(
        "bytes bound a batch only where nothing came back",
        "queue",
        "return math.inf if self.size_bytes < self.max_bytes else",
        "return math.inf if self.size_bytes != self.max_bytes else",
    ),
    Mutation(
        "all items share one bucket",
        "queue",
        "bucket = self.buckets.get(item.key)",
        "bucket = next(iter(self.buckets.values()), None)",
    ),
    Mutation(
        "who comes later goes first",
        "queue",
        "        if items and item.rank <= items[-1].rank and item < items[-1]:\n"
        "            bisect.insort(items, item)",
        "        if items and items[-1] < item:\n            items.insert(0, item)",
    ),
    Mutation(
        "an item expires a moment late",
        "queue",
        "while heap and heap[0][0] <= now:",
        "while heap and heap[0][0] < now:",
    ),
    Mutation(
        "compaction forgets live deadlines",
        "queue",
        "if entry[1] in self._live]",
        "if entry[1] not in self._live]",
    ),
    # Items
    Mutation(
        "a cancelled item stays in the queue",
        "batcher",
        "        else:\n            self._leave(item)\n        self._end(item, end)",
        "        self._end(item, end)",
    ),
    Mutation(
        "the replica is not told of a cancelled item",
        "batcher",
        "            self._actions.append(Cancel(item.batch, item.index))\n",
        "            pass\n",
    ),
    Mutation(
        "an item is answered twice",
        "batcher",
        "if item.state is not RUNNING or item.batch is not batch:",
        "if item.batch is not batch:",
    ),
    Mutation(
        "an expired item is dispatched",
        "batcher",
        "        self._expire(now)\n        wake =",
        "        wake =",
    ),
    Mutation(
        "an expired item holds its room",
        "batcher",
        "        self._expire(now)\n        item_s = self._policy.item_s / max(replicas, 1)\n"
        "        if self._rules.admission and self",
        "        item_s = self._policy.item_s / max(replicas, 1)\n"
        "        if self._rules.admission and self",
    ),
    Mutation(
        "an expired item holds its room for those that come by themselves",
        "batcher",
        "        self._expire(now)\n        item_s = self._policy.item_s / max(replicas, 1)\n"
        "        if self._rules.admission and items",
        "        item_s = self._policy.item_s / max(replicas, 1)\n"
        "        if self._rules.admission and items",
    ),
    Mutation(
        "who comes by itself waits for a replica that is not expected",
        "batcher",
        "late = [item for item in items if self._is_too_late(item)]",
        "late = [item for item in items if False]",
    ),
    Mutation(
        "who comes by itself never expires",
        "batcher",
        "        self._deadlines.add_all(admitted)\n",
        "",
    ),
    Mutation(
        "an answer that nobody waits for is passed on",
        "batcher",
        "            if item.state is RUNNING and item.batch is batch:\n"
        "                item.state = DONE if",
        "            if item.number in live:\n                item.state = DONE if",
    ),
    Mutation(
        "an item without an answer is left behind",
        "batcher",
        "                if item.state is RUNNING:\n                    failure",
        "                if item.state is RUNNING and batch.isolated:\n                    failure",
    ),
    Mutation(
        "a hopeless item takes a place",
        "batcher",
        "if self._policy.was_busy(now):",
        "if False:",
    ),
    Mutation(
        "closing forgets what runs",
        "batcher",
        "            if item.state is QUEUED:\n                self._leave(item)\n"
        "            self._answer(item, FAILED, failure)",
        "            if item.state is QUEUED:\n                self._leave(item)\n"
        "                self._answer(item, FAILED, failure)",
    ),
    # Cutting
    Mutation(
        "the wake instant for a deadline is missing",
        "batcher",
        "self._check_overruns(now), self._deadlines.next())",
        "self._check_overruns(now))",
    ),
    Mutation(
        "the timer of a wait is stale",
        "batcher",
        "return None, min(wake, settled)",
        "return None, wake",
    ),
    Mutation(
        "the second slot takes an underfull batch",
        "batcher",
        "if not is_idle and self._rules.second_slot_needs_full:",
        "if False:",
    ),
    Mutation(
        "a full bucket starves an older underfull one",
        "batcher",
        "> self._policy.batch_s",
        "> 1000 * self._policy.batch_s + 1000",
    ),
    Mutation(
        "the youngest full bucket goes first",
        "batcher",
        "if full is None or bucket.items[0] < full.items[0]:",
        "if full is None or full.items[0] < bucket.items[0]:",
    ),
    Mutation(
        "an idle replica is passed over",
        "fleet",
        "            if not replica.held:\n                return replica\n",
        "            if not replica.held:\n                busy = replica\n",
    ),
    Mutation(
        "the second slot goes where a batch was cut last",
        "fleet",
        "        replica.slots[batch.slot] = None\n        replica.since = now\n",
        "        replica.slots[batch.slot] = None\n",
    ),
    Mutation(
        "settling never ends",
        "policy",
        "        return max(now, self._until)\n",
        "        return max(now + 0.0001, self._until)\n",
    ),
    Mutation(
        "settling does not end when all are back",
        "policy",
        "if self._until is None or self._came >= self._goal:",
        "if self._until is None:",
    ),
    Mutation(
        "settling goes on though it brings nobody",
        "policy",
        "if self._worth < self._rules.settle_worth:",
        "if self._worth < 0:",
    ),
    Mutation(
        "a delay counts from the latest arrival",
        "policy",
        "return min(min(i.arrived",
        "return max(min(i.arrived",
    ),
    # Replicas
    Mutation(
        "a batch is measured from its cut",
        "batcher",
        "self._policy.measured(now - batch.started_at, batch.count)",
        "self._policy.measured(now - batch.cut_at, batch.count)",
    ),
    Mutation(
        "an overrun is told again and again",
        "batcher",
        "                batch.overrun = True\n",
        "",
    ),
    Mutation(
        "a batch that nobody begins on may wait for ever",
        "fleet",
        "            if not is_working:\n",
        "            if False:\n",
    ),
    Mutation(
        "a batch counts from its cut and not from its turn",
        "fleet",
        "        replica.open.remove(batch)\n        replica.turn = now\n",
        "        replica.open.remove(batch)\n",
    ),
    Mutation(
        "a batch that had not begun is suspected",
        "blame",
        "and (batch.started_at is not None if named is None else",
        "and (named is None or",
    ),
    Mutation(
        "a suspect is never convicted",
        "blame",
        "            return True\n        item.suspect = True\n",
        "            return not item.suspect\n        item.suspect = True\n",
    ),
    Mutation(
        "the known guilty item runs again",
        "blame",
        "return item is self._guilty",
        "return False",
    ),
    Mutation(
        "what may not be repeated is repeated",
        "batcher",
        "may_run_again = not has_begun or (self._idempotent and not no_time)",
        "may_run_again = not has_begun or not no_time",
    ),
    Mutation(
        "quarantine is ignored",
        "fleet",
        "replica is kept or replica.suspect is not None:",
        "replica is kept:",
    ),
    Mutation(
        "two suspects run at once",
        "batcher",
        "suspects_wait = bool(self._suspects) and fleet.quarantined is None",
        "suspects_wait = bool(self._suspects)",
    ),
    Mutation(
        "a suspect starves on a busy server",
        "fleet",
        "kept = self._emptiest() if keep_one else None",
        "kept = None",
    ),
    Mutation(
        "late news of a lost batch frees a slot",
        "fleet",
        "            batch.holds_slot = False\n        return replica.open",
        "            pass\n        return replica.open",
    ),
    Mutation(
        "what waits is forgotten when no replica is left",
        "batcher",
        "            self._policy.idle(now)\n        self.expect(now, back_at)",
        "            self._policy.idle(now)",
    ),
    Mutation(
        "who is named is not looked at",
        "blame",
        "named = None if suspects is None else",
        "named = None if not suspects else",
    ),
    Mutation(
        "all are suspects whoever is named",
        "blame",
        "if named is None else item.number in named)",
        "if named is None else batch.started_at is not None)",
    ),
    Mutation(
        "one that was given up is never the guilty one",
        "blame",
        "        if item.state is not DONE\n        and item.state is not FAILED\n",
        "        if item.state is RUNNING\n",
    ),
    Mutation(
        "one that was answered is suspected",
        "blame",
        "        if item.state is not DONE\n        and item.state is not FAILED\n",
        "        if item.state is not FAILED\n",
    ),
    Mutation(
        "each batch is judged by itself",
        "batcher",
        "            self._recover(batch, blame)\n",
        "            self._recover(batch, Blame([batch], guilty, suspects, is_outside))\n",
    ),
    Mutation(
        "an act from outside is not pardoned",
        "blame",
        "if self._pardons and not item.pardoned:",
        "if False:",
    ),
    Mutation(
        "acts from outside are pardoned without end",
        "blame",
        "            item.pardoned = True\n",
        "",
    ),
    Mutation(
        "what an item does itself is pardoned too",
        "blame",
        "if self._pardons and not item.pardoned:",
        "if not item.pardoned:",
    ),
    Mutation(
        "who was pardoned once is never judged again",
        "blame",
        "if self._pardons and not item.pardoned:",
        "if item.pardoned or self._pardons:",
    ),
    Mutation(
        "who is pardoned is a suspect",
        "blame",
        "            item.pardoned = True\n",
        "            item.pardoned = item.suspect = True\n",
    ),
    Mutation(
        "a pardon clears a suspect",
        "blame",
        "            item.pardoned = True\n",
        "            item.pardoned, item.suspect = True, False\n",
    ),
    Mutation(
        "who was alone is but a suspect",
        "blame",
        "if len(self._accused) == 1:",
        "if item.suspect:",
    ),
    Mutation(
        "others are suspected beside the known guilty one",
        "blame",
        "_accused(batches, suspects) if guilty is None else",
        "_accused(batches, suspects) if True else",
    ),
    # Recovery
    Mutation(
        "what has no time to wait waits",
        "batcher",
        "return not self.is_expected or item.deadline < self.back_at",
        "return not self.is_expected",
    ),
    Mutation(
        "nobody waits for a recovery",
        "batcher",
        "return not self.is_expected or item.deadline < self.back_at",
        "return True",
    ),
    Mutation(
        "what waits goes on waiting when nothing is expected",
        "batcher",
        "return not self.is_expected or item.deadline < self.back_at",
        "return item.deadline < self.back_at < NEVER",
    ),
    Mutation(
        "an item whose deadline is that of the recovery is refused",
        "batcher",
        "item.deadline < self.back_at\n",
        "item.deadline <= self.back_at\n",
    ),
    Mutation(
        "what was on the lost replica waits in vain",
        "batcher",
        "no_time = self.is_expected and self._is_too_late(item)",
        "no_time = False",
    ),
    Mutation(
        "what was only at hand is lost with its replica",
        "batcher",
        "may_run_again = not has_begun or (self._idempotent and not no_time)",
        "may_run_again = not no_time and (self._idempotent or not has_begun)",
    ),
    Mutation(
        "a later estimate comes too late for the lost items",
        "batcher",
        "        if not self._fleet.ready_count:\n            self.back_at = back_at\n",
        "",
    ),
    Mutation(
        "the estimate outlives the recovery",
        "batcher",
        "        self._fleet.ready(replica)\n        self.back_at = NEVER\n",
        "        self._fleet.ready(replica)\n",
    ),
    Mutation(
        "an estimate is taken while a replica is ready",
        "batcher",
        "        if self._fleet.ready_count:\n            return\n",
        "        if self._fleet.ready_count:\n            self.back_at = back_at\n"
        "            return\n",
    ),
    Mutation(
        "only the first item of a call is asked whether it can wait",
        "batcher",
        "any(self._is_too_late(item) for item in items)",
        "self._is_too_late(items[0])",
    ),
    Mutation(
        "suspects are forgotten when nothing is expected",
        "batcher",
        "for item in [*self.queue, *self._suspects]:",
        "for item in [*self.queue]:",
    ),
    Mutation(
        "who is refused is told to come back before the recovery",
        "batcher",
        "return max(self.back_at - now, 0.0)",
        "return 0.0",
    ),
    Mutation(
        "what was pushed back by a guess stays so",
        "batcher",
        "                self.queue.rescale(item_s / DEFAULT_ITEM_S)\n",
        "                pass\n",
    ),
    Mutation(
        "a client's next item goes before those that were pushed back anew",
        "queue",
        ".starts.append(self._start_of(item))",
        ".starts.append(item.arrived)",
    ),
    Mutation(
        "what is pushed back anew keeps its place",
        "queue",
        "            bucket.items.sort()\n",
        "",
    ),
    # Who would be late
    Mutation(
        "whoever comes is let wait in vain",
        "admission",
        "        if late_s > 0:\n",
        "        if late_s > 1e9:\n",
    ),
    Mutation(
        "no headroom is left",
        "admission",
        "return HEADROOM * (before_s + batch_s)",
        "return before_s + batch_s",
    ),
    Mutation(
        "one's own batch takes no time",
        "admission",
        "return HEADROOM * (before_s + batch_s)",
        "return HEADROOM * before_s",
    ),
    Mutation(
        "what runs takes no time",
        "admission",
        "(self._begun_s(now) + batches * batch_s)",
        "(batches * batch_s)",
    ),
    Mutation(
        "more replicas are no faster",
        "admission",
        " / self._fleet.ready_count\n",
        "\n",
    ),
    Mutation(
        "a batch that has run for long lends time",
        "admission",
        "left_s += max(batch_s - (now - batch.started_at), 0.0)",
        "left_s += batch_s - (now - batch.started_at)",
    ),
    Mutation(
        "a batch at hand takes no time",
        "admission",
        "                left_s += batch_s\n",
        "                left_s += 0.0\n",
    ),
    Mutation(
        "the last batch before is not waited for",
        "admission",
        "math.floor(ahead / self.batch_items)",
        "max(math.floor(ahead / self.batch_items) - 1, 0)",
    ),
    Mutation(
        "replicas run dry while items are refused",
        "admission",
        "if ahead + last.count <= self._spare * self._fleet.ready_count:",
        "if ahead + last.count <= 0:",
    ),
    Mutation(
        "an idle server refuses",
        "admission",
        "self._policy.batch_s and self._policy.was_busy(now)):",
        "self._policy.batch_s):",
    ),
    Mutation(
        "batches are taken to be full for ever",
        "admission",
        "self.batch_items += _WEIGHT * (count - self.batch_items)",
        "self.batch_items += 0.0",
    ),
    Mutation(
        "any small batch is taken for what a batch holds",
        "batcher",
        "if batch.leaves_others or batch.count >",
        "if batch.count or batch.count >",
    ),
    Mutation(
        "what batches hold is never learned to be more",
        "batcher",
        "if batch.leaves_others or batch.count > self._admission.batch_items:",
        "if batch.leaves_others:",
    ),
    Mutation(
        "a call is judged by its first item",
        "admission",
        "item_s=item_s, before=count - last.count)",
        "item_s=item_s)",
    ),
    Mutation(
        "a call is not pushed back by itself",
        "queue",
        "return now + before * item_s",
        "return now",
    ),
    Mutation(
        "a call behind its client's others is not pushed back by itself",
        "queue",
        "(backlog.count + before) * item_s",
        "backlog.count * item_s",
    ),
    Mutation(
        "a call of which nothing is left is judged",
        "batcher",
        "        if not items:\n            return  # of a call",
        "        if False:\n            return  # of a call",
    ),
    Mutation(
        "a call that never fits is told to come again",
        "admission",
        "            return  # it is refused for that\n",
        "            pass\n",
    ),
    Mutation(
        "priority is not looked at when the wait is estimated",
        "queue",
        "        rank = start - item.priority * self._priority_step_s\n        count",
        "        rank = start\n        count",
    ),
    Mutation(
        "a client's backlog is not looked at when its wait is estimated",
        "queue",
        "            start = self._start(now, self._clients.get(item.client), before, item_s)\n",
        "            pass\n",
    ),
    Mutation(
        "only the first bucket goes before",
        "queue",
        "                count += bucket.count\n",
        "                return bucket.count\n",
    ),
    Mutation(
        "a whole bucket goes before, whatever its ranks",
        "queue",
        "if rank >= waiting[-1].rank:",
        "if waiting:",
    ),
    # Declared keys and costs
    Mutation(
        "a bound belongs to the bucket above it",
        "sizing",
        "bisect.bisect_left(",
        "bisect.bisect_right(",
    ),
    Mutation(
        "buckets replace the payload's own key",
        "sizing",
        "size), key)",
        "size), None)",
    ),
    Mutation(
        "a payload of several items costs as one",
        "sizing",
        "else payload.count)",
        "else 1)",
    ),
]
