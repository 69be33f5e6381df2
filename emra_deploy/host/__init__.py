"""Services of the machine and the process: files, libraries, memory, slow steps, throttling, forks."""
