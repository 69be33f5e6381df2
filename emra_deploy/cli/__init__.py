"""The command line: one file per verb, nothing heavy imported before the verb is known."""
