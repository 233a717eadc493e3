"""The simulated devices: Jetson modes and what they compute in a second."""
