"""Rules of the preflight, by topic. Each is a function of a target and the model's dimensions."""
