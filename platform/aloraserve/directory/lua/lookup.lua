#!lua flags=no-writes
-- include: head, runs, entries, overlaps
return overlaps(ARGV[1])
