"""A page about a checkpoint. `build` makes a model of it, pure and without a browser; `render` draws that. Optional."""
