#!lua flags=no-writes
-- include: head, record, states, runs, entries, overlaps
return {states(ARGV[2]), overlaps(ARGV[1])}
