"""Examples to run and to copy from. A package, so that the demo's parts are found before another one's `examples`."""
