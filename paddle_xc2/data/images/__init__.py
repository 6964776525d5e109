"""Pictures and frames: fetched, read within bounds, cut and scaled to what a model takes."""
