"""The simulator: patients, what a camera sees of them, and what a reader would box."""
