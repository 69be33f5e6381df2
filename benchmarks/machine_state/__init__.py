"""Power, clocks, temperatures and throttling; parsers take text and folders, so that they can be tested."""
