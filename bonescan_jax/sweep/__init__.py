"""Many runs of one question: a study, its trials, and the workers that share them."""
