"""Maps of rasters of any size: planning, running and resuming a job, and writing what it gives."""
