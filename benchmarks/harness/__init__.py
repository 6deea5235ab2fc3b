"""Parts that the benchmarks and the load tests share."""
