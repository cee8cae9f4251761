"""The protocols that measure a device: screen and certify, statistics, memory, energy, environment."""
