"""The machine and the process: files, libraries, memory, signals' patience, throttling, forks."""
