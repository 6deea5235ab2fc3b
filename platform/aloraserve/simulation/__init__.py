"""A fleet in simulated time: the platform's own directory and policies, other routers' too, over a modelled engine."""
