#!lua flags=no-writes
-- include: head, runs, entries, bisect, overlaps
return overlapping_runs(ARGV[1])
