"""The embedded model after FLUX Kontext: what it is taught, its networks, their training and evaluation."""
