"""A model of one vLLM engine: calibration, block cache, adapter slots and scheduler, without a clock of its own."""
