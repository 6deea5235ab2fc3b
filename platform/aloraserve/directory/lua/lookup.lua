#!lua flags=no-writes
-- include: head, runs, entries, bisect, overlaps
return overlaps(ARGV[1], ARGV[2])
