#!lua flags=no-writes
-- include: head, record, states
return states(ARGV[1])
