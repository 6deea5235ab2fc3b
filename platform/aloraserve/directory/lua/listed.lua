#!lua flags=no-writes
return redis.call('HRANDFIELD', KEYS[1], ARGV[1], 'WITHVALUES')
