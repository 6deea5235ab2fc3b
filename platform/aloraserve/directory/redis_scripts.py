"""The scripts of :mod:`aloraserve.directory.redis` and what they keep: each is atomic and one round trip.

Times are the server's own, in milliseconds. There are two kinds of prefix. Under the fleet's lie:

==================  ========  ===========================================================================
key                 type      content
==================  ========  ===========================================================================
``space``           string    JSON of the fleet's key space, living as long as somebody joins
``replicas``        hash      replica -> lease expiry (13 digits), its length (9), version (16), length of the
                              incarnation (3), incarnation, state JSON
``version``         string    counts publications, from the time it was first needed on
``versions``        zset      replica, by the version of its record
``known``           zset      replica, by when it last published
``t:<replica>``     hash      claim id -> "<expiry> <tokens>", dropped when the replica settles it
``open``            set       replicas that have such claims
``rl``              string    set while the fleet's share of reclaiming is used up
``epoch``           string    random; lost when the data is
==================  ========  ===========================================================================

and under the prefix of each shard of chains:

==================  ========  ===========================================================================
``b:<anchor>``      hash      a run: first 8 bytes of a block's key -> its entries
``o:<holder>``      set       anchors of the runs that have entries of the holder
``owners``          zset      holder, by when it last applied or claimed
``rc``              string    where the reclaiming of a run stopped
``epoch``           string    as above
==================  ========  ===========================================================================

A holder is 8 bytes that stand for a replica and an incarnation. An entry is a holder and one byte: the tier of its
holding; 255 is a claim's mark and goes on with its expiry (6 bytes) and 4 bytes that stand for the claim. A holder has
one entry a block.
"""

from __future__ import annotations

from aloraserve.redis.scripts import Script

JOIN = Script.read(__package__, "join")
PUBLISH = Script.read(__package__, "publish")
RETIRE = Script.read(__package__, "retire")
STATES = Script.read(__package__, "states")
KEPT = Script.read(__package__, "kept")
CLAIM_TOKENS = Script.read(__package__, "claim_tokens")
WITHDRAW_TOKENS = Script.read(__package__, "withdraw_tokens")
APPLY = Script.read(__package__, "apply")
LOOKUP = Script.read(__package__, "lookup")
LOOKUP_RUNS = Script.read(__package__, "lookup_runs")
LOOKUP_WITH_STATES = Script.read(__package__, "lookup_with_states")
CLAIM_BLOCKS = Script.read(__package__, "claim_blocks")
WITHDRAW_BLOCKS = Script.read(__package__, "withdraw_blocks")
RECLAIM = Script.read(__package__, "reclaim")
EPOCH = Script.read(__package__, "epoch")
