"""Power, clocks, temperatures and throttling; parsers take text and folders, so that tests can feed them."""
