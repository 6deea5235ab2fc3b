#!lua flags=no-writes
-- include: head, record, states, runs, entries, bisect, overlaps
return {states(ARGV[2]), overlaps(ARGV[1])}
