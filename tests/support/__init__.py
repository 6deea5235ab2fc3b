"""What several tests share: real servers and fleets, small models, fakes where a fault has to be injected."""
