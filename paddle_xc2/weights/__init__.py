"""Between files and a model: loaded, saved, converted, merged."""
