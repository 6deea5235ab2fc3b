"""The scripts of :mod:`aloraserve.directory.redis` and what they keep: each is atomic and one round trip.

Times are the server's own, in milliseconds. There are two kinds of prefix, both with the version of this schema. Under
the fleet's lie:

==================  ========  ===========================================================================
key                 type      content
==================  ========  ===========================================================================
``replicas``        hash      replica -> lease expiry (13 digits), its length (9), version (16), length of the
                              incarnation (3), incarnation, state JSON
``version``         string    counts changes of records and totals, from the time it was first needed on
``versions``        zset      replica, by the version of its record
``known``           zset      replica, by when it last published
``t:<replica>``     hash      its open claims: claim id -> "<expiry> <tokens>"
``totals``          hash      replica -> "<version> <tokens> <claims> <first expiry>" of its open claims
``claimed``         zset      replica, by the version of its totals
``leaving``         hash      replica -> when its mark ends
``claims``          stream    claims and withdrawals: replica, expiry, its totals with it, holder, claim and marks
``c:<block key>``   string    who claimed that block first: claim id, replica, incarnation, entry (MessagePack)
``turn``            string    set while the fleet's share of reclaiming is used up
``epoch``           string    random; lost when the data is
==================  ========  ===========================================================================

and under the prefix of each shard of chains:

==================  ========  ===========================================================================
``b:<anchor>``      hash      a run: first 8 bytes of a block's key -> its entries
``o:<holder>``      hash      its entries: anchor -> up to 64 fields; anchor and field -> nothing, for the others;
                              ``f`` -> the latest fence of its changes
``owners``          zset      holder, by when it last applied
``lost``            hash      holder and anchor -> a cursor: nodes in which lookups met a holder that no record names
``epoch``           string    as above
==================  ========  ===========================================================================

Without a version there are ``space:<application>``, strings under the fleet's prefix: JSON of each application's key
space, which has the schema's version, living as long as somebody joins; and ``space``, that of the first of them.

A holder is 8 bytes that stand for a replica and an incarnation. An entry is a holder and one byte: the tier of its
holding. A holder has one entry a block. A claim's marks are in :mod:`aloraserve.directory.claimed_blocks`.
"""

from __future__ import annotations

from aloraserve.redis.scripts import Script

JOIN = Script.read(__package__, "join")
PUBLISH = Script.read(__package__, "publish")
RETIRE = Script.read(__package__, "retire")
LEAVE = Script.read(__package__, "leave")
CHANGES = Script.read(__package__, "changes")
KEPT = Script.read(__package__, "kept")
CLAIM = Script.read(__package__, "claim")
WITHDRAW = Script.read(__package__, "withdraw")
APPLY = Script.read(__package__, "apply")
LOOKUP = Script.read(__package__, "lookup")
LOOKUP_RUNS = Script.read(__package__, "lookup_runs")
REPORT = Script.read(__package__, "report")
GONE = Script.read(__package__, "gone")
LISTED = Script.read(__package__, "listed")
CLEAN = Script.read(__package__, "clean")
SWEEP = Script.read(__package__, "sweep")
EPOCH = Script.read(__package__, "epoch")
