"""Scripts that measure accuracy on simulated patients; run by hand, no tests."""
