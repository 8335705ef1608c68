"""The command line: flags of the verbs and exit codes; the work is in the modules they call."""
