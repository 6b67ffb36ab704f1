"""How well a served model does what it was taught, and the pictures that show it; all of it over HTTP."""
