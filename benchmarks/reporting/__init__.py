"""Results: the record, its files, tables, charts and reports, and the ends of the commands that make them."""
